"""Consumers for HTTP requests.

The request is received before the channel is read. Messages that arrive until
``handle()`` returns wait in the channel: ``handle()`` can receive them itself, and they
are dispatched after it if it leaves its response open.

Once the request is complete, the server sends only one more event, when the client is
gone: https://asgi.readthedocs.io/en/latest/specs/www.html#disconnect-receive-event.
One task waits for it, and cancels the handler that is running. It never cancels a
handler once the response is complete, since servers send the same event then.
"""

import asyncio
import contextlib
from collections.abc import (
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, TypeAlias, cast

from fast_channels.dispatching import DispatchLoop
from fast_channels.exceptions import StopConsumer
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ChannelMessage,
    ChannelScope,
    HttpDisconnectEvent,
    HttpRequestEvent,
)

from .groups import AsyncGroupConsumer
from .handlers import awaitable

__all__ = ["AsyncHttpConsumer"]

_Headers: TypeAlias = (
    Iterable[tuple[bytes | str, bytes | str]]
    | Mapping[bytes, bytes | str]
    | Mapping[str, bytes | str]
)

# https://www.rfc-editor.org/rfc/rfc9110.html#name-413-content-too-large
_CONTENT_TOO_LARGE = 413
# https://www.rfc-editor.org/rfc/rfc9110.html#name-503-service-unavailable
_SERVICE_UNAVAILABLE = 503

# Maximum seconds to pause after an event that the server should not have sent.
_PAUSE = 1.0

# Events that carry a part of the body; the last two need an extension of the server:
# https://asgi.readthedocs.io/en/latest/extensions.html
_BODY_EVENTS = frozenset(
    {
        "http.response.body",
        "http.response.zerocopysend",
        "http.response.pathsend",
    }
)


