"""Layers for code that has no event loop: tasks of Celery and RQ, cron jobs, threads.

One daemon thread runs one event loop for all facades of a process, so that a layer
keeps its connection between two calls. The rules:

1. A signal handler, or a finaliser, may run after any bytecode of a caller. It may call
   a facade itself, raise, or fork. So callers hold no lock and change nothing in two
   steps: they append to a deque, ring, and wait at a queue of their own, all of which
   are single calls into C. Signal handlers never run in the other threads here.
2. Any thread may start the background thread at any time: the one that gets the lock
   serves, and others end at once. Whichever stops to serve looks afterwards whether a
   call has come too late for it.
3. The thread starts with the first call, ends with ``close()`` or with the process, and
   starts again with the next call. What was submitted before is done before it ends.
   The layers' own timeouts bound how long that takes.
4. The end of the loop ends what layers hold in that loop, and nothing else of them: the
   layers of an application may serve other loops at the same time.
5. After a fork the child has a thread of its own. It never touches what the parent's
   loop holds: the sockets are shared, and so is what the kernel knows of the loop.
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
from types import TracebackType
from typing import ParamSpec, Self, TypeAlias

from fast_channels.forks import in_child
from fast_channels.type_defs import ChannelLayerProtocol, ChannelMessage
from fast_channels.waking import running_loop

from .base import BaseChannelLayer
from .foreign import as_layer, is_layer
from .registry import channel_layers

__all__ = ["SyncChannelLayer"]

_P = ParamSpec("_P")

# What a call gets: what the operation raised, or the thread that ends, or None.
_Result: TypeAlias = BaseException | threading.Thread | None

# How many seconds the end of the process waits for connections to be closed.
_PATIENCE = 5.0
# How often to look for operations whose callers have gone, in seconds.
_INTERVAL = 1.0


class SyncChannelLayer:
    """A layer whose methods block, for code that has no event loop.

    Make one, keep it, and call it from any thread. All of them share one background
    thread, in which a layer for Redis keeps its connection, so that a call costs one
    round trip. It may be made before a fork and used after it, on both sides; the
    connection is closed when the process ends.

    A call takes no longer than the layer allows, and raises what the layer raises, like
    :class:`~fast_channels.exceptions.ChannelFull` or
    :class:`~fast_channels.exceptions.RedisUnavailable`. An exception that ends the
    waiting, like ``KeyboardInterrupt`` or another one that a signal handler raises,
    cancels the operation; whether it was carried out is not known then. A signal
    handler may call it in the middle of another call.

    Args:
        layer: A layer, or the alias of one, which is looked up at every call.

    Raises:
        TypeError: It is neither a layer nor a str.
    """

    def __init__(self, layer: ChannelLayerProtocol | str = "default") -> None:
        if not isinstance(layer, str) and not is_layer(layer):
            raise TypeError(
                "SyncChannelLayer needs a layer or the alias of a registered one, "
                f"not {layer!r}"
            )
        self._layer = layer if isinstance(layer, str) else as_layer(layer)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._layer!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, channel: str, message: ChannelMessage) -> None:
        """Send a message to one channel.

        Raises:
            ChannelFull: The channel is at capacity; the message was not sent.
            InvalidChannelLayerError: No layer is registered for the alias.
            RuntimeError: An event loop runs in this thread.
            TypeError: The name is not valid, or the message is not a dict with str
                keys that the layer can carry.
        """
        _require_no_event_loop("send")
        _background.run(self._find().send, channel, message)

    def group_send(self, group: str, message: ChannelMessage) -> None:
        """Send a message to every channel of a group.

        A member whose channel is full does not get its copy; the others do.

        Raises:
            InvalidChannelLayerError: No layer is registered for the alias.
            RuntimeError: An event loop runs in this thread.
            TypeError: The name is not valid, or the message is not a dict with str
                keys that the layer can carry.
        """
        _require_no_event_loop("group_send")
        _background.run(self._find().group_send, group, message)

    def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; nothing changes if it is in it.

        Raises:
            InvalidChannelLayerError: No layer is registered for the alias.
            RuntimeError: An event loop runs in this thread.
            TypeError: A name is not valid.
        """
        _require_no_event_loop("group_add")
        _background.run(self._find().group_add, group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; nothing changes if it is not in it.

        Raises:
            InvalidChannelLayerError: No layer is registered for the alias.
            RuntimeError: An event loop runs in this thread.
            TypeError: A name is not valid.
        """
        _require_no_event_loop("group_discard")
        _background.run(self._find().group_discard, group, channel)

    def close(self) -> None:
        """End the background thread, and with it its connections.

        Calls in other threads are finished first. The layer itself stays open for the
        event loops that use it, and the next call, of any ``SyncChannelLayer``, starts
        a new thread. To call it is not necessary: the end of the process does the same.

        Raises:
            RuntimeError: An event loop runs in this thread.
        """
        _require_no_event_loop("close")
        _background.end()

    def _find(self) -> BaseChannelLayer:
        layer = self._layer
        return channel_layers[layer] if isinstance(layer, str) else layer


class _Call:
    """What a caller asks of the background thread, and where it waits for it."""

    __slots__ = ("abandoned", "operation", "result")

    def __init__(self, operation: Callable[[], Awaitable[None]] | None) -> None:
        self.operation = operation
        """What is awaited; None to end the thread."""
        # Looked up now: gevent and eventlet replace it.
        self.result: queue.SimpleQueue[_Result] = queue.SimpleQueue()
        """Gets one item."""
        self.abandoned: bool = False
        """Whether the caller waits no longer."""


class _Background:
    """What the threads of callers and the background thread share."""

    def __init__(self) -> None:
        self.waiting: deque[_Call] = deque()
        """Calls that were not taken yet."""
        self.serving: threading.Lock = threading.Lock()
        """Held by the thread that takes them. No thread waits for it."""
        self.threads: list[_LoopThread] = []
        """The threads that run a loop. The last one is the one that takes calls, if
        any does; those before it finish what they have taken."""
        self.ended: threading.Thread | None = None
        """The last thread that has ended."""
        # Those of the process that this one was forked from: to let go of them would
        # close their event loops.
        self._inherited: list[_LoopThread] = []

    def run(
        self,
        operation: Callable[_P, Awaitable[None]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        """Await an operation in the thread, and wait for it."""
        error = self._ask(_Call(lambda: operation(*args, **kwargs)))
        if isinstance(error, BaseException):
            try:
                raise error
            finally:
                # It refers to this frame, and so would to itself.
                del error

    def end(self, timeout: float | None = None) -> None:
        """End the thread, if there is one, and wait for it."""
        if self.waiting or self.serving.locked():
            # Empty: it has not ended in that time. It is a daemon.
            with contextlib.suppress(queue.Empty):
                thread = self._ask(_Call(None), timeout)
                if isinstance(thread, threading.Thread):
                    thread.join(timeout)

    def is_aside(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether a loop is run by a thread of this, which the current is not.

        Green threads share the thread of the operating system, and with it what asyncio
        knows of the loop that runs.
        """
        here = threading.get_ident()
        return any(
            each.runs(loop) and each.thread.ident != here for each in self.threads
        )

    def start_soon(self) -> None:
        """Start a thread, which ends at once if another one serves.

        Another thread does it, in which no signal handler runs, since it takes locks.
        """
        _thread.start_new_thread(self._start, ())

    def _start(self) -> None:
        try:
            _LoopThread(self).thread.start()
        except RuntimeError as exc:
            # The process may have no more of them.
            if not self.serving.locked():
                self.fail(exc)

    def fail(self, error: BaseException) -> None:
        """Have an error raised by all calls that were not taken yet."""
        # IndexError: others take or fail them, too.
        with contextlib.suppress(IndexError):
            while True:
                self.waiting.popleft().result.put(error)

    def forget(self) -> None:
        """Begin anew in a process that was forked."""
        # The fork may have been made by a signal handler, in the middle of a call.
        error = RuntimeError(
            "the process was forked during a call of SyncChannelLayer, which the "
            "parent process goes on with"
        )
        self.fail(error)
        for thread in self.threads:
            thread.fail(error)
        self._inherited += self.threads
        self.threads = []
        self.serving = threading.Lock()

    def _ask(self, call: _Call, timeout: float | None = None) -> _Result:
        if sys.is_finalizing():
            raise RuntimeError(
                "SyncChannelLayer was called when Python had ended all threads, as by "
                "a __del__() at the end of the process: call it earlier, for example "
                "in a function that is registered with atexit"
            )
        try:
            self.waiting.append(call)
            if not any(thread.submit() for thread in self.threads[-1:]):
                self.start_soon()
            return call.result.get(timeout=timeout)
        except BaseException:
            # If this is interrupted as well, it is looked for after a while.
            call.abandoned = True
            for thread in self.threads:
                thread.look_soon()
            raise


class _LoopThread:
    """A daemon thread that runs an event loop, and performs calls in it."""

    def __init__(self, shared: _Background) -> None:
        self.thread: threading.Thread = threading.Thread(
            target=self._run, name="fast_channels.layers.sync", daemon=True
        )
        """The thread."""
        self._shared = shared
        self._loop: asyncio.AbstractEventLoop | None = None
        # What is performed now.
        self._under_way: dict[asyncio.Task[None], _Call] = {}
        # Set when it takes no more calls; and the calls that have asked for that.
        self._stopped = asyncio.Event()
        self._enders: list[_Call] = []
        # Looks for operations whose callers have gone, while there are operations.
        self._timer: asyncio.TimerHandle | None = None

    # In any thread

    def runs(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether it is the one that runs a loop."""
        return self._loop is loop

    def submit(self) -> bool:
        """Have the calls that wait taken soon; False if it has ended."""
        return self._ring(self._attend)

    def look_soon(self) -> None:
        """Have operations cancelled whose callers have gone."""
        self._ring(self._look)

    def fail(self, error: BaseException) -> None:
        """Have an error raised by all calls that are being performed."""
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
            # A signal handler has raised it.
            raise
        return True

    # In this thread

    def _run(self) -> None:
        """Serve until that is to end, unless another thread serves."""
        serving, waiting = self._shared.serving, self._shared.waiting
        while waiting and serving.acquire(blocking=False):
            # The thread that has just stopped may have taken them.
            if waiting:
                self._run_loop()
                return
            serving.release()

    def _run_loop(self) -> None:
        try:
            # Closing the runner closes what belongs to the loop, connections included.
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as exc:  # noqa: BLE001 # the callers raise it
            self.fail(exc)
            self._shared.fail(exc)
        if self in self._shared.threads:
            self._shared.threads.remove(self)
        self._stop()
        # So that no caller frees it: Python's code for that swallows what a signal
        # handler raises.
        self._shared.ended = self.thread
        for call in self._enders:
            call.result.put(self.thread)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        # First: a caller that does not see it here has added its call before.
        self._shared.threads.append(self)
        self._attend()
        await self._stopped.wait()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _attend(self) -> None:
        """Take the calls that wait."""
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
            # Another thread has to take what is left.
            self._stop()
        if self._under_way and self._timer is None:
            self._look()

    def _look(self) -> None:
        """Cancel operations whose callers have gone, now and in a while."""
        for task, call in self._under_way.items():
            if call.abandoned and not task.cancelling():
                task.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._under_way:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_INTERVAL, self._look)

    async def _perform(
        self, call: _Call, operation: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            await operation()
        except BaseException as exc:  # noqa: BLE001 # the caller raises it
            call.result.put(exc)
        else:
            call.result.put(None)

    def _stop(self) -> None:
        """Take no more calls, and let another thread take them."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._shared.serving.release()
        if self._shared.waiting:
            try:
                self._shared.start_soon()
            except RuntimeError as exc:
                self._shared.fail(exc)


def _require_no_event_loop(method: str) -> None:
    loop = running_loop()
    if loop is None or _background.is_aside(loop):
        return
    raise RuntimeError(
        f"SyncChannelLayer.{method}() was called where an event loop runs, which it "
        f"would block: in async code, write 'await layer.{method}(...)' with the layer "
        "itself"
    )


_background = in_child(_Background(), _Background.forget)
# Before the handlers that applications register later, so after them at the end.
atexit.register(_background.end, _PATIENCE)
