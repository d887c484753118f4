"""Close the consumers and layers of an application when its server shuts down.

A server sends ``lifespan.shutdown`` only after its connections have ended, see
https://asgi.readthedocs.io/en/latest/specs/lifespan.html. Until then, servers treat
open WebSockets in different ways:

* uvicorn closes them with code 1012 and waits for the applications to end, forever by
  default;
* hypercorn waits for the clients to leave, forever on Python 3.12 and newer, or for
  three seconds on 3.11, and then closes the connections with 1011.

So consumers are ended as soon as the shutdown of the process begins. It begins with a
signal, which is passed on to the server, or with an event in hypercorn's workers.
"""

import asyncio
import contextlib
import inspect
import logging
import multiprocessing
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager
from types import FrameType
from typing import Any, TypeVar, cast, overload

from fast_channels.consumer.connection import Connection, live_connections
from fast_channels.endings import end_waits, stopping
from fast_channels.layers.registry import channel_layers

__all__ = ["channels_lifespan", "close_consumers"]

_logger = logging.getLogger(__name__)

_App = TypeVar("_App")
_State = TypeVar("_State")

# The signals that make servers shut down.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds between two checks of hypercorn's shutdown event; hypercorn has the same.
_INTERVAL = 0.1


@overload
def channels_lifespan(
    lifespan: None = None, *, timeout: float = 5
) -> Callable[[Any], AbstractAsyncContextManager[None]]: ...
@overload
def channels_lifespan(
    lifespan: Callable[[_App], AbstractAsyncContextManager[_State]],
    *,
    timeout: float = 5,
) -> Callable[[_App], AbstractAsyncContextManager[_State]]: ...
def channels_lifespan(
    lifespan: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
    *,
    timeout: float = 5,
) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """Return a lifespan that closes consumers and layers when the server shuts down.

    Pass it to ``FastAPI(lifespan=...)`` or ``Starlette(lifespan=...)``. With a lifespan
    of your own, as its argument or decorated by it, the order is:

    1. Your startup.
    2. The application serves, with the state that your lifespan yields.
    3. Consumers end, and the loops of ``layer.listen()``, as with
       :func:`close_consumers`, as soon as the process gets SIGTERM or SIGINT, which is
       passed on to the server, or when hypercorn's main process shuts its workers down.
    4. Your shutdown. It can still send through the layers.
    5. Every registered layer is closed, no matter when it was registered. If a layer
       raises, the error is logged and the other layers are still closed.

    Layers are also closed if your startup or shutdown raises.

    Args:
        lifespan: A lifespan of your own: called with the application, it returns an
            asynchronous context manager.
        timeout: Seconds for consumers to end, and then for each layer to close.

    Raises:
        TypeError: The argument is not a lifespan.
    """
    if lifespan is not None:
        _check_lifespan(lifespan)

    def make(app: Any) -> AbstractAsyncContextManager[Any]:
        return _live(
            contextlib.nullcontext() if lifespan is None else lifespan(app), timeout
        )

    return make


async def close_consumers(timeout: float = 5) -> None:
    """End the consumers and listeners of this event loop.

    The loops of ``layer.listen()`` end. WebSockets are closed with code 1012, and their
    consumers get ``disconnect(1012)`` when the running handler has returned. An event
    stream ends at once: its consumer is cancelled and the stream is completed, so that
    the client reconnects. Any other consumer that has not ended after half of the
    timeout, because its client does not answer or its handler is slow, is cancelled,
    and ``disconnect()`` is called; a request whose response has not begun is answered
    with status 503. The number of consumers that do not end even then is logged.

    :func:`channels_lifespan` calls it. Call it yourself if you shut a server down
    without a signal. It does not wait for consumers that another call is ending, nor
    for the consumer that calls it.

    Args:
        timeout: Maximum seconds to wait for the consumers.
    """
    here, asking = asyncio.get_running_loop(), asyncio.current_task()
    end_waits()
    found = [reference() for reference in live_connections.valuerefs()]
    ending = [
        connection
        for connection in found
        if connection is not None
        and connection.ended is None
        and connection.task.get_loop() is here
        and connection.task is not asking
    ]
    ended = await asyncio.gather(*(_end(each, timeout) for each in ending))
    left = Counter(
        connection.name
        for connection, has_ended in zip(ending, ended, strict=True)
        if not has_ended
    )
    if left:
        _logger.warning(
            "%d of %d consumers did not end within %s seconds: %s",
            left.total(),
            len(ending),
            timeout,
            ", ".join(f"{name} ({count})" for name, count in left.most_common()),
        )