class AsyncHttpConsumer(AsyncGroupConsumer):
    """A consumer for one HTTP request.

    Override :meth:`handle`, which is called with the whole body of the request, and
    answer with :meth:`send_response`, or in parts with :meth:`send_headers` and
    :meth:`send_body`.

    With a channel layer, the response can stay open: ``handle()`` either waits for
    messages itself, with ``await self.channel_receive()``, or returns and lets the
    handlers of messages continue the response. The consumer ends with its response.

    If the client goes away before that, the running handler is cancelled, whether it is
    ``handle()`` or the handler of a message. ``disconnect()`` is called exactly once
    for every request, however it ends, and the channel and its groups are released. The
    consumer joins the groups of the class before it calls ``handle()``.
    """

    max_body_size: int | None = None
    """Maximum size of a request body in bytes; None for no limit.

    A larger body is answered with status 413 as soon as its size is known, without a
    call of ``handle()``.
    """

    # The parts of the request body received so far.
    __parts: list[bytes]
    __response: "_Response"
    __client: "_Client"
    # Whether disconnect() has yet to be called.
    __connected = False
    # Whether the request ends because the server restarts.
    __restarts = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__parts, self.__response = [], _Response()

    # Methods to override

    async def handle(self, body: bytes) -> None:
        """Answer the request; must be overridden.

        If the client goes away, the method is cancelled, and no exception reaches the
        server.

        Args:
            body: The whole body of the request.

        Raises:
            NotImplementedError: The method is not overridden.
        """
        raise NotImplementedError(
            f"{type(self).__qualname__} does not implement handle(), which answers "
            "requests"
        )

    async def disconnect(self) -> None:
        """Clean up after the request; does nothing by default.

        The response is over: do not send anything here. The method is also called if
        the request ended before ``handle()`` was called.
        """

    # Methods to call

    async def send_headers(
        self, *, status: int = 200, headers: _Headers | None = None
    ) -> None:
        """Begin the response.

        Servers can hold the headers back until the first part of the body is sent.

        Args:
            status: The status code.
            headers: A dict, or pairs of a name and a value, which can repeat a name
                to give it several values. A str is encoded as Latin-1, see
                https://www.rfc-editor.org/rfc/rfc9110.html#name-field-values.

        Raises:
            RuntimeError: The headers were sent already.
            TypeError: A name or a value is neither bytes nor a str, or the status is
                not an int.
        """
        if not isinstance(status, int):  # pyright: ignore[reportUnnecessaryIsInstance] # checks input
            raise TypeError(f"a status must be an int, not {status!r}")
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": _encode_headers(headers),
            }
        )

    async def send_body(self, body: bytes, *, more_body: bool = False) -> None:
        """Send a part of the body, by default the last one.

        The method waits while the client does not keep up, and gives the event loop a
        turn after every part but the last one.

        Args:
            body: The part.
            more_body: Whether more parts follow. If not, the response is complete, and
                no more messages of the channel layer are handled.

        Raises:
            AssertionError: The body is not bytes.
            RuntimeError: No headers were sent yet, or the response is complete.
            StopConsumer: The client is gone. The signal ends the handler, and then the
                consumer, without an error.
        """
        _require_bytes(body)
        await self.send(
            {"type": "http.response.body", "body": body, "more_body": more_body}
        )
        if more_body:
            # Servers drop what is sent to a client that is gone, without waiting. This
            # lets the watcher notice it, even if the handler never waits.
            await asyncio.sleep(0)

    async def send_response(
        self, status: int, body: bytes, *, headers: _Headers | None = None
    ) -> None:
        """Send a whole response.

        Args:
            status: The status code.
            body: The whole body.
            headers: As for ``send_headers()``.

        Raises:
            AssertionError: The body is not bytes. Nothing was sent.
            RuntimeError: A response was begun already.
            TypeError: As for ``send_headers()``. Nothing was sent.
        """
        _require_bytes(body)
        await self.send_headers(status=status, headers=headers)
        await self.send_body(body)

    async def send(self, message: ChannelMessage) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] # the base class leaves the arguments to the protocol
        """Send an event to the server.

        Args:
            message: An event as defined by
                https://asgi.readthedocs.io/en/latest/specs/www.html#http.

        Raises:
            RuntimeError: The event is not allowed at this point of the response.
            StopConsumer: The client is gone.
        """
        if self.__response.gone:
            raise _ClientGone
        # First, since servers report the client as gone once the response is complete.
        self.__response.advance(message)
        try:
            await self.base_send(message)
        except OSError as exc:
            # https://asgi.readthedocs.io/en/latest/specs/www.html#disconnected-client-send-exception
            self.__response.gone = True
            raise _ClientGone from exc

    # Handlers of ASGI events

    async def http_request(self, message: HttpRequestEvent) -> None:
        """Collect the body; call ``handle()`` when it is complete."""
        self.__parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body, self.__parts = b"".join(self.__parts), []
        # Typed as None, but code written like an endpoint returns a response.
        result: object = await awaitable(self.handle(body), self, "handle")
        response = self.__response
        if response.complete or response.gone:
            return
        did = "left its response open" if response.started else "sent no response"
        advice = (
            "send a response with send_response(), or the last part with send_body()"
        )
        if result is not None:
            raise RuntimeError(
                f"{type(self).__qualname__}.handle() {did} and returned {result!r}, "
                f"which is not sent: {advice}"
            )
        if self._consumer_layer() is None:
            name, reason = self._consumer_explain()
            raise RuntimeError(
                f"{name}.handle() {did}: {advice}; messages of a channel layer cannot "
                f"complete it, as {reason}"
            )

    async def http_disconnect(self, message: HttpDisconnectEvent) -> None:
        """Call ``disconnect()`` and end the consumer."""
        await self.__disconnect_once()
        raise StopConsumer

    # The beginning and the end of a request

    def _consumer_restart(self) -> bool:
        self.__restarts = True
        response = self.__response
        return response.is_event_stream and not response.complete

    def _consumer_prepare(self) -> None:
        kind = self.scope.get("type", "http")
        if kind != "http":
            raise ValueError(
                f"{type(self).__qualname__} serves HTTP requests, but was called for a "
                f"scope of type {kind!r}; give it a route for HTTP"
            )
        super()._consumer_prepare()
        self.__parts, self.__response = [], _Response()
        self.__connected, self.__restarts = True, False

    def _consumer_dispatcher(self) -> Callable[[ChannelMessage], Awaitable[None]]:
        return self.__serve

    async def __serve(self, message: ChannelMessage) -> None:
        with self.__client.interrupting():
            await self.dispatch(message)
        if self.__response.complete:
            raise StopConsumer

    async def _consumer_start(
        self,
        loop: DispatchLoop,
        receive: ASGIReceiveCallable,
        sources: Sequence[ASGIReceiveCallable],
    ) -> tuple[
        Sequence[ASGIReceiveCallable], Callable[[], ChannelMessage | None] | None
    ]:
        self.__client = _Client(receive, self.__response)
        heard = self.__client.receive
        await self.__require_size(_declared_size(self.scope))
        return await super()._consumer_start(loop, heard, [heard])

    async def _consumer_stopped(
        self,
        signal: Exception,
        loop: DispatchLoop,
        sources: Sequence[ASGIReceiveCallable],
    ) -> None:
        if isinstance(signal, _ClientGone):
            await self.dispatch({"type": "http.disconnect"})

    async def _consumer_begin(self, receive: ASGIReceiveCallable) -> None:
        await self._consumer_join_groups()
        size = 0
        while not self.__client.watched:
            event = await receive()
            size += len(event.get("body", b""))
            await self.__require_size(size)
            await self.__serve(event)

    async def __require_size(self, size: int) -> None:
        limit = self.max_body_size
        if limit is None or size <= limit:
            return
        await self.send_response(
            _CONTENT_TOO_LARGE,
            b"The body of the request is larger than %d bytes." % limit,
            headers=[(b"content-type", b"text/plain; charset=utf-8")],
        )
        raise StopConsumer

    async def _consumer_end(self, cause: BaseException | None) -> None:
        # The steps run in reverse order. If one of them is cancelled, the others still
        # run.
        async with contextlib.AsyncExitStack() as steps:
            steps.push_async_callback(super()._consumer_end, cause)
            steps.push_async_callback(self.__disconnect_at_last)
            steps.push_async_callback(self._consumer_leave_groups)
            if self.__restarts:
                steps.push_async_callback(self.__send_rest)
            steps.push_async_callback(self.__client.close)

    async def __disconnect_at_last(self) -> None:
        with self._consumer_logged("disconnect"):
            await self.__disconnect_once()

    async def __send_rest(self) -> None:
        """Complete the response, so that the client tries again."""
        # Servers can raise any exception when the client is gone.
        with contextlib.suppress(Exception):
            if not self.__response.started:
                await self.send_response(_SERVICE_UNAVAILABLE, b"")
            elif self.__response.is_event_stream:
                await self.send_body(b"")
            # Any other response stays incomplete, so that the client sees the loss.

    async def __disconnect_once(self) -> None:
        if self.__connected:
            self.__connected = False
            await awaitable(self.disconnect(), self, "disconnect")


