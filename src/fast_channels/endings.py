"""Waits that end when the application shuts down.

A coroutine that waits for messages until its client leaves, such as an endpoint that
streams events, would keep the server from stopping. It waits with a :class:`Waiter`,
and ends when ``over`` is true.
"""

import asyncio
import contextlib
import weakref
from collections.abc import Generator

from .waking import running_loop, wake

__all__ = ["Waiter", "end_waits", "stopping"]

# All waiters of this process, in all event loops.
_live: "weakref.WeakValueDictionary[int, Waiter]" = weakref.WeakValueDictionary()
# The event loops whose applications are shutting down.
_stopping: set[asyncio.AbstractEventLoop] = set()


class Waiter:
    """The waits of one task of the running event loop, until they are over.

    The task creates the future before it looks for work, and a writer stores the work
    before it calls ``wake()``: however two threads interleave, no work is overlooked.
    """

    __slots__ = ("__weakref__", "_sleeper", "loop", "over")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        """The event loop."""
        self.over: bool = self.loop in _stopping
        """Whether the task must not wait any more."""
        self._sleeper: asyncio.Future[None] | None = None
        _live[id(self)] = self

    def sleeper(self) -> asyncio.Future[None]:
        """Return a new future that the next ``wake()`` resolves."""
        self._sleeper = self.loop.create_future()
        return self._sleeper

    def wake(self) -> None:
        """Notify the task of new work. Safe in any thread."""
        sleeper = self._sleeper
        if sleeper is not None and not sleeper.done():
            wake(sleeper)

    def end(self) -> None:
        """End the wait, and all later ones. Safe in any thread."""
        self.over = True
        self.wake()


def end_waits() -> None:
    """End the waits of all tasks in the running event loop."""
    here = running_loop()
    for reference in _live.valuerefs():
        waiter = reference()
        if waiter is not None and waiter.loop is here:
            waiter.end()


@contextlib.contextmanager
def stopping() -> Generator[None]:
    """End all waits in the running event loop, and those that begin in the block."""
    loop = asyncio.get_running_loop()
    _stopping.add(loop)
    end_waits()
    try:
        yield
    finally:
        _stopping.discard(loop)