def _check_lifespan(lifespan: object) -> None:
    if inspect.isasyncgenfunction(lifespan):
        raise TypeError(
            f"{lifespan!r} is an asynchronous generator function: decorate it with "
            "contextlib.asynccontextmanager to make it a lifespan"
        )
    try:
        # ValueError: the callable has no signature.
        with contextlib.suppress(ValueError):
            inspect.signature(cast("Callable[..., Any]", lifespan)).bind(None)
    except TypeError:
        raise TypeError(
            "channels_lifespan() takes a lifespan, a callable with one argument, the "
            f"application, not {lifespan!r}; if you have none of your own, write "
            "lifespan=channels_lifespan()"
        ) from None


# Running a lifespan


@contextlib.asynccontextmanager
async def _live(
    own: AbstractAsyncContextManager[_State], timeout: float
) -> AsyncGenerator[_State]:
    try:
        async with own as state, _ending_consumers(timeout):
            yield state
    finally:
        await channel_layers.close(timeout)


@contextlib.asynccontextmanager
async def _ending_consumers(timeout: float) -> AsyncGenerator[None]:
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []
    stack = contextlib.ExitStack()

    def start() -> None:
        if not tasks:
            # Requests that are being served can still begin to listen.
            stack.enter_context(stopping())
            tasks.append(loop.create_task(close_consumers(timeout)))

    def tell() -> None:
        # RuntimeError: the loop is closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(start)

    event = _find_worker_event()
    watcher = None if event is None else loop.create_task(_watch(event, start))
    try:
        with stack, _watching_signals(tell):
            try:
                yield
            finally:
                start()
                await tasks[0]
                # Consumers that have started since then.
                await close_consumers(timeout)
    finally:
        if watcher is not None:
            watcher.cancel()


@contextlib.contextmanager
def _watching_signals(tell: Callable[[], None]) -> Generator[None]:
    """Call a function before the handler of a signal, if the signal has one."""
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], Any]] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        tell()
        handlers[signal.Signals(number)](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            # Without another handler, there is no orderly shutdown to take part in.
            if callable(handler) and handler is not signal.default_int_handler:
                handlers[number] = handler
                signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)


def _find_worker_event() -> Any:
    """Return the event that shuts down a worker process of hypercorn, or None.

    The process gets no signal, and lifespan.shutdown only after the clients have left.
    """
    # The event is available only as an argument of the process.
    process = multiprocessing.current_process()
    arguments = getattr(process, "_kwargs", {}) if "hypercorn" in sys.modules else {}
    return arguments.get("shutdown_event")


async def _watch(event: Any, start: Callable[[], None]) -> None:
    while not event.is_set():  # noqa: ASYNC110 # it is shared by processes
        await asyncio.sleep(_INTERVAL)
    start()


# Ending consumers


async def _end(connection: Connection[Any], timeout: float) -> bool:
    """End a connection, and return whether it has ended."""
    ended = connection.ended = asyncio.Event()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout / 2):
            await connection.restart()
            await ended.wait()
    # The first cancellation ends a handler, the second a disconnect() that hangs.
    for _ in range(2):
        if not ended.is_set():
            connection.task.cancel()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), timeout / 4)
    return ended.is_set()
