"""Consumers for WebSockets."""

import json
from typing import Any

from fast_channels.exceptions import (
    AcceptConnection,
    DenyConnection,
    InvalidChannelLayerError,
    StopConsumer,
)
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelHeaders,
    ChannelMessage,
    ChannelScope,
    WebSocketConnectEvent,
    WebSocketDisconnectEvent,
    WebSocketReceiveEvent,
)

from .base import AsyncConsumer

__all__ = ["AsyncJsonWebsocketConsumer", "AsyncWebsocketConsumer"]

# Close codes, https://www.rfc-editor.org/rfc/rfc6455.html#section-7.4.1
_NORMAL = 1000
_NO_CODE = 1005
_ABNORMAL = 1006
_INTERNAL_ERROR = 1011
_SERVICE_RESTART = 1012


class AsyncWebsocketConsumer(AsyncConsumer):
    """A consumer for one WebSocket.

    Override :meth:`connect`, :meth:`receive` and :meth:`disconnect`, and add a method
    for each type of message that comes through the channel layer.

    ``disconnect(code)`` is called exactly once for every connection that was opened,
    however it ends: closed by the client (with its code, or 1005 if it gave none), by
    the server (with the code of the closing), lost (1006), by an exception in a
    handler (1011; the exception still reaches the server), or by cancellation when the
    server shuts down (1012). Then its groups and its channel are released.
    """

    groups: list[str] = []  # noqa: RUF012 # every instance gets a copy
    """The groups to join before ``connect()`` is called.

    Each connection has a list of its own. All groups in it are left when the
    connection ends, those that were appended in the meantime too.
    """

    # Whether there was a websocket.connect, and whether disconnect() was called for it.
    _connected = False
    _disconnected = False
    # Whether close() was called.
    _closed = False
    # What disconnect() is to be told when no websocket.disconnect tells it.
    _close_code = _NORMAL
    # The groups that were left already.
    _left: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own_groups()

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Serve one WebSocket until it is closed.

        Cancelling ends it: ``disconnect(1012)`` is called, groups and channel are
        released.

        Raises:
            ValueError: The scope is not that of a WebSocket.
        """
        if scope.get("type", "websocket") != "websocket":
            raise ValueError(
                f"{type(self).__qualname__} serves WebSockets, but was called for a "
                f"scope of type {scope['type']!r}; give it a WebSocket route"
            )
        # A subclass may have a constructor that does not call ours.
        self._own_groups()
        await super().__call__(scope, receive, send)

    # What subclasses override

    async def connect(self) -> None:
        """Decide about a new connection; accepts it, unless overridden.

        Call ``accept()`` or ``close()``, or raise ``AcceptConnection`` or
        ``DenyConnection``.
        """
        await self.accept()

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Handle a frame from the client; ignores it, unless overridden.

        Args:
            text_data: The content of a text frame, else None.
            bytes_data: The content of a binary frame, else None.
        """

    async def disconnect(self, code: int) -> None:
        """Clean up after the connection; does nothing, unless overridden.

        Nothing can be sent to the client any more, and the groups have been left; to
        send to them is still possible.

        Args:
            code: The close code; see the class for its values.
        """

    # What they call

    async def accept(
        self, subprotocol: str | None = None, headers: ChannelHeaders | None = None
    ) -> None:
        """Accept the connection.

        Args:
            subprotocol: One of those that the client offered.
            headers: Headers to add to the response.
        """
        event: dict[str, Any] = {"type": "websocket.accept"}
        if subprotocol is not None:
            event["subprotocol"] = subprotocol
        if headers is not None:
            event["headers"] = list(headers)
        await self._transmit(event)

    async def send(  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] # a frame here, an event in the base class, as in Channels
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> None:
        """Send a frame to the client.

        Nothing is sent once ``close()`` was called. When the client turns out to be
        gone, ``StopConsumer`` is raised, and the connection ends with
        ``disconnect(1006)``.

        Args:
            text_data: The content of a text frame.
            bytes_data: The content of a binary frame; ignored if there is text.
            close: True, or a close code, to close the connection afterwards.

        Raises:
            TypeError: The content is not of the type that its frame has.
            ValueError: There is neither text nor bytes.
        """
        if text_data is not None:
            if not isinstance(text_data, str):  # pyright: ignore[reportUnnecessaryIsInstance] # the server would fail on it, or worse
                raise TypeError(
                    f"text_data must be a str, not {text_data!r}; "
                    "bytes go into bytes_data, and other content is yours to encode"
                )
            event: dict[str, Any] = {"type": "websocket.send", "text": text_data}
        elif bytes_data is not None:
            event = {"type": "websocket.send", "bytes": bytes_data}
        else:
            raise ValueError("send() needs text_data or bytes_data")
        if not self._closed:
            await self._transmit(event)
        if close:
            await self.close(close)

    async def close(
        self,
        code: int | bool | None = None,
        reason: str | None = None,
    ) -> None:
        """Close the connection, or refuse it if it was not accepted yet.

        The client's answer, or its absence, arrives as the disconnect. A second call
        does nothing.

        Args:
            code: The close code; True and None mean 1000.
            reason: A text for the client, at most 123 bytes in UTF-8.
        """
        if self._closed:
            return
        event: dict[str, Any] = {"type": "websocket.close"}
        if code is not None:
            event["code"] = self._close_code = _NORMAL if code is True else int(code)
        if reason is not None:
            event["reason"] = reason
        self._closed = True
        await self._transmit(event)

    async def join_group(self, group: str) -> None:
        """Join a group; it is left when the connection ends.

        Raises:
            InvalidChannelLayerError: The consumer has no channel layer.
            TypeError: The name is not valid.
        """
        layer = self._require_layer(f"cannot join group {group!r}")
        # First, so that it is left even if joining is cancelled half-way.
        if group not in self.groups:
            self.groups.append(group)
        await layer.group_add(group, self.channel_name)

    async def leave_group(self, group: str) -> None:
        """Leave a group; nothing happens if it was left or never joined.

        Raises:
            InvalidChannelLayerError: The consumer has no channel layer.
            TypeError: The name is not valid.
        """
        layer = self._require_layer(f"cannot leave group {group!r}")
        await layer.group_discard(group, self.channel_name)
        if group in self.groups:
            self.groups.remove(group)

    # Handlers of the ASGI events

    async def websocket_connect(self, message: WebSocketConnectEvent) -> None:
        """Join the groups and call ``connect()``.

        Raises:
            InvalidChannelLayerError: There are groups, but there is no channel layer.
        """
        if self.groups:
            layer = self._require_layer(f"cannot join its groups {self.groups!r}")
            for group in self.groups:
                await layer.group_add(group, self.channel_name)
        try:
            await self.connect()
        except AcceptConnection:
            await self.accept()
        except DenyConnection:
            await self.close()

    async def websocket_receive(self, message: WebSocketReceiveEvent) -> None:
        """Call ``receive()`` with what the frame holds."""
        text = message.get("text")
        if text is not None:
            await self.receive(text_data=text)
        else:
            await self.receive(bytes_data=message.get("bytes"))

    async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
        """Leave the groups, call ``disconnect()``, and end the consumer."""
        code = message.get("code")
        await self._leave_groups()
        await self._disconnect_once(_NO_CODE if code is None else code)
        raise StopConsumer

    # How a connection begins and ends

    async def _begin(self, receive: ASGIReceiveCallable) -> None:
        event = await receive()
        self._connected = event["type"] == "websocket.connect"
        await self.dispatch(event)

    async def _end(self, cause: BaseException | None) -> None:
        # A cancellation may end any of the steps; the others are made all the same.
        try:
            await self._leave_groups()
        finally:
            try:
                if self._connected:
                    with self._logged("disconnect"):
                        await self._disconnect_once(self._code_for(cause))
            finally:
                await super()._end(cause)

    def _code_for(self, cause: BaseException | None) -> int:
        if isinstance(cause, StopConsumer):
            return self._close_code
        return _INTERNAL_ERROR if isinstance(cause, Exception) else _SERVICE_RESTART

    async def _disconnect_once(self, code: int) -> None:
        if not self._disconnected:
            self._disconnected = True
            await self.disconnect(code)

    async def _leave_groups(self) -> None:
        layer = self.channel_layer
        if layer is None:
            return
        for group in tuple(self.groups):
            if group not in self._left:
                self._left = (*self._left, group)
                with self._logged(f"leave group {group!r}"):
                    await layer.group_discard(group, self.channel_name)

    async def _transmit(self, event: ChannelMessage) -> None:
        try:
            await self.base_send(event)
        except OSError as exc:
            # https://asgi.readthedocs.io/en/latest/specs/www.html#send-event: what a
            # server raises when the client is gone.
            self._close_code = _ABNORMAL
            raise StopConsumer from exc

    def _require_layer(self, what: str) -> BaseChannelLayer:
        if self.channel_layer is None:
            name, reason = self._explain_no_layer()
            raise InvalidChannelLayerError(
                f"{name} {what}, as it has no channel layer: {reason}"
            )
        return self.channel_layer

    def _own_groups(self) -> None:
        """Give this connection a list of groups of its own."""
        if "groups" in vars(self):
            return
        groups = self.groups
        if isinstance(groups, str):
            raise TypeError(
                f"{type(self).__qualname__}.groups must be a list of names of groups, "
                f"not a str: write [{groups!r}]"
            )
        self.groups = list(groups or ())


