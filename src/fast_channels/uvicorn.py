"""A WebSocket protocol for uvicorn that sends frames which were encoded once.

::

    uvicorn --ws fast_channels.uvicorn:WebSocketProtocol app:app

It is uvicorn's ``websockets-sansio`` with the extension of :mod:`fast_channels.frames`.
"""

import asyncio
import zlib
from typing import Any, cast

from typing_extensions import override

try:
    from uvicorn.protocols.websockets.websockets_sansio_impl import (
        WebSocketsSansIOProtocol,
    )
    from websockets.extensions.permessage_deflate import PerMessageDeflate
    from websockets.protocol import State
except ImportError as _error:
    raise ImportError(
        "fast_channels.uvicorn needs uvicorn 0.38 or newer and websockets 13 or newer: "
        "pip install -U uvicorn websockets"
    ) from _error

from .frames import EXTENSION, Frame, SocketOutlet

__all__ = ["WebSocketProtocol"]

# What is used of uvicorn's class, which is no public interface.
_ATTRIBUTES = {"close_sent", "conn", "handshake_complete", "scope", "writable"}
_METHODS = {"connection_lost", "data_received", "run_asgi", "send", "shutdown"}


def check_base(base: type[Any]) -> None:
    """Check that the base class has what the subclass builds on.

    Raises:
        ImportError: This release of uvicorn has changed too much.
    """
    methods = {name: getattr(base, name, None) for name in ("__init__", *_METHODS)}
    names = {
        name
        for method in methods.values()
        for name in getattr(getattr(method, "__code__", None), "co_names", ())
    }
    missing = {name for name in _METHODS if methods[name] is None}
    missing |= _ATTRIBUTES - names
    if missing:
        import uvicorn  # noqa: PLC0415 # for the error only

        raise ImportError(
            f"fast_channels.uvicorn does not fit uvicorn {uvicorn.__version__}: "
            f"{base.__name__} has no {', '.join(sorted(missing))}. Run uvicorn with "
            "--ws websockets-sansio, with which broadcasts work too, or update "
            "fast_channels"
        )


check_base(WebSocketsSansIOProtocol)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's ``websockets-sansio`` protocol, with the extension for frames."""

    outlet: SocketOutlet
    """Where consumers write frames, while it is open."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.outlet = SocketOutlet(cast("asyncio.Transport", transport))

    @override
    async def run_asgi(self) -> None:
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"][EXTENSION] = {"outlet": self.outlet}
        await super().run_asgi()

    @override
    async def send(self, message: Any) -> None:
        outlet = self.outlet
        frame: Frame | None = message.get(EXTENSION)
        if (
            frame is not None
            and outlet.open
            # Middleware may have changed the content and kept the frame.
            and message.get("bytes", message.get("text")) is frame.content
        ):
            outlet.send(frame)
            return
        if outlet.shared:
            outlet.shared = False
            self._forget_window()
        await super().send(message)
        if message["type"] != "websocket.send":
            self._look()
            if outlet.open:
                # 3 kB of headers, which are in the scope too.
                vars(self).pop("request", None)
                vars(self).pop("response", None)

    # What opens and closes the outlet

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        # Older releases of uvicorn do not notice that the buffer is full.
        self.writable.clear()
        self._look()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self.writable.set()
        self._look()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.outlet.open:
            self._look()

    @override
    def eof_received(self) -> None:
        # The transport closes as soon as its buffer is empty.
        self.outlet.open = False
        super().eof_received()

    @override
    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._look()

    @override
    def shutdown(self) -> None:
        super().shutdown()
        self._look()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # So that a send() that waits ends: resume_writing() is not called any more.
        self.writable.set()
        self.outlet.open = False

    def _look(self) -> None:
        """Open or close the outlet."""
        extensions = self.conn.extensions
        deflate = extensions[0] if extensions else None
        outlet = self.outlet
        outlet.open = (
            self.conn.state is State.OPEN
            and self.handshake_complete
            and not self.close_sent
            and self.writable.is_set()
            and not self.transport.is_closing()
            and (deflate is None or type(deflate) is PerMessageDeflate)
        )
        if isinstance(deflate, PerMessageDeflate):
            outlet.window_bits = deflate.local_max_window_bits

    def _forget_window(self) -> None:
        """Have the connection's own compressor begin with an empty window.

        The window of its client ends with frames that this compressor does not know. A
        full flush makes it refer to nothing before; it has no data to flush, and the
        empty block that it returns need not be sent.
        """
        for deflate in self.conn.extensions:
            encoder = getattr(deflate, "encoder", None)
            if encoder is not None:
                encoder.flush(zlib.Z_FULL_FLUSH)
