"""Consumers for HTTP requests."""

import asyncio
import functools

from fast_channels.exceptions import StopConsumer
from fast_channels.type_defs import (
    ChannelMessage,
    HttpDisconnectEvent,
    HttpRequestEvent,
)

from .groups import AsyncGroupConsumer
from .handlers import awaitable
from .headers import Headers, encode_headers
from .http_connection import HttpConnection
from .layer_lookup import explain_missing, layer_of
from .signals import ClientGone

__all__ = ["AsyncHttpConsumer"]


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

    @functools.cached_property
    def _consumer_connection(self) -> HttpConnection:
        return HttpConnection(self, self._consumer_timing)

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
        self, *, status: int = 200, headers: Headers | None = None
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
        if not isinstance(status, int):
            raise TypeError(f"a status must be an int, not {status!r}")
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": encode_headers(headers),
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
        self, status: int, body: bytes, *, headers: Headers | None = None
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
        response = self._consumer_connection.response
        if response.gone:
            raise ClientGone
        # First, since servers report the client as gone once the response is complete.
        response.advance(message)
        try:
            await self.base_send(message)
        except OSError as exc:
            # https://asgi.readthedocs.io/en/latest/specs/www.html#disconnected-client-send-exception
            response.gone = True
            raise ClientGone from exc

    # Handlers of ASGI events

    async def http_request(self, message: HttpRequestEvent) -> None:
        """Collect the body; call ``handle()`` when it is complete."""
        connection = self._consumer_connection
        connection.parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = b"".join(connection.parts)
        connection.parts.clear()
        # Typed as None, but code written like an endpoint returns a response.
        result: object = await awaitable(self.handle(body), self, "handle")
        response = connection.response
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
        if layer_of(self) is None:
            name, reason = explain_missing(self)
            raise RuntimeError(
                f"{name}.handle() {did}: {advice}; messages of a channel layer cannot "
                f"complete it, as {reason}"
            )

    async def http_disconnect(self, message: HttpDisconnectEvent) -> None:
        """Call ``disconnect()`` and end the consumer."""
        await self._consumer_connection.disconnect_once()
        raise StopConsumer


def _require_bytes(body: object) -> None:
    if not isinstance(body, bytes):
        raise AssertionError(  # noqa: TRY004 # as in Channels
            f"a body must be bytes, not {body!r}; encode it"
        )
