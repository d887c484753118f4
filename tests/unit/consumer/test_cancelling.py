"""A connection can be cancelled at any step."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from fast_channels.layers import (
    register_channel_layer,
)

from .fakes import FakeServer, Layer, QueueLayer, members
from .subject import (
    Impatient,
    Subject,
    assert_released,
)


class Busy(Subject):
    """Waits for its server or its layer in every method."""

    async def connect(self) -> None:
        await self.accept()
        if self.layer is not None:
            await self.join_group("kitchen")
        await super().connect()

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.send("hello")
        if self.layer is not None:
            await self.channel_layer.group_send("kitchen", {"type": "chat.message"})
        await super().receive(text_data, bytes_data)

    async def chat_message(self, message: Mapping[str, Any]) -> None:
        await self.send("hello")
        await super().chat_message(message)

    async def disconnect(self, code: int) -> None:
        await super().disconnect(code)
        await asyncio.sleep(0)


async def cancel_after(steps: list[int], consumer: Busy) -> bool:
    """Cancel a connection after a number of turns of the event loop, several times.

    Returns:
        Whether the connection was still running at the first cancellation.
    """
    server = FakeServer(consumer)
    server.put(
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "hello"},
        {"type": "websocket.disconnect", "code": 1001},
    )
    in_time = False
    for turns in steps:
        for _ in range(turns):
            await asyncio.sleep(0)
        in_time = server.task.cancel() or in_time
    outcome = await server.end()
    assert isinstance(outcome, asyncio.CancelledError) is in_time
    connected = "websocket.connect" in server.received
    assert len(consumer.codes) == connected
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return in_time


async def test_cancelled_at_every_step(any_layer: Layer | None) -> None:
    """A connection cancelled at any step calls disconnect() and releases everything."""
    steps = 0
    while await cancel_after([steps], Busy(any_layer)):
        assert_released(any_layer)
        steps += 1
    assert steps > 3


async def test_cancelled_twice_at_every_step(any_layer: Layer | None) -> None:
    """A second cancellation doesn't change how a connection ends."""
    for between in range(5):
        steps = 0
        while await cancel_after([steps, between], Busy(any_layer)):
            if not isinstance(any_layer, QueueLayer):
                assert_released(any_layer)
            steps += 1


async def test_layer_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    """A group that cannot be left in time doesn't prevent leaving the others."""

    class Stuck(QueueLayer):
        async def group_discard(self, group: str, channel: str) -> None:
            if group == "lobby":
                await asyncio.Event().wait()
            await super().group_discard(group, channel)

    layer = Stuck()
    register_channel_layer("default", layer)
    consumer = Impatient(layer)
    async with FakeServer(consumer) as server:
        await server.connect()
        server.put({"type": "websocket.disconnect", "code": 1001})
        while not server.task.done():
            server.task.cancel()
            await asyncio.sleep(0)
    assert members(layer, "lobby") == {consumer.channel_name}
    assert members(layer, "news") == set()
    assert len(consumer.codes) == 1
