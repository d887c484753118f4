"""The life of an application: what is to be closed when its server shuts down.

A server tells an application of its shutdown with ``lifespan.shutdown``, see
https://asgi.readthedocs.io/en/latest/specs/lifespan.html, when its connections have
ended. What it does with open WebSockets before that is up to the server:

* uvicorn closes them with code 1012 and waits for the applications to end, for ever by
  default;
* hypercorn waits for the clients to leave, for ever on Python 3.12 and newer, and three
  seconds on 3.11, after which it closes with 1011.

So consumers are ended as soon as the process is told to shut down. Servers learn that
by a signal, which is passed on to them; hypercorn's worker processes by an event.
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
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from types import FrameType
from typing import Any, TypeVar, cast, overload

from fast_channels.consumer.base import LiveConsumer, live_consumers
from fast_channels.consumer.closing import send_close
from fast_channels.layers.registry import channel_layers
from fast_channels.type_defs import ChannelMessage

__all__ = ["channels_lifespan", "close_consumers"]

_logger = logging.getLogger(__name__)

_App = TypeVar("_App")
_State = TypeVar("_State")

# https://www.rfc-editor.org/rfc/rfc6455.html#section-7.4.1, and the registry it founds:
# https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
_SERVICE_RESTART = 1012

# How servers are told to shut down.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# How often hypercorn, and so we, look whether its workers are to shut down, in seconds.
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

    It is for ``FastAPI(lifespan=...)`` and ``Starlette(lifespan=...)``. With a lifespan
    of your own, which it may also decorate, things happen in this order:

    1. Your startup.
    2. The application serves, with the state that your lifespan yields.
    3. When the process is told to shut down, consumers end, as with
       :func:`close_consumers`. It is told by SIGTERM or SIGINT, which the server gets
       as well, or by hypercorn's main process.
    4. Your shutdown. It can still send through the layers.
    5. Every registered layer is closed, whenever it was registered. An error of one is
       logged, and the others are closed all the same.

    Layers are closed, too, when your startup or shutdown raises.

    Args:
        lifespan: A lifespan of your own: called with the application, it returns an
            asynchronous context manager.
        timeout: In how many seconds consumers have to end, and then each layer.

    Raises:
        TypeError: What was given is not a lifespan.
    """
    if lifespan is not None:
        _check_lifespan(lifespan)

    def make(app: Any) -> AbstractAsyncContextManager[Any]:
        return _live(
            contextlib.nullcontext() if lifespan is None else lifespan(app), timeout
        )

    return make


async def close_consumers(timeout: float = 5) -> None:
    """End the consumers that serve connections in this event loop.

    WebSockets are closed with code 1012, and their consumers get ``disconnect(1012)``
    when what they handle is done. A response that is an event stream ends at once: its
    consumer is cancelled, and the stream is completed, so that the client comes back.
    Any other consumer that does not end in half of the time, as its client does not
    answer or its handler takes long, is cancelled where it waits, and ``disconnect()``
    is called; a request for which no response was begun is answered with status 503.
    How many consumers do not end even then is logged.

    :func:`channels_lifespan` calls it. Call it yourself where you tell a server to shut
    down in another way than by a signal. Consumers that are being ended already are not
    waited for, nor is the one that calls it.

    Args:
        timeout: In how many seconds to return, whatever happens.
    """
    here, asking = asyncio.get_running_loop(), asyncio.current_task()
    found = [reference() for reference in live_consumers.valuerefs()]
    ending = [
        live
        for live in found
        if live is not None
        and live.ended is None
        and live.task.get_loop() is here
        and live.task is not asking
    ]
    ended = await asyncio.gather(*(_end(live, timeout) for live in ending))
    left = Counter(
        type(live.consumer).__qualname__
        for live, has_ended in zip(ending, ended, strict=True)
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
        # ValueError: there is no signature to be had.
        with contextlib.suppress(ValueError):
            inspect.signature(cast("Callable[..., Any]", lifespan)).bind(None)
    except TypeError:
        raise TypeError(
            "channels_lifespan() takes a lifespan, a callable with one argument, the "
            f"application, not {lifespan!r}; if you have none of your own, write "
            "lifespan=channels_lifespan()"
        ) from None


# How a lifespan goes


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

    def start() -> None:
        if not tasks:
            tasks.append(loop.create_task(close_consumers(timeout)))

    def tell() -> None:
        # RuntimeError: the loop is closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(start)

    event = _find_worker_event()
    watcher = None if event is None else loop.create_task(_watch(event, start))
    try:
        with _listening(tell):
            try:
                yield
            finally:
                start()
                await tasks[0]
                # Those that have come since that began.
                await close_consumers(timeout)
    finally:
        if watcher is not None:
            watcher.cancel()


@contextlib.contextmanager
def _listening(tell: Callable[[], None]) -> Generator[None]:
    """Call a function when a signal comes that somebody else handles."""
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], Any]] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        tell()
        handlers[signal.Signals(number)](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            # Where nobody else handles it, the process does not shut down in order.
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
    """Return the event that tells a worker process of hypercorn to shut down.

    It gets no signal, and the application is not told before the clients have left.
    """
    # It is among the arguments of the process, and nowhere else to be found.
    process = multiprocessing.current_process()
    arguments = getattr(process, "_kwargs", {}) if "hypercorn" in sys.modules else {}
    return arguments.get("shutdown_event")


async def _watch(event: Any, start: Callable[[], None]) -> None:
    while not event.is_set():  # noqa: ASYNC110 # it is shared by processes
        await asyncio.sleep(_INTERVAL)
    start()


# How consumers end


async def _end(live: LiveConsumer, timeout: float) -> bool:
    """End a consumer, and return whether it has ended."""
    ended = live.ended = asyncio.Event()
    with _restarting(live) as close:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout / 2):
                await close()
                await ended.wait()
        # The first cancellation ends a handler, the second a disconnect() that hangs.
        for _ in range(2):
            if not ended.is_set():
                live.task.cancel()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), timeout / 4)
    return ended.is_set()


@contextlib.contextmanager
def _restarting(live: LiveConsumer) -> Generator[Callable[[], Awaitable[None]]]:
    """Make a consumer believe that its server restarts.

    Yields:
        What ends it as far as that can be done at once.
    """
    consumer: Any = live.consumer
    if consumer.scope.get("type") != "websocket":

        async def cancel() -> None:
            if consumer._consumer_restart():  # noqa: SLF001 # other names are the user's
                live.task.cancel()

        yield cancel
        return
    send = consumer.base_send
    handler = getattr(consumer, "websocket_disconnect", _do_nothing)

    async def close() -> None:
        # Servers raise what they like when it was closed already.
        with contextlib.suppress(Exception):
            event = {"type": "websocket.close", "code": _SERVICE_RESTART}
            await send_close(send, event)

    async def websocket_disconnect(event: ChannelMessage) -> None:
        await handler({**event, "code": _SERVICE_RESTART})

    # After the close there is nothing to send, also for a connect() that accepts now.
    consumer.base_send = _do_nothing
    # Not every server tells the code with which we have closed.
    consumer.websocket_disconnect = websocket_disconnect
    try:
        yield close
    finally:
        del consumer.websocket_disconnect


async def _do_nothing(event: object = None) -> None:
    pass
