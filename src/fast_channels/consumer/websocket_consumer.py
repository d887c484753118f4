"""The consumer of a WebSocket."""

import functools
import logging
import weakref
from types import CoroutineType
from typing import Any, Protocol, cast

from fast_channels.denial import denial_events
from fast_channels.exceptions import (
    AcceptConnection,
    DenyConnection,
    StopConsumer,
)
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelHeaders,
    ChannelScope,
    WebSocketConnectEvent,
    WebSocketDisconnectEvent,
    WebSocketReceiveEvent,
)

from .groups import AsyncGroupConsumer
from .handlers import awaitable
from .signals import signal_in
from .websocket_connection import (
    ABNORMAL,
    CLOSED,
    CONNECTING,
    NORMAL,
    WebSocketConnection,
)

__all__ = ["AsyncWebsocketConsumer", "Connection"]

# The logger of the consumers for WebSockets.
_logger = logging.getLogger(f"{__package__}.websocket")

# Classes whose connect() left a connection undecided, which has been logged.
_undecided: "weakref.WeakSet[type[AsyncWebsocketConsumer]]" = weakref.WeakSet()


class Connection(Protocol):
    """A connection for ``serve()``, such as a ``WebSocket`` of Starlette or FastAPI."""

    @property
    def scope(self) -> ChannelScope:
        """The scope of the connection."""
        ...

    @property
    def receive(self) -> ASGIReceiveCallable:
        """A function that waits for the next event."""
        ...

    @property
    def send(self) -> ASGISendCallable:
        """A function that sends an event."""
        ...


