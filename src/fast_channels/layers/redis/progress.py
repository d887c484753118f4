"""Records when a connection last received bytes, rather than whole replies.

A reply of many megabytes takes seconds on a slow link. While its bytes arrive, the
server is alive; only silence suggests that it is gone. redis-py returns whole replies,
but its connections read from a stream that the event loop feeds, and the stream records
the time whenever bytes arrive. The cost is one reading of the clock per read of the
socket, however many replies that read contains.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import SupportsIndex, cast

from .wire import Connection, stream_of

__all__ = ["Progress", "limit_silence"]


class Progress:
    """The time at which an open connection last received bytes.

    Create it after ``connect()``, which replaces the stream, in the same event loop.

    Args:
        connection: An open redis-py connection.
    """

    def __init__(self, connection: Connection) -> None:
        stream = stream_of(connection)
        clock = asyncio.get_running_loop().time
        # Replacing feed_data() on the instance would create a reference cycle.
        stream.__class__ = _TimedStream
        self._stream = cast("_TimedStream", stream)
        self._stream.clock = clock
        self._stream.heard = clock()

    def heard(self) -> float:
        """Return the time at which bytes last arrived, on the event loop's clock.

        Before the first bytes, this is the time at which the object was created.
        """
        return self._stream.heard

    def refresh(self) -> None:
        """Count bytes that arrived earlier, and are still read, as arriving now."""
        self._stream.heard = self._stream.clock()


@contextlib.asynccontextmanager
async def limit_silence(
    progress: Progress, seconds: float, grace: float
) -> AsyncGenerator[None]:
    """Raise TimeoutError in the block after this many seconds without a byte.

    A reply is never interrupted while its bytes arrive, however long it takes.

    Args:
        progress: When bytes last arrived.
        seconds: The limit.
        grace: Seconds for an event loop that was blocked to read what has arrived.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(None) as limit:
        timers: list[asyncio.TimerHandle] = []

        def look(*, last: bool = False) -> None:
            left = max(began, progress.heard()) + seconds - loop.time()
            if left > 0:
                timers[:] = [loop.call_later(left, look)]
            elif last:
                limit.reschedule(loop.time())
            else:
                again = functools.partial(look, last=True)
                timers[:] = [loop.call_later(grace, again)]

        timers.append(loop.call_later(seconds, look))
        try:
            yield
        finally:
            timers[0].cancel()


class _TimedStream(asyncio.StreamReader):
    """A stream that records when bytes arrive."""

    clock: Callable[[], float]
    heard: float

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.heard = self.clock()
        asyncio.StreamReader.feed_data(self, data)
