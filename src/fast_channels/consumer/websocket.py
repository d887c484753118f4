"""Consumers for WebSockets."""

import asyncio
import contextlib
import functools
import json
from typing import Any

from fast_channels.denial import denial_events
from fast_channels.exceptions import (
    AcceptConnection,
    DenyConnection,
    InvalidChannelLayerError,
    StopConsumer,
)
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.loop import DispatchLoop
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ChannelHeaders,
    ChannelMessage,
    WebSocketConnectEvent,
    WebSocketDisconnectEvent,
    WebSocketReceiveEvent,
)

from .base import AsyncConsumer

__all__ = ["AsyncJsonWebsocketConsumer", "AsyncWebsocketConsumer"]

# For how many seconds a server may keep the news that the client has left, when it
# would not send to that client any more.
_PATIENCE = 1.0

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
    however it ends: with the code that the server tells (1005 if it tells none), or
    1006 when the client is gone without a word, 1011 after an exception in a handler
    (which still reaches the server), 1012 when the connection is cancelled since the
    server shuts down. Its groups and its channel are released in all of these.
    """

    groups: list[str] = []  # noqa: RUF012 # every instance gets a copy
    """The groups to join before ``connect()`` is called.

    Each connection has a list of its own. All groups in it are left when the
    connection ends, those that were appended in the meantime too.
    """

    # Whether there was a websocket.connect and no disconnect() for it yet.
    __connected = False
    # Whether accept() was called.
    __accepted = False
    # Whether close() or deny() was called, or the client has left.
    __closed = False
    # What disconnect() is to be told when no websocket.disconnect tells it.
    __close_code = _NORMAL
    # The groups to leave at the end, beside those in `groups`.
    __joined: list[str]
    # The groups that were left already.
    __left: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        groups = type(self).groups
        if isinstance(groups, list):  # pyright: ignore[reportUnnecessaryIsInstance] # it may be a property
            # Constructors may append to it.
            self.groups = list(groups)

    # What subclasses override

    async def connect(self) -> None:
        """Decide about a new connection; accepts it, unless overridden.

        Call ``accept()``, ``deny()`` or ``close()``, or raise ``AcceptConnection`` or
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
        """Accept the connection; nothing happens if it was refused already.

        Args:
            subprotocol: One of those that the client offered.
            headers: Headers to add to the response.
        """
        if self.__closed:
            return
        self.__accepted = True
        event: dict[str, Any] = {"type": "websocket.accept"}
        if subprotocol is not None:
            event["subprotocol"] = subprotocol
        if headers is not None:
            event["headers"] = list(headers)
        await self.__transmit(event)

    async def deny(
        self,
        status: int = 403,
        headers: ChannelHeaders | None = None,
        body: bytes = b"",
    ) -> None:
        """Refuse the connection, and say why in an HTTP response.

        It is for ``connect()``, instead of ``accept()``. Nothing is sent any more
        afterwards; ``disconnect()`` is called with what the server tells, most often
        1006. A second call does nothing.

        Clients see the response; but pages in a browser learn only that they could not
        connect. A server that cannot send a response, since it lacks the extension
        https://asgi.readthedocs.io/en/latest/extensions.html#websocket-denial-response,
        sends an empty 403.

        Args:
            status: The HTTP status of the response.
            headers: Its headers; those about the body's length and type are added.
            body: Its body.

        Raises:
            RuntimeError: The connection was accepted.
            TypeError: The body or a header is not of bytes.
            ValueError: The status is not one that HTTP has for a whole response.
        """
        events = denial_events(self.scope, status, headers, body)
        if self.__accepted:
            raise RuntimeError(
                "cannot deny a connection that was accepted: call deny() instead of "
                "accept(), or close() with a code"
            )
        if self.__closed:
            return
        self.__closed, self.__close_code = True, _ABNORMAL
        for event in events:
            await self.__transmit(event)

    async def send(  # pyright: ignore[reportIncompatibleMethodOverride] # a frame here, an event in the base class, as in Channels
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> None:
        """Send a frame to the client.

        Nothing is sent any more once ``close()`` or ``deny()`` was called, nor in
        ``disconnect()`` to a client that has left. When the client turns out to be
        gone, ``StopConsumer`` is raised: it ends the handler, and then the connection
        ends with the disconnect that the server tells.

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
            if not isinstance(bytes_data, bytes | bytearray | memoryview):  # pyright: ignore[reportUnnecessaryIsInstance] # as above
                raise TypeError(
                    f"bytes_data must be bytes, not {bytes_data!r}; "
                    "a str goes into text_data"
                )
            event = {"type": "websocket.send", "bytes": bytes(bytes_data)}
        else:
            raise ValueError("send() needs text_data or bytes_data")
        if not self.__closed:
            # As __transmit() does; most of what a consumer does is this.
            try:
                await self.base_send(event)
            except Exception as exc:
                if self.__is_gone(exc):
                    raise _ClientGone from exc
                raise
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

        Raises:
            TypeError: The code is not an int.
        """
        event: dict[str, Any] = {"type": "websocket.close"}
        if code is not None:
            if not isinstance(code, int):  # pyright: ignore[reportUnnecessaryIsInstance] # the server would fail on it, or worse
                raise TypeError(f"a close code must be an int, not {code!r}")
            event["code"] = _NORMAL if code is True else code
        if self.__closed:
            return
        self.__close_code = event.get("code", _NORMAL)
        if reason is not None:
            event["reason"] = reason
        self.__closed = True
        await self.__transmit(event)

    async def join_group(self, group: str) -> None:
        """Join a group; it is left when the connection ends.

        Raises:
            InvalidChannelLayerError: The consumer has no channel layer.
            TypeError: The name is not valid.
        """
        layer = self.__require_layer(f"cannot join group {group!r}")
        # First, so that it is left even if joining is cancelled half-way.
        if group not in self.__joined:
            self.__joined.append(group)
        try:
            await layer.group_add(group, self.channel_name)
        except TypeError:
            self.__joined.remove(group)
            raise

    async def leave_group(self, group: str) -> None:
        """Leave a group; nothing happens if it was left or never joined.

        Raises:
            InvalidChannelLayerError: The consumer has no channel layer.
            TypeError: The name is not valid.
        """
        layer = self.__require_layer(f"cannot leave group {group!r}")
        await layer.group_discard(group, self.channel_name)
        if group in self.__joined:
            self.__joined.remove(group)

    # Handlers of the ASGI events

    async def websocket_connect(self, message: WebSocketConnectEvent) -> None:
        """Join the groups and call ``connect()``.

        Raises:
            InvalidChannelLayerError: There are groups, but there is no channel layer.
        """
        if self.groups:
            layer = self.__require_layer(f"cannot join its groups {self.groups!r}")
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
        if code is None:
            code = self.__close_code if self.__closed else _NO_CODE
        # There is nobody any more to send to.
        self.__closed = True
        await self.__leave_groups()
        await self.__disconnect_once(code)
        raise StopConsumer

    # How a connection begins and ends

    def _consumer_prepare(self) -> None:
        kind = self.scope.get("type", "websocket")
        if kind != "websocket":
            raise ValueError(
                f"{type(self).__qualname__} serves WebSockets, but was called for a "
                f"scope of type {kind!r}; give it a WebSocket route"
            )
        groups: object = self.groups
        if isinstance(groups, str):
            raise TypeError(
                f"{type(self).__qualname__}.groups must be a list of names of groups, "
                f"not a str: write [{groups!r}]"
            )
        # An instance may serve several connections, one after the other.
        self.__accepted, self.__closed = False, False
        self.__close_code, self.__left = _NORMAL, ()
        self.__joined = list(self.groups or ())
        # AttributeError: it is a property, which tells the groups of the scope.
        with contextlib.suppress(AttributeError):
            self.groups = self.__joined

    async def _consumer_begin(self, receive: ASGIReceiveCallable) -> None:
        event = await receive()
        self.__connected = event.get("type") == "websocket.connect"
        await self.dispatch(event)

    async def _consumer_attend(
        self, loop: DispatchLoop, receive: ASGIReceiveCallable
    ) -> None:
        if self.channel_layer is None:
            await super()._consumer_attend(loop, receive)
        else:
            # A layer wakes consumers more often than their clients do.
            await loop.listen(receive, self._consumer_serve(loop, receive, ()))

    async def _consumer_stopped(
        self, signal: StopConsumer, receive: ASGIReceiveCallable
    ) -> None:
        if isinstance(signal, _ClientGone):
            # The handler that could not send has ended; the event is what the server
            # would have told had nothing been sent.
            event = self.__received_disconnect() or await _await_disconnect(receive)
            await self.dispatch(event)

    def __received_disconnect(self) -> ChannelMessage | None:
        """Return the event that says that the client has left, if it was received."""
        for item in self._consumer_received:
            if not isinstance(item, BaseException) and _is_disconnect(item[0]):
                return item[0]
        return None

    async def _consumer_end(self, cause: BaseException | None) -> None:
        # A cancellation may end any of the steps; the others are made all the same.
        try:
            await self.__leave_groups()
        finally:
            try:
                with self._consumer_logged("disconnect"):
                    await self.__disconnect_once(self.__code_for(cause))
            finally:
                await super()._consumer_end(cause)

    def __code_for(self, cause: BaseException | None) -> int:
        if isinstance(cause, StopConsumer):
            return self.__close_code
        return _INTERNAL_ERROR if isinstance(cause, Exception) else _SERVICE_RESTART

    async def __disconnect_once(self, code: int) -> None:
        if self.__connected:
            self.__connected = False
            await self.disconnect(code)

    async def __leave_groups(self) -> None:
        layer = self.channel_layer
        if layer is None or self.channel_name is None:  # pyright: ignore[reportUnnecessaryComparison] # None until there is one
            return
        cancelled: asyncio.CancelledError | None = None
        for group in dict.fromkeys((*self.__joined, *(self.groups or ()))):
            if group in self.__left:
                continue
            self.__left = (*self.__left, group)
            leave = functools.partial(layer.group_discard, group, self.channel_name)
            try:
                await self._consumer_release(leave, f"leave group {group!r}")
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled

    async def __transmit(self, event: ChannelMessage) -> None:
        try:
            await self.base_send(event)
        except Exception as exc:
            if self.__is_gone(exc):
                raise _ClientGone from exc
            raise

    def __is_gone(self, exc: Exception) -> bool:
        """Return whether the server's ``send()`` has raised as the client is gone."""
        # Servers raise an OSError then, see
        # https://asgi.readthedocs.io/en/latest/specs/www.html#send-event, and what
        # they like once they have said so.
        return isinstance(exc, OSError) or self.__received_disconnect() is not None

    def __require_layer(self, what: str) -> BaseChannelLayer:
        if self.channel_layer is None:
            name, reason = self._consumer_explain()
            raise InvalidChannelLayerError(
                f"{name} {what}, as it has no channel layer: {reason}"
            )
        return self.channel_layer


class _ClientGone(StopConsumer):
    """Signal: the client is gone, which ends the handler that sends to it."""


def _is_disconnect(event: ChannelMessage) -> bool:
    return event.get("type") == "websocket.disconnect"


async def _await_disconnect(receive: ASGIReceiveCallable) -> ChannelMessage:
    """Receive the event that says that the client has left; make one up if need be."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while not _is_disconnect(event := await receive()):
                pass
            return event
    return {"type": "websocket.disconnect", "code": _ABNORMAL}


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