class _ClientGone(StopConsumer):
    """Signal: the client is gone, which ends the running handler."""


class _Response:
    """The progress of a response."""

    __slots__ = ("_trailers", "complete", "gone", "is_event_stream", "started")

    def __init__(self) -> None:
        self.started = False
        """Whether the headers were sent."""
        self.is_event_stream = False
        """Whether the headers announce an event stream, which has no natural end."""
        self.complete = False
        """Whether the whole response was sent."""
        self.gone = False
        """Whether the client went away before the response was complete."""
        # Whether trailers follow the body.
        self._trailers = False

    def advance(self, event: ChannelMessage) -> None:
        """Record an event that is about to be sent.

        Raises:
            RuntimeError: The event is not allowed at this point.
        """
        kind = event["type"]
        if self.complete:
            raise RuntimeError(
                f"cannot send {kind}: the response is complete; send_body() needs "
                "more_body=True as long as more follows"
            )
        if kind == "http.response.start":
            if self.started:
                raise RuntimeError(
                    f"cannot send headers with status {event.get('status')}: the "
                    "headers of the response were sent already"
                )
            self.started = True
            self._trailers = event.get("trailers", False)
            self.is_event_stream = any(
                name.lower() == b"content-type"
                and value.lower().startswith(b"text/event-stream")
                for name, value in event.get("headers", ())
            )
        elif kind in _BODY_EVENTS:
            if not self.started:
                raise RuntimeError(
                    "cannot send a body before the headers: call send_headers() first, "
                    "or send_response()"
                )
            self.complete = not (event.get("more_body", False) or self._trailers)
        elif kind == "http.response.trailers":
            self.complete = not event.get("more_trailers", False)


