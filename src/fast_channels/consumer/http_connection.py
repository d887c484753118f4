"""The connection of an HTTP consumer: its request, its response, its client.

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
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override

from fast_channels.dispatching import DispatchLoop
from fast_channels.exceptions import StopConsumer
from fast_channels.sources import Source
from fast_channels.type_defs import ChannelMessage, ChannelScope

from .connection import Dispatch, Step
from .groups import GroupConnection
from .handlers import awaitable
from .signals import ClientGone
from .timing import Timing

if TYPE_CHECKING:
    from .http import AsyncHttpConsumer

__all__ = ["HttpConnection", "Response"]

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


class HttpConnection(GroupConnection["AsyncHttpConsumer"]):
    """The connection of one HTTP request."""

    __slots__ = ("_client", "_connected", "_restarts", "parts", "response")

    def __init__(self, consumer: "AsyncHttpConsumer", timing: Timing) -> None:
        super().__init__(consumer, timing)
        self.parts: list[bytes] = []
        """The parts of the request body received so far."""
        self.response: Response = Response()
        """The response to the request."""
        # Whether disconnect() has yet to be called.
        self._connected = True
        # Whether the request ends because the server restarts.
        self._restarts = False

    @override
    def check(self) -> None:
        kind = self.consumer.scope.get("type", "http")
        if kind != "http":
            raise ValueError(
                f"{self.name} serves HTTP requests, but was called for a scope of type "
                f"{kind!r}; give it a route for HTTP"
            )
        super().check()

    @override
    async def serve(self, receive: Source, dispatch: Dispatch) -> None:
        client = self._client = _Client(receive, self.response)
        loop = self.new_loop(self._dispatch)
        await self.live(loop, client.receive, self.sources())

    def sources(self) -> list[Source]:
        """Return the sources of messages, besides the channel."""
        return [self._client.receive]

    async def handle_event(self, message: ChannelMessage) -> None:
        """Handle a message of a source or of the channel."""
        await self.consumer.dispatch(message)

    @override
    async def begin(self, receive: Source) -> None:
        await self._require_size(_declared_size(self.consumer.scope))
        await self.join_groups()
        size = 0
        while not self._client.watched:
            event = await receive()
            size += len(event.get("body", b""))
            await self._require_size(size)
            await self._dispatch(event)

    @override
    async def finish(
        self, signal: Exception, loop: DispatchLoop, sources: Sequence[Source]
    ) -> None:
        if isinstance(signal, ClientGone):
            await self.consumer.dispatch({"type": "http.disconnect"})

    @override
    def steps(self, cause: BaseException | None) -> list[Step]:
        rest = [self._send_rest] if self._restarts else []
        return [
            self._client.close,
            *rest,
            self.leave_groups,
            self._disconnect,
            *super().steps(cause),
        ]

    @override
    async def restart(self) -> None:
        self._restarts = True
        if self.response.is_event_stream and not self.response.complete:
            self.task.cancel()

    async def disconnect_once(self) -> None:
        """Call ``disconnect()``, unless that was done."""
        if self._connected:
            self._connected = False
            consumer = self.consumer
            await awaitable(consumer.disconnect(), consumer, "disconnect")

    async def _dispatch(self, message: ChannelMessage) -> None:
        with self._client.interrupting():
            await self.handle_event(message)
        if self.response.complete:
            raise StopConsumer

    async def _require_size(self, size: int) -> None:
        limit = self.consumer.max_body_size
        if limit is None or size <= limit:
            return
        await self.consumer.send_response(
            _CONTENT_TOO_LARGE,
            b"The body of the request is larger than %d bytes." % limit,
            headers=[(b"content-type", b"text/plain; charset=utf-8")],
        )
        raise StopConsumer

    async def _disconnect(self) -> None:
        with self.logged("disconnect"):
            await self.disconnect_once()

    async def _send_rest(self) -> None:
        """Complete the response, so that the client tries again."""
        # Servers can raise any exception when the client is gone.
        with contextlib.suppress(Exception):
            if not self.response.started:
                await self.consumer.send_response(_SERVICE_UNAVAILABLE, b"")
            elif self.response.is_event_stream:
                await self.consumer.send_body(b"")
            # Any other response stays incomplete, so that the client sees the loss.


class Response:
    """The progress of a response."""

    __slots__ = ("_trailers", "complete", "gone", "is_event_stream", "started")

    def __init__(self) -> None:
        self.started: bool = False
        """Whether the headers were sent."""
        self.is_event_stream: bool = False
        """Whether the headers announce an event stream, which has no natural end."""
        self.complete: bool = False
        """Whether the whole response was sent."""
        self.gone: bool = False
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

    def __init__(self, receive: Source, response: Response) -> None:
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
            ClientGone: The client is gone.
        """
        if self._watcher is not None:
            await self._watcher
            raise ClientGone
        event = cast("dict[str, Any]", await self._receive())
        kind = event.get("type")
        if kind == "http.disconnect":
            self._response.gone = True
            raise ClientGone
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
            ClientGone: The client went away, during the block or before it. The task
                is not left cancelled; any other cancellation propagates.
        """
        if self._response.gone:
            raise ClientGone
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        others = task.cancelling()
        self._task = task
        try:
            yield
        except asyncio.CancelledError as exc:
            if self._interrupted and task.cancelling() == others + 1:
                raise ClientGone from exc
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


def _declared_size(scope: ChannelScope) -> int:
    """Return the size of the body that the client declares, or 0."""
    for name, value in scope.get("headers") or ():
        if name == b"content-length":
            # ValueError: to refuse a malformed header is up to the server.
            with contextlib.suppress(ValueError):
                return int(value)
    return 0
