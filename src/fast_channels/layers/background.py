"""One daemon thread with an event loop, for calls from code without one.

The rules:

1. A signal handler or a finalizer can run after any bytecode of a caller. It can make a
   call itself, raise, or fork. Callers therefore hold no lock and change nothing in two
   steps: they append to a deque, notify the loop, and wait on their own queue, each of
   which is a single call into C. Signal handlers never run in the background threads.
2. Any thread can start a background thread at any time: the one that gets the lock
   serves, and all others end at once. A thread that stops serving checks afterwards
   whether a call has come too late for it.
3. The thread starts with the first call, ends with ``close()`` or with the process, and
   starts again with the next call. Calls submitted earlier are finished before it ends.
   The layers' own timeouts limit the time that takes.
4. When the loop ends, layers lose their state in that loop and nothing else: they
   can serve other loops of the application at the same time.
5. After a fork, the child uses its own thread. It never touches what the parent's loop
   holds: the sockets are shared, and so is the kernel's state for the loop.
"""

import _thread
import asyncio
import atexit
import contextlib
import queue
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeAlias, TypeVar

from fast_channels.forks import in_child

__all__ = ["Background", "Call", "LoopThread", "background"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

# The result of a call: the exception it raised, the thread that is ending, or None.
_Result: TypeAlias = BaseException | threading.Thread | None

# Seconds that the end of the process waits for connections to be closed.
_PATIENCE = 5.0


class Call:
    """A request to the background thread, and the queue for its result."""

    __slots__ = ("abandoned", "operation", "result")

    def __init__(self, operation: Callable[[], Awaitable[None]] | None) -> None:
        self.operation: Callable[[], Awaitable[None]] | None = operation
        """The function to call and await; None to end the thread."""
        # Looked up at every call, since gevent and eventlet replace it.
        self.result: queue.SimpleQueue[_Result] = queue.SimpleQueue()
        """The queue that gets the one result."""
        self.abandoned: bool = False
        """Whether the caller has stopped waiting."""


class Background:
    """The state that callers and the background thread share."""

    def __init__(self) -> None:
        self.waiting: deque[Call] = deque()
        """Calls that no thread has taken yet."""
        self.serving: threading.Lock = threading.Lock()
        """The lock of the thread that takes calls. No thread waits for it."""
        self.threads: list[LoopThread] = []
        """The threads that run a loop. Only the last one can be taking calls; the
        others finish the calls that they have taken."""
        self.ended: threading.Thread | None = None
        """The thread that ended last."""
        self.interval: float = 1.0
        """Seconds between two searches for abandoned operations."""
        # The threads of the process that this one was forked from, kept because freeing
        # them would close their event loops.
        self._inherited: list[LoopThread] = []

    def run(
        self,
        operation: Callable[_P, Awaitable[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Run an operation in the background thread; return or raise as it does."""
        results: list[_T] = []

        async def call() -> None:
            results.append(await operation(*args, **kwargs))

        error = self._ask(Call(call))
        if isinstance(error, BaseException):
            try:
                raise error
            finally:
                # Break the reference cycle of the exception and this frame.
                del error
        return results[0]

    def end(self, timeout: float | None = None) -> None:
        """End the background thread, if there is one, and wait for it."""
        if self.waiting or self.serving.locked():
            # Empty: the thread has not ended in time. It is a daemon.
            with contextlib.suppress(queue.Empty):
                thread = self._ask(Call(None), timeout)
                if isinstance(thread, threading.Thread):
                    thread.join(timeout)

    def is_aside(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether a background thread other than this one runs a loop.

        Green threads share one thread of the operating system, so asyncio gives all of
        them the same running loop.
        """
        here = threading.get_ident()
        return any(
            each.runs(loop) and each.thread.ident != here for each in self.threads
        )

    def start_soon(self) -> None:
        """Start a background thread, which ends at once if another one serves.

        This takes locks, so a helper thread does it, in which no signal handler runs.
        """
        _thread.start_new_thread(self._start, ())

    def _start(self) -> None:
        try:
            LoopThread(self).thread.start()
        except RuntimeError as exc:
            # The process cannot have more threads.
            if not self.serving.locked():
                self.fail(exc)

    def fail(self, error: BaseException) -> None:
        """Make all calls that were not taken yet raise an error."""
        # IndexError: another thread has taken the last one, or made it fail.
        with contextlib.suppress(IndexError):
            while True:
                self.waiting.popleft().result.put(error)

    def forget(self) -> None:
        """Reset the state in a process that was forked."""
        # A signal handler may have forked in the middle of a call.
        error = RuntimeError(
            "the process was forked during a call of SyncChannelLayer, which continues "
            "in the parent process"
        )
        self.fail(error)
        for thread in self.threads:
            thread.fail(error)
        self._inherited += self.threads
        self.threads = []
        self.serving = threading.Lock()

    def _ask(self, call: Call, timeout: float | None = None) -> _Result:
        if sys.is_finalizing():
            raise RuntimeError(
                "SyncChannelLayer was called when Python had ended all threads, for "
                "example by a __del__() at the end of the process: call it earlier, "
                "for example in a function registered with atexit"
            )
        try:
            self.waiting.append(call)
            if not any(thread.submit() for thread in self.threads[-1:]):
                self.start_soon()
            return call.result.get(timeout=timeout)
        except BaseException:
            # If this is interrupted too, the next periodic search finds the call.
            call.abandoned = True
            for thread in self.threads:
                thread.look_soon()
            raise


class LoopThread:
    """A daemon thread that runs an event loop and performs calls in it."""

    def __init__(self, shared: Background) -> None:
        self.thread: threading.Thread = threading.Thread(
            target=self._run, name="fast_channels.layers.sync", daemon=True
        )
        """The thread."""
        self._shared = shared
        self._loop: asyncio.AbstractEventLoop | None = None
        # The calls in progress, by task.
        self._under_way: dict[asyncio.Task[None], Call] = {}
        # Set when the thread takes no more calls; and the calls that requested that.
        self._stopped = asyncio.Event()
        self._enders: list[Call] = []
        # Calls _look(), while there are calls in progress.
        self._timer: asyncio.TimerHandle | None = None

    # Called in any thread

    def runs(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether this thread runs a loop."""
        return self._loop is loop

    def submit(self) -> bool:
        """Make the thread take the waiting calls; return False if it has ended."""
        return self._ring(self._attend)

    def look_soon(self) -> None:
        """Make the thread cancel abandoned operations."""
        self._ring(self._look)

    def fail(self, error: BaseException) -> None:
        """Make all calls in progress raise an error."""
        for call in self._under_way.values():
            call.result.put(error)

    def _ring(self, callback: Callable[[], None]) -> bool:
        loop = self._loop
        assert loop is not None
        try:
            loop.call_soon_threadsafe(callback)
        except RuntimeError:
            if loop.is_closed():
                return False
            # The exception comes from a signal handler.
            raise
        return True

    # Called in this thread

    def _run(self) -> None:
        """Serve until the thread is stopped, unless another thread serves."""
        serving, waiting = self._shared.serving, self._shared.waiting
        while waiting and serving.acquire(blocking=False):
            # The thread that has just stopped may have taken the calls.
            if waiting:
                self._run_loop()
                return
            serving.release()

    def _run_loop(self) -> None:
        try:
            # Closing the runner closes everything of the loop, including connections.
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as exc:  # noqa: BLE001 # the callers raise it
            self.fail(exc)
            self._shared.fail(exc)
        if self in self._shared.threads:
            self._shared.threads.remove(self)
        self._stop()
        # Keep a reference, so that no caller frees the thread object: while Python does
        # that, it swallows exceptions of signal handlers.
        self._shared.ended = self.thread
        for call in self._enders:
            call.result.put(self.thread)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Before _attend(): a caller that misses this entry has already added its call.
        self._shared.threads.append(self)
        self._attend()
        await self._stopped.wait()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _attend(self) -> None:
        """Take the waiting calls."""
        waiting = self._shared.waiting
        while waiting and not self._stopped.is_set():
            call = waiting.popleft()
            if call.abandoned:
                continue
            if call.operation is None:
                self._enders.append(call)
                self._stop()
            else:
                task = asyncio.ensure_future(self._perform(call, call.operation))
                self._under_way[task] = call
                task.add_done_callback(self._under_way.pop)
        if self._stopped.is_set():
            # Another thread has to take the remaining calls.
            self._stop()
        if self._under_way and self._timer is None:
            self._look()

    def _look(self) -> None:
        """Cancel abandoned operations, now and at every interval."""
        for task, call in self._under_way.items():
            if call.abandoned and not task.cancelling():
                task.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._under_way:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._shared.interval, self._look)

    async def _perform(
        self, call: Call, operation: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            await operation()
        except BaseException as exc:  # noqa: BLE001 # the caller raises it
            call.result.put(exc)
        else:
            call.result.put(None)

    def _stop(self) -> None:
        """Take no more calls; start another thread if any are waiting."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._shared.serving.release()
        if self._shared.waiting:
            try:
                self._shared.start_soon()
            except RuntimeError as exc:
                self._shared.fail(exc)


background: Background = in_child(Background(), Background.forget)
"""The background thread of this process."""

# Registered before the handlers of applications, and therefore called after them.
atexit.register(background.end, _PATIENCE)
