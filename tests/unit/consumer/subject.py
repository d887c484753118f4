"""The consumers of these tests: one that works, and one that fails on request."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.consumer.timing import Timing
from fast_channels.exceptions import (
    StopConsumer,
)
from fast_channels.layers import (
    InMemoryChannelLayer,
)
from tests.waiting import until

from .fakes import Boom, FakeServer, Layer, members


class Member(AsyncWebsocketConsumer):
    """Is in two groups, and sends their messages to the client."""

    channel_layer_alias = "default"
    groups = ["lobby", "news"]

    async def chat_message(self, message: Mapping[str, Any]) -> None:
        await self.send(message["text"])


Trouble: TypeAlias = Callable[["Subject"], Awaitable[None]]


async def fail(consumer: "Subject") -> None:
    """Raise an exception."""
    raise Boom(consumer.places[-1])


async def stop(consumer: "Subject") -> None:
    """Stop the consumer."""
    raise StopConsumer


async def talk(consumer: "Subject") -> None:
    """Send to the client, which is gone in these tests."""
    await consumer.send("hello?")


async def hang(consumer: "Subject") -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


class Subject(AsyncWebsocketConsumer):
    """Fails in the methods that a test chooses, and counts calls of disconnect()."""

    channel_layer_alias: str | None = "default"
    groups = ["lobby", "news"]

    def __init__(self, layer: Layer | None, **trouble: Trouble) -> None:
        super().__init__()
        self.layer = layer
        if layer is None:
            self.channel_layer_alias = None
            self.groups = []
        self.trouble = trouble
        self.places: list[str] = []
        self.codes: list[int] = []

    async def connect(self) -> None:
        await self.come_to("connect")
        await self.accept()

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.come_to("receive")

    async def chat_message(self, message: Mapping[str, Any]) -> None:
        await self.come_to("chat_message")

    async def disconnect(self, code: int) -> None:
        self.codes.append(code)
        await self.come_to("disconnect")

    async def come_to(self, place: str) -> None:
        self.places.append(place)
        if place in self.trouble:
            await self.trouble[place](self)


class Impatient(Subject):
    """Has a short time limit for cleaning up."""

    _consumer_timing = Timing(answer=0.05, disconnect=0.01, close=0.01, release=0.05)


async def bring_to(
    place: str, consumer: Subject, server: FakeServer, *, gone: bool = False
) -> None:
    """Have a handler of a consumer called, with the client gone or not."""
    server.gone = gone and place == "connect"
    server.put({"type": "websocket.connect"})
    if place == "connect":
        await until(lambda: place in consumer.places)
        return
    await until(lambda: server.idle)
    server.gone = gone
    if place == "receive":
        server.put({"type": "websocket.receive", "text": "hello"})
    elif place == "disconnect":
        server.put({"type": "websocket.disconnect", "code": 1001})
    elif consumer.layer is None:
        server.put({"type": "chat.message"})
    else:
        await consumer.layer.send(consumer.channel_name, {"type": "chat.message"})
    await until(lambda: place in consumer.places)


def assert_released(layer: Layer | None) -> None:
    """Assert that the connections have left nothing behind in a layer."""
    if layer is not None:
        assert members(layer) == set()
    if isinstance(layer, InMemoryChannelLayer):
        assert layer.channels == {}
    assert asyncio.all_tasks() == {asyncio.current_task()}
