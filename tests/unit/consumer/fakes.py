"""A fake server for a consumer, and a third-party layer."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any, Self, TypeAlias

import pytest

from fast_channels.layers import BaseChannelLayer, InMemoryChannelLayer
from fast_channels.type_defs import ASGIApplication, ChannelMessage
from tests.waiting import until

__all__ = [
    "LIMIT",
    "Boom",
    "FakeServer",
    "Layer",
    "QueueLayer",
    "logged",
    "members",
]

# Seconds after which a test that would wait forever fails.
LIMIT = 5


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the records of fast_channels; on a busy machine asyncio may log too."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("fast_channels")
    ]


class Boom(Exception):
    """The error that these tests raise."""


class FakeServer:
    """Serves one connection with an application, with the faults that a test needs.

    At the end of an ``async with`` block the application has ended; its exception is
    raised there, unless the test has called ``end()`` to inspect it.
    """

    def __init__(
        self,
        application: ASGIApplication,
        scope: MutableMapping[str, Any] | None = None,
    ) -> None:
        self.application = application
        self.scope = {"type": "websocket"} if scope is None else scope
        self.received: list[Any] = []
        """The types of the events that the application has received."""
        self.sent: list[Mapping[str, Any]] = []
        """The events that the application has sent."""
        self.gone = False
        """Whether the client is gone: sending fails, and a disconnect follows."""
        self.silent = False
        """Whether the disconnect of a client that is gone is omitted."""
        self.replayed: dict[str, Any] | None = None
        """An event that the application receives endlessly, without waiting."""
        self.idle = False
        """Whether the application has handled every event and waits for another."""
        self.task = asyncio.create_task(self._serve())
        """Runs the application."""
        self._events: asyncio.Queue[dict[str, Any] | BaseException] = asyncio.Queue()
        self._looked_at = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.task.cancel()
        looked_at = self._looked_at
        outcome = await self.end()
        if isinstance(outcome, Exception) and exc is None and not looked_at:
            raise outcome

    def put(self, *events: dict[str, Any] | BaseException) -> None:
        """Have the application receive events; its receive() raises an exception."""
        self.idle = False
        for event in events:
            self._events.put_nowait(event)

    async def give(self, *events: dict[str, Any] | BaseException) -> None:
        """Have the application receive events, and wait until it has handled them."""
        self.put(*events)
        await until(lambda: self.idle or self.task.done())

    async def connect(self) -> None:
        """Connect a client."""
        await self.give({"type": "websocket.connect"})

    async def disconnect(self, **event: Any) -> BaseException | None:
        """Disconnect the client; return the exception of the application."""
        self.put({"type": "websocket.disconnect", **event})
        return await self.end()

    async def end(self) -> BaseException | None:
        """Wait until the application has ended, and return its exception."""
        self._looked_at = True
        async with asyncio.timeout(LIMIT):
            (outcome,) = await asyncio.gather(self.task, return_exceptions=True)
        return outcome

    async def _serve(self) -> None:
        await self.application(self.scope, self._receive, self._send)

    async def _receive(self) -> MutableMapping[str, Any]:
        if self.replayed is not None:
            return dict(self.replayed)
        self.idle = self._events.empty()
        event = await self._events.get()
        if isinstance(event, BaseException):
            raise event
        self.received.append(event.get("type"))
        return event

    async def _send(self, event: Mapping[str, Any]) -> None:
        # A real server may have to wait for the network.
        await asyncio.sleep(0)
        if self.gone:
            if not self.silent:
                self.put({"type": "websocket.disconnect", "code": 1006})
            raise ConnectionResetError("the client is gone")
        self.sent.append(event)


class QueueLayer(BaseChannelLayer):
    """A third-party layer: the methods that the interface requires, and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.members: set[tuple[str, str]] = set()
        """Pairs of a group and a channel that is in it."""
        self._names = itertools.count()
        self._queues: defaultdict[str, asyncio.Queue[dict[str, Any]]] = defaultdict(
            asyncio.Queue
        )

    async def send(self, channel: str, message: ChannelMessage) -> None:
        self._queues[channel].put_nowait(dict(message))

    async def receive(self, channel: str) -> dict[str, Any]:
        try:
            return await self._queues[channel].get()
        finally:
            # For example, a connection that has to be returned to a pool.
            await asyncio.sleep(0)

    async def new_channel(self, prefix: str = "specific") -> str:
        await asyncio.sleep(0)
        return f"{prefix}.{next(self._names)}"

    async def group_add(self, group: str, channel: str) -> None:
        await asyncio.sleep(0)
        self.members.add((group, channel))

    async def group_discard(self, group: str, channel: str) -> None:
        await asyncio.sleep(0)
        self.members.discard((group, channel))

    async def group_send(
        self, group: str, message: ChannelMessage, *, once: str | None = None
    ) -> None:
        for member, channel in self.members:
            if member == group:
                await self.send(channel, message)


Layer: TypeAlias = InMemoryChannelLayer | QueueLayer


def members(layer: Layer, group: str | None = None) -> set[str]:
    """Return the channels that are in a group, or in any group."""
    if isinstance(layer, QueueLayer):
        pairs = layer.members
    else:
        pairs = {
            (name, channel) for name in layer.groups for channel in layer.groups[name]
        }
    return {channel for name, channel in pairs if group in (name, None)}
