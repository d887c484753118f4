"""The connection of an event stream: that of a request, and heartbeats.

Heartbeats are messages of a source, so that they never overlap with a handler.
"""

import asyncio
from typing import TYPE_CHECKING, cast

from typing_extensions import override

from fast_channels.sse.events import HEARTBEAT
from fast_channels.type_defs import ChannelMessage

from .http_connection import HttpConnection

if TYPE_CHECKING:
    from fast_channels.sources import Source

    from .event_stream import AsyncEventStreamConsumer

__all__ = ["EventStreamConnection"]

# The message that stands for a heartbeat, known by its identity.
_BEAT: ChannelMessage = {"type": "heartbeat"}


class EventStreamConnection(HttpConnection):
    """The connection of one request that is answered with events."""

    __slots__ = ("sent_at",)

    sent_at: float
    """The time of the last part of the response, on the event loop's clock."""

    @override
    def sources(self) -> "list[Source]":
        consumer = cast("AsyncEventStreamConsumer", self.consumer)
        beats = [] if consumer.heartbeat is None else [self._beat]
        return [*super().sources(), *beats]

    @override
    async def handle_event(self, message: ChannelMessage) -> None:
        if message is _BEAT:
            await self.consumer.send_body(HEARTBEAT, more_body=True)
        else:
            await super().handle_event(message)

    async def _beat(self) -> ChannelMessage:
        """Wait until it is time for a heartbeat."""
        now = asyncio.get_running_loop().time
        consumer = cast("AsyncEventStreamConsumer", self.consumer)
        heartbeat = consumer.heartbeat or 0
        while True:
            idle = now() - self.sent_at
            if idle >= heartbeat:
                return _BEAT
            await asyncio.sleep(heartbeat - idle)
