"""Frames that are encoded once and sent to many clients.

An ASGI server encodes each ``websocket.send`` itself. A server with the extension
``fast_channels.frame``, which it lists in the scope, can also send a frame that was
encoded before. That is a value of the event, with the name of the extension as its key.

The :class:`Frame` travels in the event, through all middleware. The server uses it if
the content of the event is still the frame's own object: middleware that changes the
content is respected, and other servers ignore the frame.

If no middleware sees the event, it isn't needed: the frame is written to the
:class:`SocketOutlet` of the connection, which the server opens while the client can
take a frame. :func:`socket_outlet` finds out whether ``send`` leads to the server
directly.
"""

import types
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from typing_extensions import override

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "EXTENSION",
    "Frame",
    "Outlet",
    "Renderer",
    "SocketOutlet",
    "Transport",
    "socket_outlet",
]

EXTENSION = "fast_channels.frame"
"""The name of the extension, in the scope and in events."""

# https://www.rfc-editor.org/rfc/rfc6455.html#section-5.2
_TEXT = 0x81
_BINARY = 0x82
_COMPRESSED = 0x40
_LENGTH_IN_2, _LENGTH_IN_8 = 126, 127
_END_OF_FLUSH = b"\x00\x00\xff\xff"


class Frame:
    """A WebSocket message for many clients.

    Args:
        content: The content; a str for a text frame.
    """

    __slots__ = ("_encoded", "_kind", "content")

    def __init__(self, content: str | bytes) -> None:
        self.content: str | bytes = content
        """The content."""
        self._kind = "text" if isinstance(content, str) else "bytes"
        # The bytes to write, by the size of the compression window.
        self._encoded: dict[int, bytes] = {}

    def encode(self, window_bits: int = 0) -> bytes:
        """Return the bytes to write.

        Args:
            window_bits: The size of the client's window for permessage-deflate, as a
                power of 2; 0 for no compression.
        """
        encoded = self._encoded.get(window_bits)
        if encoded is None:
            encoded = self._encoded[window_bits] = _encode(self.content, window_bits)
        return encoded

    def event(self) -> dict[str, Any]:
        """Return a new event that sends the content."""
        return {"type": "websocket.send", self._kind: self.content, EXTENSION: self}


def _encode(content: str | bytes, window_bits: int) -> bytes:
    head, payload = (
        (_TEXT, content.encode()) if isinstance(content, str) else (_BINARY, content)
    )
    if window_bits:
        # A new compressor for each frame, so that the bytes fit every client: a sender
        # can refer to less than the whole window, here to the frame itself. See
        # https://www.rfc-editor.org/rfc/rfc7692.html#section-7.2.1
        deflate = zlib.compressobj(wbits=-window_bits)
        payload = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
        payload = payload.removesuffix(_END_OF_FLUSH)
        head |= _COMPRESSED
    length = len(payload)
    if length < _LENGTH_IN_2:
        start = bytes((head, length))
    elif length < 1 << 16:
        start = bytes((head, _LENGTH_IN_2)) + length.to_bytes(2, "big")
    else:
        start = bytes((head, _LENGTH_IN_8)) + length.to_bytes(8, "big")
    return start + payload


class Transport(Protocol):
    """The part of a transport that an outlet uses."""

    def write(self, data: bytes, /) -> object:
        """Write to the socket; never wait."""


class Renderer(Protocol):
    """Makes frames of messages."""

    def frame(self, message: dict[str, Any]) -> Frame | None:
        """Return the frame for a message, or None for nothing; never raise."""


class Outlet:
    """Where the frames for one client go without waking its consumer.

    It is small, since a large group costs what has to be read for each member: all of
    that has left the processor's caches since the last message.
    """

    __slots__ = ("loop", "open", "renderers")

    def __init__(self) -> None:
        self.open: bool = False
        """Whether the client can take a frame."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the connection."""
        self.renderers: Mapping[str, Renderer] = {}
        """The renderers of the consumer's class, by the name of the handler."""

    def send(self, frame: Frame) -> None:
        """Send a frame. Only while it is open, and in its event loop."""
        raise NotImplementedError


class SocketOutlet(Outlet):
    """Writes frames to the transport of a server.

    The server opens it while the connection is open and the transport's buffer is not
    full; the consumer sets the other attributes of the base class.

    Args:
        transport: The transport.
    """

    __slots__ = ("shared", "transport", "window_bits")

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self.transport: Transport = transport
        """The transport."""
        self.window_bits: int = 0
        """The size of the client's compression window; 0 for no compression."""
        self.shared: bool = False
        """Whether a frame was written that the server has not encoded."""

    @override
    def send(self, frame: Frame) -> None:
        self.shared = True
        self.transport.write(frame.encode(self.window_bits))


def socket_outlet(scope: Mapping[str, Any], send: object) -> SocketOutlet | None:
    """Return the outlet of a server if nothing sees the events on their way to it.

    That is so if ``send`` is the server's own method, or that in functions that only
    pass events on: Starlette wraps it in one for each route and application.

    Args:
        scope: The scope of the connection.
        send: What the application got.
    """
    extensions: Mapping[str, Any] = scope.get("extensions") or {}
    if EXTENSION not in extensions:
        return None
    outlet: SocketOutlet = extensions[EXTENSION]["outlet"]
    while isinstance(send, types.FunctionType) and _only_passes_on(send):
        assert send.__closure__ is not None
        variables = zip(send.__code__.co_freevars, send.__closure__, strict=True)
        send = dict(variables)["send"].cell_contents
    server = getattr(send, "__self__", None)
    return outlet if getattr(server, "outlet", None) is outlet else None


def _only_passes_on(wrapper: types.FunctionType) -> bool:
    """Return whether a wrapper of ``send`` does nothing with a WebSocket's events.

    The wrapper of Starlette, in all releases so far:

    .. not run: a part of a function

    .. code-block:: text

        async def sender(message):
            nonlocal response_started
            if message["type"] == "http.response.start":
                response_started = True
            await send(message)

    Code without names cannot read an attribute, a global or a builtin, and without
    other constants it cannot read or write another key. So a wrapper that does more, in
    a future release, is not taken for this one, and sees every event.
    """
    code = wrapper.__code__
    return (
        wrapper.__module__ == "starlette._exception_handler"
        and code.co_name == "sender"
        and code.co_names == ()
        and code.co_varnames == ("message",)
        and set(code.co_freevars) == {"response_started", "send"}
        and set(code.co_consts) <= {None, "type", "http.response.start", True}
    )
