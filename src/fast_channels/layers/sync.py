"""Layers for code that has no event loop: tasks of Celery and RQ, cron jobs, threads.

One daemon thread runs one event loop for all facades of a process, so that a layer
keeps its connection between two calls. The rules:

1. The thread starts with the first call, ends with ``close()`` or with the process, and
   starts again with the next call.
2. Whoever submits an operation or ends the thread holds the lock: what was submitted is
   done before the thread ends. The layers' own timeouts bound how long that takes.
3. The end of the loop ends what layers hold in that loop, and nothing else of them: the
   layers of an application may serve other loops at the same time.
4. After a fork the child has a thread of its own. It never touches what the parent's
   loop holds: the sockets are shared, and so is what the kernel knows of the loop.
"""

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ParamSpec, Self, cast

from fast_channels.type_defs import ChannelLayerProtocol, ChannelMessage

from .base import BaseChannelLayer
from .foreign import as_layer, is_layer
from .registry import channel_layers

__all__ = ["SyncChannelLayer"]

_P = ParamSpec("_P")

# For how many seconds the process waits at its end for connections to be closed.
_PATIENCE = 5.0


class SyncChannelLayer:
    """A layer whose methods block, for code that has no event loop.

    Make one, keep it, and call it from any thread. All of them share one background
    thread, in which a layer for Redis keeps its connection, so that a call costs one
    round trip. It may be made before a fork and used after it, on both sides; the
    connection is closed when the process ends.

    A call takes no longer than the layer allows, and raises what the layer raises, like
    :class:`~fast_channels.exceptions.ChannelFull` or
    :class:`~fast_channels.layers.redis.RedisUnavailable`. An exception that ends the
    waiting, like ``KeyboardInterrupt``, cancels the operation; whether it was carried
    out is not known then.

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


class _LoopThread:
    """A daemon thread that runs an event loop until it is told to end."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._end: asyncio.Future[None] = self._loop.create_future()
        # The operations that are under way.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(
            target=self._serve, name="fast_channels.layers.sync", daemon=True
        )
        self._thread.start()

    def submit(
        self,
        operation: Callable[_P, Awaitable[None]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Future[None]:
        coroutine = self._perform(operation, *args, **kwargs)
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def end(self) -> None:
        """End when all that was submitted before is done."""
        self._loop.call_soon_threadsafe(self._end.set_result, None)

    def join(self, timeout: float | None) -> None:
        self._thread.join(timeout)

    def _serve(self) -> None:
        # Closing the runner closes what belongs to the loop, connections included.
        with self._runner:
            self._runner.run(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        await self._end
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _perform(
        self,
        operation: Callable[_P, Awaitable[None]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._tasks.add(task)
        try:
            await operation(*args, **kwargs)
        finally:
            self._tasks.discard(task)


class _Background:
    """The thread of this process."""

    def __init__(self) -> None:
        # Reentrant, since a signal may come, or a finaliser run, in the middle.
        self._lock = threading.RLock()
        self._thread: _LoopThread | None = None
        self.inherited: list[_LoopThread] = []
        """What the processes that this one was forked from left in its memory.

        To let go of it would close their event loops.
        """

    def run(
        self,
        operation: Callable[_P, Awaitable[None]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        """Await an operation in the thread, and wait for it."""
        with self._lock:
            if self._thread is None:
                self._thread = _LoopThread()
            future = self._thread.submit(operation, *args, **kwargs)
        try:
            future.result()
        except BaseException:
            future.cancel()
            raise
        finally:
            # The exception refers to this frame, and so would to itself.
            del future

    def end(self, timeout: float | None = None) -> None:
        """End the thread, if there is one, and wait for it."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                thread.end()
        if thread is not None:
            thread.join(timeout)

    def forget(self) -> None:
        """Begin anew in a process that was forked."""
        if self._thread is not None:
            self.inherited.append(self._thread)
            self._thread = None
        # Another thread of the parent may have held it.
        self._lock = threading.RLock()


def _require_no_event_loop(method: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"SyncChannelLayer.{method}() was called where an event loop runs, which it "
        f"would block: in async code, write 'await layer.{method}(...)' with the layer "
        "itself"
    )


_background = _Background()
# Before the handlers that applications register later, so after them at the end.
atexit.register(_background.end, _PATIENCE)
# AttributeError: Windows has no forks.
with contextlib.suppress(AttributeError):
    os.register_at_fork(after_in_child=_background.forget)
