"""Consumers for HTTP requests.

The request is received first, and only then the channel: whatever comes through the
layer meanwhile waits for ``handle()``, which may receive it itself, and is dispatched
when ``handle()`` has returned and its response is still open.

From the end of the request on, the server has only one thing left to say: that the
client is gone, https://asgi.readthedocs.io/en/latest/specs/www.html#disconnect-receive-event.
One task waits for that, and cancels the handler that runs then. It never touches a
handler once the response is complete, since servers say the same then.
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

# The longest pause, in seconds, between two events that a server should not have sent.
_PAUSE = 1.0

# Events that carry a part of the body, the last two with an extension of the server:
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
    answer with :meth:`send_response`, or bit by bit with :meth:`send_headers` and
    :meth:`send_body`.

    With a channel layer the response may be left open: ``handle()`` waits for messages
    itself, with ``await self.channel_receive()``, or returns, and the handlers of
    messages go on with the response. The consumer ends with its response.

    When the client goes away before that, the handler that runs is cancelled, be it
    ``handle()`` or one for a message. ``disconnect()`` is called exactly once for every
    request, however it ends, and the channel is released together with its groups. The
    groups of the class are joined before ``handle()`` is called.
    """

    max_body_size: int | None = None
    """How many bytes the body of a request may have; None for any number.

    A larger one is answered with status 413 as soon as that is known, and ``handle()``
    is not called.
    """

    # What was received of the body.
    __parts: list[bytes]
    __response: "_Response"
    __client: "_Client"
    # Whether disconnect() is still to be called.
    __connected = False
    # Whether it ends since the server restarts.
    __restarts = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__parts, self.__response = [], _Response()

    # What subclasses override

    async def handle(self, body: bytes) -> None:
        """Answer the request; has to be overridden.

        When the client goes away, it is cancelled where it waits, and no exception
        reaches the server.

        Args:
            body: The whole body of the request.

        Raises:
            NotImplementedError: It is not overridden.
        """
        raise NotImplementedError(
            f"{type(self).__qualname__} does not implement handle(), which answers "
            "requests"
        )

    async def disconnect(self) -> None:
        """Clean up after the request; does nothing, unless overridden.

        Nothing can be sent to the client any more. It is called after ``handle()``,
        and also if that was not called, as for a request that ended early.
        """

    # What they call

    async def send_headers(
        self, *, status: int = 200, headers: _Headers | None = None
    ) -> None:
        """Begin the response.

        Servers may hold it back until the first part of the body is sent.

        Args:
            status: The status code.
            headers: A dict, or pairs of a name and a value, which are needed for a
                header with several values. A str is encoded as Latin-1, see
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

        It waits while the client does not keep up. Others get their turn on the event
        loop after each part that is not the last one.

        Args:
            body: The part.
            more_body: Whether more follows. Otherwise the response is complete, and
                messages that come through the channel layer are not handled any more.

        Raises:
            AssertionError: The body is not bytes.
            RuntimeError: No headers were sent yet, or the response is complete.
            StopConsumer: The client is gone. It ends the handler, and then the
                consumer, in good order.
        """
        _require_bytes(body)
        await self.send(
            {"type": "http.response.body", "body": body, "more_body": more_body}
        )
        if more_body:
            # For a handler that never waits: servers drop what is sent to a client
            # that is gone, at once, so that nobody would find time to notice.
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
            message: The event, as
                https://asgi.readthedocs.io/en/latest/specs/www.html#http has it.

        Raises:
            RuntimeError: The event cannot come at this point of the response.
            StopConsumer: The client is gone.
        """
        if self.__response.gone:
            raise _ClientGone
        # First, since servers say that the client is gone when all was sent.
        self.__response.advance(message)
        try:
            await self.base_send(message)
        except OSError as exc:
            # https://asgi.readthedocs.io/en/latest/specs/www.html#disconnected-client-send-exception
            self.__response.gone = True
            raise _ClientGone from exc

    # Handlers of the ASGI events

    async def http_request(self, message: HttpRequestEvent) -> None:
        """Collect the body, and call ``handle()`` when it is complete."""
        self.__parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body, self.__parts = b"".join(self.__parts), []
        # Typed as None; but one who comes from endpoints may return the response.
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
        """Call ``disconnect()``, and end the consumer."""
        await self.__disconnect_once()
        raise StopConsumer

    # How a request begins and ends

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
        self, signal: Exception, receive: ASGIReceiveCallable
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
        # The last one first. A cancellation may end any of the steps; the others are
        # made all the same.
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
        """Complete the response for a client that is to come again."""
        # Servers raise what they like when the client is gone.
        with contextlib.suppress(Exception):
            if not self.__response.started:
                await self.send_response(_SERVICE_UNAVAILABLE, b"")
            elif self.__response.is_event_stream:
                await self.send_body(b"")
            # Of anything else the client has to see that the rest is missing.

    async def __disconnect_once(self) -> None:
        if self.__connected:
            self.__connected = False
            await awaitable(self.disconnect(), self, "disconnect")


class _ClientGone(StopConsumer):
    """Signal: the client is gone, which ends the handler that runs."""


class _Response:
    """How far a response has come."""

    __slots__ = ("_trailers", "complete", "gone", "is_event_stream", "started")

    def __init__(self) -> None:
        self.started = False
        """Whether the headers were sent."""
        self.is_event_stream = False
        """Whether they say that it is one, which has no end of its own."""
        self.complete = False
        """Whether all was sent."""
        self.gone = False
        """Whether the client went away before that."""
        # Whether trailers follow the body.
        self._trailers = False

    def advance(self, event: ChannelMessage) -> None:
        """Take note of an event that is sent.

        Raises:
            RuntimeError: The event cannot come now.
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
    """Receives the request, and then waits for its client to go away.

    Args:
        receive: The server's.
        response: What the client waits for.
    """

    __slots__ = ("_interrupted", "_receive", "_response", "_task", "_watcher")

    def __init__(self, receive: ASGIReceiveCallable, response: _Response) -> None:
        self._receive = receive
        self._response = response
        # What runs a handler now, and is cancelled when the client goes away.
        self._task: asyncio.Task[Any] | None = None
        # Whether it was cancelled for that reason.
        self._interrupted = False
        # Waits for the client to go away, once the request is complete.
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
            # Middleware may replay the request, for ever and without waiting.
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
        """Cancel what is in the block when the client goes away.

        Raises:
            _ClientGone: That happened, or had happened already. The task is not left
                cancelled, and a cancellation by somebody else goes its way.
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
    """Return how long the body is, as far as the client says; else 0."""
    for name, value in scope.get("headers") or ():
        if name == b"content-length":
            # ValueError: it is for the server to refuse.
            with contextlib.suppress(ValueError):
                return int(value)
    return 0
