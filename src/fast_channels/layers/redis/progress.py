"""When a connection last received bytes, rather than whole replies.

A reply of many megabytes takes seconds on a slow link. While its bytes arrive, the
server is alive; only silence means that it may be gone. redis-py returns whole replies,
but its connections read from a stream that the event loop feeds, and each feeding is
timed here. The cost is one look at the clock per read of the socket, however many
replies that read holds.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from redis.asyncio.connection import AbstractConnection

__all__ = ["Progress"]


class Progress:
    """The time at which an open connection last received bytes.

    Make it after ``connect()``, which replaces the stream, and in the same event loop.

    Args:
        connection: A connection of redis-py that is open.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        # Its name is private, and has been the same since redis-py 5.
        stream = getattr(connection, "_reader", None)
        assert isinstance(stream, asyncio.StreamReader), (
            f"a {type(connection).__name__} has no stream: it is not open, or this "
            "release of redis-py keeps it elsewhere"
        )
        clock = asyncio.get_running_loop().time
        # Setting feed_data() on the stream would be a cycle of references.
        stream.__class__ = _TimedStream
        self._stream = cast("_TimedStream", stream)
        self._stream.clock = clock
        self._stream.heard = clock()

    def heard(self) -> float:
        """Return when bytes last arrived, on the clock of the event loop.

        Before the first bytes this is the time at which the object was made.
        """
        return self._stream.heard


class _TimedStream(asyncio.StreamReader):
    """A stream that records when it is fed."""

    clock: Callable[[], float]
    heard: float

    def feed_data(self, data: bytes) -> None:  # type: ignore[override] # it gets bytes
        self.heard = self.clock()
        asyncio.StreamReader.feed_data(self, data)