class _Client:
    """Receives the request, and then waits for the client to go away.

    Args:
        receive: The ``receive()`` of the server.
        response: The response to the request.
    """

    __slots__ = ("_interrupted", "_receive", "_response", "_task", "_watcher")

    def __init__(self, receive: ASGIReceiveCallable, response: _Response) -> None:
        self._receive = receive
        self._response = response
        # The task of the running handler, cancelled when the client goes away.
        self._task: asyncio.Task[Any] | None = None
        # Whether the task was cancelled for that reason.
        self._interrupted = False
        # The task that waits for the client to go away, once the request is complete.
        self._watcher: asyncio.Task[None] | None = None

    @property
    def watched(self) -> bool:
        """Whether the request is complete."""
        return self._watcher is not None

    async def receive(self) -> dict[str, Any]:
        """Wait for the next event of the request.

        Raises:
            _ClientGone: The client is gone.
        """
        if self._watcher is not None:
            await self._watcher
            raise _ClientGone
        event = cast("dict[str, Any]", await self._receive())
        kind = event.get("type")
        if kind == "http.disconnect":
            self._response.gone = True
            raise _ClientGone
        if kind == "http.request" and not event.get("more_body", False):
            self._watcher = asyncio.create_task(self._watch())
        return event

    async def _watch(self) -> None:
        pause = 0.0
        while (await self._receive()).get("type") != "http.disconnect":
            # Middleware can replay the request, forever and without waiting.
            await asyncio.sleep(pause)
            pause = min(_PAUSE, 2 * pause + 0.001)
        response = self._response
        if response.gone or response.complete:
            return
        response.gone = True
        if self._task is not None:
            self._interrupted = True
            self._task.cancel()

    @contextlib.contextmanager
    def interrupting(self) -> Generator[None]:
        """Cancel the block when the client goes away.

        Raises:
            _ClientGone: The client went away, during the block or before it. The task
                is not left cancelled; any other cancellation propagates.
        """
        if self._response.gone:
            raise _ClientGone
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        others = task.cancelling()
        self._task = task
        try:
            yield
        except asyncio.CancelledError as exc:
            if self._interrupted and task.cancelling() == others + 1:
                raise _ClientGone from exc
            raise
        finally:
            self._task = None
            if self._interrupted:
                task.uncancel()

    async def close(self) -> None:
        """Stop waiting for the client to go away."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)


def _require_bytes(body: object) -> None:
    if not isinstance(body, bytes):
        raise AssertionError(  # noqa: TRY004 # as in Channels
            f"a body must be bytes, not {body!r}; encode it"
        )


def _encode_headers(headers: _Headers | None) -> list[tuple[bytes, bytes]]:
    pairs = cast(
        "Iterable[tuple[bytes | str, bytes | str]]",
        headers.items() if isinstance(headers, Mapping) else headers or (),
    )
    return [(_encode(name), _encode(value)) for name, value in pairs]


def _encode(part: object) -> bytes:
    if isinstance(part, str):
        return part.encode("latin-1")
    if not isinstance(part, bytes):
        raise TypeError(
            f"names and values of headers must be bytes or str, not {part!r}"
        )
    return part


def _declared_size(scope: ChannelScope) -> int:
    """Return the size of the body that the client declares, or 0."""
    for name, value in scope.get("headers") or ():
        if name == b"content-length":
            # ValueError: to refuse a malformed header is up to the server.
            with contextlib.suppress(ValueError):
                return int(value)
    return 0
