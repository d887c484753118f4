"""The primitive for waking tasks, shared by everything in the library that waits.

A task without work waits on a future; a producer, in any thread, resolves the future.
A task publishes its future before it looks for work, and a producer stores work before
it resolves the future: however two threads interleave, one sees what the other did.
``ignore_error`` is for a future that no task waits for.
"""

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["ignore_error", "resolve", "running_loop", "wake"]

running_loop: Callable[[], asyncio.AbstractEventLoop | None] = asyncio._get_running_loop  # noqa: SLF001 # exported for what serves event loops
"""Returns the running event loop of this thread, or None."""


def wake(sleeper: asyncio.Future[None]) -> bool:
    """Resolve the future that a task waits on. Safe in any thread.

    Returns:
        False if the task cannot wake any more, because its event loop is closed.
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
    """Resolve a future of the running event loop, unless it is done already."""
    if not sleeper.done():
        sleeper.set_result(None)


def ignore_error(future: asyncio.Future[Any]) -> None:
    """Retrieve the error of a future that is done, which asyncio would log otherwise.

    For ``add_done_callback()``.
    """
    if not future.cancelled():
        future.exception()
