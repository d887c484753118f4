"""Waking tasks: the one primitive that everything that waits here stands on.

A task that has nothing to do sleeps on a future, and what has something for it resolves
that future, in any thread. A task registers the future before it looks for work, and
work is stored before the future is resolved: whichever way two threads interleave, one
sees the other.
"""

import asyncio
from collections.abc import Callable

__all__ = ["resolve", "running_loop", "wake"]

running_loop: Callable[[], asyncio.AbstractEventLoop | None] = asyncio._get_running_loop  # noqa: SLF001 # exported for what serves event loops
"""Returns the event loop that runs in this thread, or None."""


def wake(sleeper: asyncio.Future[None]) -> bool:
    """Resolve the future that a task sleeps on. Safe in any thread.

    Returns:
        False if the task will not wake any more, since its event loop is closed.
    """
    loop = sleeper.get_loop()
    if loop is running_loop():
        if not sleeper.done():
            sleeper.set_result(None)
        return True
    try:
        loop.call_soon_threadsafe(resolve, sleeper)
    except RuntimeError:
        return False
    return True


def resolve(sleeper: asyncio.Future[None]) -> None:
    """Resolve the future that a task of this event loop sleeps on, if it still does."""
    if not sleeper.done():
        sleeper.set_result(None)
