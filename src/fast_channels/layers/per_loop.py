"""State that belongs to one event loop, created when it is first needed there.

A connection works only in the event loop that opened it. One layer serves any number of
loops, one after the other (a script that calls ``asyncio.run()`` repeatedly) or at the
same time (threads), so it keeps one state for each loop in a :class:`PerLoop`.

A state is closed when its loop ends, without patching the loop: a suspended
asynchronous generator is closed by ``loop.shutdown_asyncgens()``, which
``asyncio.run()``, ``asyncio.Runner``, uvloop and ``asgiref.sync.async_to_sync`` call.
State left behind by a bare ``loop.close()`` is dropped when another loop gets its own.

No code waits for a loop that is not running, since such a loop does no work. A forked
process starts without any state, and never touches that of its parent's loops.
"""

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar, TypeVarTuple

from fast_channels.forks import in_child, released

__all__ = ["LoopStopped", "PerLoop", "in_loop"]

T = TypeVar("T")
_Args = TypeVarTuple("_Args")
_R = TypeVar("_R")

# References to tasks whose callers do not wait for them.
_begun: set[asyncio.Future[object]] = set()


class PerLoop(Generic[T]):
    """One state for each event loop.

    Args:
        make: Creates the state of the running event loop.
        close: Closes a state, in the same loop.
    """

    def __init__(
        self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]
    ) -> None:
        self._make = make
        self._close = close
        # The state of each loop, and the generator that closes it with the loop.
        self._entries: dict[
            asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None]]
        ] = {}
        # Guards the dict; held only for a look-up or a change.
        self._lock = released(threading.Lock())
        # The entries of the processes that this one was forked from, kept because
        # freeing them would close their states.
        self._inherited: list[object] = []
        in_child(self, PerLoop[T].forget)

    def get(self) -> T:
        """Return the state of the running event loop; create it if there is none."""
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
        """Close the state of every event loop, and wait for that of this one.

        Other loops close theirs in their next turn. Cancelling ends only the wait; the
        states are still closed.
        """
        here = asyncio.get_running_loop()
        with self._lock:
            entries, self._entries = self._entries, {}
        _, own = entries.pop(here, (None, None))
        for loop, (_, guard) in entries.items():
            # RuntimeError: the loop is closed, and so are its sockets.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_close_soon, guard)
        if own is not None:
            await asyncio.shield(_close_soon(own))

    def forget(self) -> None:
        """Start without any state, in a process that was forked."""
        self._inherited.append(self._entries)
        self._entries = {}

    def _add(self, loop: asyncio.AbstractEventLoop) -> T:
        state = self._make()
        guard = self._guard(loop, state)
        # Run the generator up to its yield, which needs no event loop.
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
    """The event loop that should run an operation is not running."""


async def in_loop(
    loop: asyncio.AbstractEventLoop,
    change: Callable[[*_Args], Coroutine[Any, Any, _R]],
    *args: *_Args,
    interval: float = 0.5,
) -> _R:
    """Call and await a coroutine function in the given event loop; return its result.

    Args:
        loop: The event loop, which can run in another thread.
        change: The coroutine function.
        *args: Its arguments.
        interval: Seconds between two checks that the loop is still running.

    Raises:
        LoopStopped: The loop is not running, or stopped before the end of the call. The
            call is completed if the loop runs again.
    """
    if loop is asyncio.get_running_loop():
        return await change(*args)
    if not loop.is_running():
        # RuntimeError: the loop is closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_begin, functools.partial(change, *args))
        raise LoopStopped(f"the event loop {loop!r} does not run")
    future = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(change(*args), loop))
    try:
        while not (await asyncio.wait([future], timeout=interval))[0]:
            if not loop.is_running():
                raise LoopStopped(f"the event loop {loop!r} has stopped")
    except asyncio.CancelledError:
        future.cancel()
        raise
    return await future


def _begin(change: Callable[[], Coroutine[Any, Any, object]]) -> None:
    task = asyncio.ensure_future(change())
    # The loop itself has only a weak reference.
    task.add_done_callback(_begun.discard)
    _begun.add(task)