class AsyncWebsocketConsumer(AsyncGroupConsumer):
    """A consumer for one WebSocket.

    Override :meth:`connect`, :meth:`receive` and :meth:`disconnect`, and add a method
    for each type of message that comes through the channel layer.

    ``disconnect(code)`` is called exactly once for every connection that was opened,
    however it ends:

    * with the code of ``close()``, if the consumer has closed it;
    * with the code that the server reports: the client's (1005 if it gave none), or
      1006 if the client has vanished;
    * with 1011 after an exception in a handler. The client gets a close frame with that
      code if the connection was open, and then the exception reaches the server;
    * with 1012 if the connection is cancelled because the server shuts down.

    In each case, the channel of the consumer and its groups are released.

    After ``close()``, frames from the client are dropped; messages of the channel layer
    are still handled until the client has answered, for 10 seconds at most.
    """

    @functools.cached_property
    def _consumer_connection(self) -> WebSocketConnection:
        return WebSocketConnection(self, self._consumer_timing)

    async def serve(self, websocket: Connection) -> None:
        """Serve the connection of an endpoint until it ends.

        Call it in an endpoint of FastAPI or Starlette that has dependencies or path
        parameters: ``await Chat(room=room, user=user).serve(websocket)``. Do not accept
        the connection in the endpoint: ``connect()`` accepts or refuses it.

        Args:
            websocket: Anything with ``scope``, ``receive`` and ``send`` as in ASGI.

        Raises:
            RuntimeError: The connection was accepted or closed already, or the instance
                has served another one.
        """
        # Only Starlette's WebSocket has this attribute.
        state = getattr(websocket, "application_state", None)
        if getattr(state, "name", "CONNECTING") != "CONNECTING":
            raise RuntimeError(
                "the connection was accepted or closed before "
                f"{type(self).__qualname__}.serve(): leave that to connect()"
            )
        await self(websocket.scope, websocket.receive, websocket.send)

    # Methods to override

    async def connect(self) -> None:
        """Accept or refuse a new connection; accepts it by default.

        Call ``accept()``, ``deny()`` or ``close()``, or raise ``AcceptConnection`` or
        ``DenyConnection``.
        """
        await self.accept()

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Handle a frame from the client; ignores it by default.

        Args:
            text_data: The content of a text frame, else None.
            bytes_data: The content of a binary frame, else None.
        """

    async def disconnect(self, code: int) -> None:
        """Clean up after the connection; does nothing by default.

        The connection is over: do not send to the client. The consumer has left its
        groups, but can still send to them.

        Args:
            code: The close code; see the class for its values.
        """

    # Methods to call

    async def accept(
        self, subprotocol: str | None = None, headers: ChannelHeaders | None = None
    ) -> None:
        """Accept the connection; do nothing if it was refused already.

        Args:
            subprotocol: One of the subprotocols that the client offered.
            headers: Headers to add to the response.
        """
        connection = self._consumer_connection
        if connection.state is CLOSED:
            return
        connection.accept()
        event: dict[str, Any] = {"type": "websocket.accept"}
        if subprotocol is not None:
            event["subprotocol"] = subprotocol
        if headers is not None:
            event["headers"] = list(headers)
        await connection.transmit(event)

    async def deny(
        self,
        status: int = 403,
        headers: ChannelHeaders | None = None,
        body: bytes = b"",
    ) -> None:
        """Refuse the connection with an HTTP response.

        Call it in ``connect()``, instead of ``accept()``. Nothing is sent to the client
        after that; ``disconnect()`` is called with the code that the server reports,
        usually 1006. A second call does nothing.

        Clients get the response, but pages in a browser learn only that the connection
        failed. A server without the extension
        https://asgi.readthedocs.io/en/latest/extensions.html#websocket-denial-response
        sends an empty 403.

        Args:
            status: The HTTP status of the response.
            headers: The headers; those that describe the body are added if missing.
            body: The body of the response.

        Raises:
            RuntimeError: The connection was accepted.
            TypeError: The body or a part of a header is not bytes.
            ValueError: The status is unknown in HTTP, or lower than 200.
        """
        events = denial_events(self.scope, status, headers, body)
        connection = self._consumer_connection
        if connection.accepted:
            raise RuntimeError(
                "cannot deny a connection that was accepted: call deny() instead of "
                "accept(), or close() with a code"
            )
        if connection.state is CLOSED:
            return
        connection.close(ABNORMAL)
        for event in events:
            await connection.transmit(event)

    async def send(  # pyright: ignore[reportIncompatibleMethodOverride] # a frame here, an event in the base class, as in Channels
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> None:
        """Send a frame to the client.

        Nothing is sent after ``close()`` or ``deny()``, nor in ``disconnect()`` to a
        client that has left. If the server fails to send because the client is gone,
        ``StopConsumer`` is raised: it ends the handler, and then the connection ends
        with the disconnect that the server reports.

        Args:
            text_data: The content of a text frame.
            bytes_data: The content of a binary frame; ignored if there is text.
            close: True, or a close code, to close the connection afterwards.

        Raises:
            TypeError: ``text_data`` is not a str, or ``bytes_data`` is not bytes.
            ValueError: Neither of them is given.
        """
        if text_data is not None:
            if not isinstance(text_data, str):  # the server would fail on it, or worse
                raise TypeError(
                    f"text_data must be a str, not {text_data!r}; "
                    "bytes go into bytes_data, and other content is yours to encode"
                )
            event: dict[str, Any] = {"type": "websocket.send", "text": text_data}
        elif bytes_data is not None:
            if not isinstance(bytes_data, bytes | bytearray | memoryview):
                raise TypeError(
                    f"bytes_data must be bytes, not {bytes_data!r}; "
                    "a str goes into text_data"
                )
            event = {"type": "websocket.send", "bytes": bytes(bytes_data)}
        else:
            raise ValueError("send() needs text_data or bytes_data")
        connection = self._consumer_connection
        if connection.state is not CLOSED:
            # transmit(), inlined: sending is most of the work of a consumer.
            try:
                await self.base_send(event)
            except Exception as exc:
                connection.raise_if_gone(exc)
                raise
        if close:
            await self.close(close)

    async def close(
        self,
        code: int | bool | None = None,
        reason: str | None = None,
    ) -> None:
        """Close the connection, or refuse it if it was not accepted yet.

        Frames from the client are dropped from now on. The connection ends with
        ``disconnect(code)`` when the client has answered, or after 10 seconds. A second
        call does nothing.

        Args:
            code: The close code; True and None mean 1000.
            reason: A text for the client, at most 123 bytes in UTF-8.

        Raises:
            TypeError: The code is not an int.
        """
        event: dict[str, Any] = {"type": "websocket.close"}
        if code is not None:
            if not isinstance(code, int):  # the server would fail on it, or worse
                raise TypeError(f"a close code must be an int, not {code!r}")
            event["code"] = NORMAL if code is True else code
        connection = self._consumer_connection
        if connection.state is CLOSED:
            return
        if reason is not None:
            event["reason"] = reason
        connection.close(event.get("code", NORMAL))
        await connection.transmit(event)
        connection.note_sent_close()

    @classmethod
    def _consumer_encode(cls, content: object) -> str | bytes:
        """Return the content of the frame for what a broadcast has returned."""
        if isinstance(content, str):
            return content
        if isinstance(content, bytes | bytearray | memoryview):
            return bytes(cast("bytes", content))
        raise TypeError(
            f"a broadcast must return a str or bytes, or None, not {content!r}"
        )

    # Handlers of ASGI events

    async def websocket_connect(self, message: WebSocketConnectEvent) -> None:
        """Join the groups and call ``connect()``.

        Raises:
            InvalidChannelLayerError: There are groups, but there is no channel layer.
        """
        connection = self._consumer_connection
        await connection.join_groups()
        try:
            await awaitable(self.connect(), self, "connect")
        except (AcceptConnection, DenyConnection, ExceptionGroup) as exc:
            signal = signal_in(exc, StopConsumer, DenyConnection, AcceptConnection)
            if isinstance(signal, AcceptConnection):
                await self.accept()
            elif isinstance(signal, DenyConnection):
                await self.close()
            else:
                raise
        if connection.state is CONNECTING and type(self) not in _undecided:
            _undecided.add(type(self))
            _logger.warning(
                "%s.connect() has returned without accept(), close() or deny(): the "
                "client waits until another handler calls one of them",
                type(self).__qualname__,
            )

    async def websocket_receive(self, message: WebSocketReceiveEvent) -> None:
        """Call ``receive()`` with the content of the frame."""
        text = message.get("text")
        received = (
            self.receive(bytes_data=message.get("bytes"))
            if text is None
            else self.receive(text_data=text)
        )
        # Checked here first: the call would be a noticeable part of a frame's cost.
        is_coroutine = type(received) is CoroutineType
        await (received if is_coroutine else awaitable(received, self, "receive"))

    async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
        """Leave the groups, call ``disconnect()`` and end the consumer."""
        connection = self._consumer_connection
        code = connection.leave(message)
        await connection.leave_groups()
        await connection.disconnect_once(code)
        raise StopConsumer
