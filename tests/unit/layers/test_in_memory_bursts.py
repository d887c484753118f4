"""Sending faster than receivers run, in memory."""

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.exceptions import ChannelFull
from fast_channels.layers import InMemoryChannelLayer, register_channel_layer
from fast_channels.testing import WebsocketCommunicator

MESSAGE = {"type": "test.message"}
BURST = 500
# Seconds after which a test that would wait forever fails.
LIMIT = 20


@pytest.fixture
def layer() -> InMemoryChannelLayer:
    return InMemoryChannelLayer()


@pytest.fixture
def small() -> InMemoryChannelLayer:
    return InMemoryChannelLayer(capacity=2)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines about dropped messages."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.endswith(".counters")
    ]


class Member(AsyncJsonWebsocketConsumer):
    """Sends a burst when its client requests it."""

    channel_layer_alias = "bursts"
    groups = ["room"]

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        assert self.channel_layer is not None
        for number in range(BURST):
            message = {"type": "room.number", "number": number}
            await self.channel_layer.group_send("room", message)

    async def room_number(self, event: dict[str, Any]) -> None:
        await self.send_json(event["number"])


async def numbers(client: WebsocketCommunicator, count: int) -> list[int]:
    """Return the next numbers that a client receives."""
    return [await client.receive_json_from(LIMIT) for _ in range(count)]


async def test_burst_of_a_handler_reaches_all_others(
    layer: InMemoryChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the sender, which cannot receive meanwhile, misses messages."""
    register_channel_layer("bursts", layer)
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(WebsocketCommunicator(Member, "/"))
            for _ in range(20)
        ]
        for client in clients:
            await client.connect()
        await clients[0].send_json_to("go")
        for client in clients[1:]:
            assert await numbers(client, BURST) == list(range(BURST))
        assert await numbers(clients[0], 100) == list(range(100))
        assert layer.statistics()["dropped"] == BURST - 100
        assert layer.statistics()["delivered"] == 19 * BURST + 100
    messages = logged(caplog)
    assert len(messages) == (BURST - 100).bit_length()
    assert "to group 'room'" in messages[0]
    assert "specific.inmemory!" in messages[0]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_burst_of_a_task_reaches_a_task(layer: InMemoryChannelLayer) -> None:
    """A task that receives one message after another gets all of them."""

    async def receive() -> list[int]:
        return [(await layer.receive("a"))["number"] for _ in range(2 * BURST)]

    await layer.group_add("room", "a")
    receiving = asyncio.create_task(receive())
    for number in range(BURST):
        await layer.group_send("room", {"type": "a", "number": 2 * number})
        await layer.send("a", {"type": "a", "number": 2 * number + 1})
    assert await asyncio.wait_for(receiving, LIMIT) == list(range(2 * BURST))
    assert layer.statistics()["dropped"] == 0


async def test_send_waits_for_a_receiver(small: InMemoryChannelLayer) -> None:
    """send() to a full channel succeeds if its receiver takes a message meanwhile."""
    receiving = asyncio.create_task(small.receive("a"))
    for _ in range(2):
        await small.send("a", MESSAGE)
    assert not receiving.done()
    await small.send("a", MESSAGE)
    assert receiving.done()
    assert small.statistics()["delivered"] == 3


async def test_sender_waits_only_for_members_that_receive(
    small: InMemoryChannelLayer,
) -> None:
    """A member that receives nothing delays the sender once, not for each message."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    await small.group_add("room", "stuck")
    counting = asyncio.create_task(count())
    for _ in range(1000):
        await small.group_send("room", MESSAGE)
        with contextlib.suppress(ChannelFull):
            await small.send("stuck", MESSAGE)
    assert turns < 10
    await small.receive("stuck")
    await small.group_send("room", MESSAGE)
    for _ in range(100):
        await small.group_send("room", MESSAGE)
    assert turns < 20
    counting.cancel()
    assert small.statistics()["dropped"] == 999 + 100


async def test_nothing_waits_while_there_is_room(layer: InMemoryChannelLayer) -> None:
    """Sending to channels that have room does not yield to other tasks."""
    await layer.group_add("room", "a")
    turns: list[None] = []
    asyncio.get_running_loop().call_soon(turns.append, None)
    for _ in range(50):
        await layer.group_send("room", MESSAGE)
        await layer.send("a", MESSAGE)
    assert turns == []


async def test_full_channel_refuses_when_nothing_is_taken(
    small: InMemoryChannelLayer,
) -> None:
    """send() raises ChannelFull if no receiver takes a message meanwhile."""
    for _ in range(2):
        await small.send("a", MESSAGE)
    with pytest.raises(ChannelFull):
        await small.send("a", MESSAGE)
    receiving = asyncio.create_task(small.receive("a"))
    await small.send("b", MESSAGE)
    assert not receiving.done()
    # The sender waits again as soon as a message was taken.
    assert await receiving == MESSAGE
    await small.send("a", MESSAGE)


async def fill(layer: InMemoryChannelLayer) -> asyncio.Task[str | None]:
    """Return a task that waits for room in one of two channels of a group."""
    await layer.group_add("room", "full")
    await layer.group_add("room", "other")
    for _ in range(2):
        await layer.send("full", MESSAGE)
    sending = asyncio.create_task(layer.group_send("room", MESSAGE))
    await asyncio.sleep(0)
    assert not sending.done()
    return sending


async def test_cancelled_while_it_waits(small: InMemoryChannelLayer) -> None:
    """A cancelled group_send() keeps the copies sent, and counts the others."""
    sending = await fill(small)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert small.statistics()["dropped"] == 1
    assert small.statistics()["delivered"] == 3
    assert await small.receive("other") == MESSAGE


async def test_member_that_leaves_meanwhile(small: InMemoryChannelLayer) -> None:
    """A channel that is deleted while a sender waits for it stays deleted."""
    sending = await fill(small)
    await small.delete_channel("full")
    await sending
    assert list(small.channels) == ["other"]
    assert small.statistics()["dropped"] == 0
