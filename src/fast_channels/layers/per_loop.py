"""What belongs to one event loop, made when it is first needed there.

A connection lives in the event loop in which it was opened. One layer serves any number
of loops, one after the other (a script that calls ``asyncio.run()`` again and again) or
at once (threads), so it keeps one state for each of them in :class:`PerLoop`.

A state is closed when its loop ends. No loop is patched for that: an asynchronous
generator that is suspended is closed by ``loop.shutdown_asyncgens()``, which
``asyncio.run()``, ``asyncio.Runner``, uvloop and ``asgiref.sync.async_to_sync`` call.
What a bare ``loop.close()`` leaves behind is dropped when the next loop comes.

Only a loop that runs gets anything done, so none that does not is waited for. A process
that is forked has no state at first: it never touches what its parent's loops hold.
"""

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

from fast_channels.forks import in_child, released

__all__ = ["LoopStopped", "PerLoop", "in_loop"]

T = TypeVar("T")
_P = ParamSpec("_P")

# How often to look whether a loop that is waited for still runs, in seconds.
_INTERVAL = 0.5

# What is being done for others who do not wait for it.
_begun: set[asyncio.Future[None]] = set()


class PerLoop(Generic[T]):
    """One state for each event loop.

    Args:
        make: Makes the state of the running event loop.
        close: Closes it, in the same loop.
    """

    def __init__(
        self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]
    ) -> None:
        self._make = make
        self._close = close
        # Each loop's state, and the generator that closes it with the loop.
        self._entries: dict[
            asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None]]
        ] = {}
        # Guards the dict; held for no more than a look-up or a change.
        self._lock = released(threading.Lock())
        # The entries of the processes that this one was forked from: to let go of them
        # would close them.
        self._inherited: list[object] = []
        in_child(self, PerLoop[T].forget)

    def get(self) -> T:
        """Return the state of the running event loop; make it if there is none."""
        loop = asyncio.get_running_loop()
        entry = self._entries.get(loop)
        return self._add(loop) if entry is None else entry[0]

    def here(self) -> T | None:
        """Return the state of the running event loop, if it has one."""
        entry = self._entries.get(asyncio.get_running_loop())
        return None if entry is None else entry[0]

    def peek(self) -> list[T]:
        """Return the states of all event loops that are open."""
        with self._lock:
            return [
                state
                for loop, (state, _) in self._entries.items()
                if not loop.is_closed()
            ]

    async def close(self) -> None:
        """Close the state of every event loop, and wait for those of this one.

        Other loops close theirs as soon as they come to it. Cancelling ends the waiting
        only.
        """
        here = asyncio.get_running_loop()
        with self._lock:
            entries, self._entries = self._entries, {}
        _, own = entries.pop(here, (None, None))
        for loop, (_, guard) in entries.items():
            # RuntimeError: that loop is closed, and its sockets with it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_close_soon, guard)
        if own is not None:
            await asyncio.shield(_close_soon(own))

    def forget(self) -> None:
        """Have no state in a process that was forked."""
        self._inherited.append(self._entries)
        self._entries = {}

    def _add(self, loop: asyncio.AbstractEventLoop) -> T:
        state = self._make()
        guard = self._guard(loop, state)
        # Runs it up to its yield, which takes no event loop.
        with contextlib.suppress(StopIteration):
            guard.__anext__().send(None)
        with self._lock:
            for other in [other for other in self._entries if other.is_closed()]:
                del self._entries[other]
            self._entries[loop] = state, guard
        return state

    async def _guard(
        self, loop: asyncio.AbstractEventLoop, state: T
    ) -> AsyncGenerator[None]:
        pid = os.getpid()
        try:
            yield
        finally:
            if os.getpid() == pid:
                await self._end(loop, state)

    async def _end(self, loop: asyncio.AbstractEventLoop, state: T) -> None:
        with self._lock:
            entry = self._entries.get(loop)
            # After close() the loop may have another state already.
            if entry is not None and entry[0] is state:
                del self._entries[loop]
        await self._close(state)


def _close_soon(guard: AsyncGenerator[None]) -> asyncio.Future[None]:
    return asyncio.ensure_future(guard.aclose())


class LoopStopped(RuntimeError):
    """An event loop in which something was to be done does not run."""


async def in_loop(
    loop: asyncio.AbstractEventLoop,
    change: Callable[_P, Coroutine[Any, Any, None]],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> None:
    """Await something in the event loop that it belongs to.

    Raises:
        LoopStopped: That loop does not run, or stopped before it was done. It is done
            if the loop runs again.
    """
    if loop is asyncio.get_running_loop():
        await change(*args, **kwargs)
        return
    if not loop.is_running():
        # RuntimeError: it is closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(
                _begin, functools.partial(change, *args, **kwargs)
            )
        raise LoopStopped(f"the event loop {loop!r} does not run")
    future = asyncio.wrap_future(
        asyncio.run_coroutine_threadsafe(change(*args, **kwargs), loop)
    )
    try:
        while not (await asyncio.wait([future], timeout=_INTERVAL))[0]:
            if not loop.is_running():
                raise LoopStopped(f"the event loop {loop!r} has stopped")
    except asyncio.CancelledError:
        future.cancel()
        raise
    await future


def _begin(change: Callable[[], Coroutine[Any, Any, None]]) -> None:
    task = asyncio.ensure_future(change())
    # The loop itself refers to it weakly.
    task.add_done_callback(_begun.discard)
    _begun.add(task)
