"""Consumers for event streams."""

import asyncio
import functools
from typing import Any

from fast_channels.sse.events import HEADERS, HEARTBEAT, ServerSentEvent
from fast_channels.type_defs import ChannelMessage, HttpRequestEvent

from .event_stream_connection import EventStreamConnection
from .headers import Headers, encode_headers
from .http import AsyncHttpConsumer

__all__ = ["AsyncEventStreamConsumer"]


class AsyncEventStreamConsumer(AsyncHttpConsumer):
    """A consumer whose response is a stream of events, for ``EventSource`` in browsers.

    Join groups in :meth:`handle`, or list them in ``groups``, and call
    :meth:`send_event` in the handlers of messages. The stream goes on when ``handle()``
    has returned, until the client goes away, the application shuts down, or
    :meth:`end_stream` is called.

    To refuse a request, call ``send_response()`` in ``handle()``. A browser reconnects
    when the stream has ended, but not after a status other than 200.
    """

    heartbeat: float | None = 15
    """Seconds without an event after which a comment is sent, which keeps proxies from
    closing the connection; None for no comments."""

    @functools.cached_property
    def _consumer_connection(self) -> EventStreamConnection:
        return EventStreamConnection(self, self._consumer_timing)

    @property
    def last_event_id(self) -> str | None:
        """The ID of the last event that the browser got before it reconnected.

        None if there is none. It comes from the client, who can make it up.
        """
        for name, value in self.scope.get("headers") or ():
            if name == b"last-event-id":
                return value.decode(errors="replace") or None
        return None

    async def handle(self, body: bytes) -> None:
        """Prepare the stream; does nothing by default. The groups are joined already.

        Args:
            body: The whole body of the request.
        """

    async def start_stream(self, *, headers: Headers | None = None) -> None:
        """Begin the stream; called when ``handle()`` returns, or at the first event.

        Args:
            headers: More headers, as for ``send_headers()``.

        Raises:
            RuntimeError: It has begun already.
        """
        await self.send_headers(headers=[*HEADERS.items(), *encode_headers(headers)])
        # Servers can hold the headers back until the first part of the body.
        await self.send_body(HEARTBEAT, more_body=True)

    async def send_event(
        self,
        data: Any = None,
        *,
        event: str | None = None,
        id: str | None = None,  # noqa: A002 # the name in the format
        retry: float | None = None,
    ) -> None:
        """Send an event.

        Args:
            data: A str is sent as it is, and anything else as JSON. Without data,
                browsers report no event, but still note the ``id`` and the ``retry``.
            event: Its type; ``"message"`` by default.
            id: Its ID, which is the :attr:`last_event_id` of a browser that reconnects.
            retry: Seconds for the browser to wait before it reconnects.

        Raises:
            RuntimeError: The stream has ended.
            StopConsumer: The client is gone.
            TypeError: JSON cannot encode the data.
            ValueError: The type or the ID has a line break.
        """
        part = ServerSentEvent(data, event=event, id=id, retry=retry).encode()
        if not self._consumer_connection.response.started:
            await self.start_stream()
        await self.send_body(part, more_body=True)

    async def end_stream(self) -> None:
        """End the stream and the consumer; the browser reconnects after a while."""
        await self.send_body(b"")

    async def send(self, message: ChannelMessage) -> None:
        """Send an event of ASGI to the server; see ``AsyncHttpConsumer.send()``."""
        await super().send(message)
        self._consumer_connection.sent_at = asyncio.get_running_loop().time()

    async def http_request(self, message: HttpRequestEvent) -> None:
        """Call ``handle()`` when the body is complete, and begin the stream."""
        await super().http_request(message)
        response = self._consumer_connection.response
        begun = response.started or response.gone
        if not (begun or message.get("more_body", False)):
            await self.start_stream()