class AsyncJsonWebsocketConsumer(AsyncWebsocketConsumer):
    """A consumer for a WebSocket that carries JSON in text frames.

    Override :meth:`receive_json`, and send with :meth:`send_json`.
    """

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        """Decode a text frame and call ``receive_json()``.

        Args:
            text_data: The content of a text frame, else None.
            bytes_data: The content of a binary frame, else None.
            **kwargs: Further arguments for ``receive_json()``.

        Raises:
            ValueError: The frame is empty, binary, or not valid JSON. Unless it is
                caught in an override, it closes the connection.
        """
        if not text_data:
            kind = "a binary" if bytes_data is not None else "an empty"
            raise ValueError(f"expected a text frame with JSON, got {kind} frame")
        await self.receive_json(await self.decode_json(text_data), **kwargs)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Handle what the client sent; ignores it, unless overridden.

        Args:
            content: The decoded content.
            **kwargs: What an override of ``receive()`` added.
        """

    async def send_json(self, content: Any, close: bool | int = False) -> None:
        """Send content as JSON to the client.

        Args:
            content: What ``encode_json()`` can encode.
            close: True, or a close code, to close the connection afterwards.

        Raises:
            TypeError: The content cannot be encoded.
        """
        await self.send(text_data=await self.encode_json(content), close=close)

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        """Return the content of a text frame; override it for another decoder.

        Raises:
            ValueError: It is not valid JSON.
        """
        return json.loads(text_data)

    @classmethod
    async def encode_json(cls, content: Any) -> str:
        """Return content as JSON; override it for another encoder.

        Raises:
            TypeError: It cannot be encoded.
        """
        return json.dumps(content)
