"""The consumer of a WebSocket that carries JSON."""

import logging
import textwrap
from typing import TYPE_CHECKING, Any, TypeAlias

from typing_extensions import override

from fast_channels.type_defs import WebSocketReceiveEvent

from .handlers import awaitable
from .json_frames import (
    INVALID_DATA,
    UNSUPPORTED_DATA,
    InvalidFrame,
    decode,
    encode,
)
from .websocket_consumer import AsyncWebsocketConsumer

__all__ = ["AsyncJsonWebsocketConsumer"]

# The logger of the consumers for WebSockets.
_logger = logging.getLogger(f"{__package__}.websocket")

# Maximum number of characters of an error in a frame that are logged.
_SHORT = 200

# For send_json(): a bool, or a close code. Any, so that overrides can declare bool, as
# in Channels.
_Close: TypeAlias = Any


class AsyncJsonWebsocketConsumer(AsyncWebsocketConsumer):
    """A consumer for a WebSocket that carries JSON in text frames.

    Override :meth:`receive_json`, and send with :meth:`send_json`.

    A frame that is not valid JSON closes the connection with code 1007, and a binary
    frame with 1003, see https://www.rfc-editor.org/rfc/rfc6455.html#section-7.4.1. Each
    such frame is logged in one line.
    """

    async def websocket_receive(self, message: WebSocketReceiveEvent) -> None:
        """Call ``receive()``; close the connection if the frame is not JSON."""
        try:
            await super().websocket_receive(message)
        except InvalidFrame as exc:
            _logger.warning(
                "%s closes the connection of %s with code %s: %r",
                type(self).__qualname__,
                self.scope.get("client"),
                exc.code,
                textwrap.shorten(str(exc), _SHORT),
            )
            await self.close(exc.code)

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
            ValueError: The frame is empty or binary, or ``decode_json()`` has raised
                ValueError or RecursionError. Unless an override catches it, the
                connection is closed with code 1003 or 1007.
        """
        if not text_data:
            binary = bytes_data is not None
            kind = "a binary" if binary else "an empty"
            raise InvalidFrame(
                UNSUPPORTED_DATA if binary else INVALID_DATA,
                f"expected a text frame with JSON, got {kind} frame",
            )
        try:
            content = await awaitable(self.decode_json(text_data), self, "decode_json")
        except (ValueError, RecursionError) as exc:
            raise InvalidFrame(INVALID_DATA, f"invalid JSON: {exc}") from exc
        await awaitable(self.receive_json(content, **kwargs), self, "receive_json")

    if TYPE_CHECKING:
        # Overrides can have any other parameters, or none.
        async def receive_json(self, content: Any, *args: Any, **kwargs: Any) -> None:
            """Handle the content of a frame."""

    else:

        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            """Handle the content of a frame; ignores it by default.

            Args:
                content: The decoded content.
                **kwargs: Arguments that an override of ``receive()`` adds. Without
                    such an override, leave the parameter out.
            """

    async def send_json(self, content: Any, close: _Close = False) -> None:
        """Send content as JSON to the client.

        Args:
            content: Content that ``encode_json()`` can encode.
            close: True, or a close code, to close the connection afterwards.

        Raises:
            TypeError: The content cannot be encoded.
            ValueError: The content has a float that is NaN or infinite.
        """
        await self.send(text_data=await self.encode_json(content), close=close)

    @override
    @classmethod
    def _consumer_encode(cls, content: object) -> str | bytes:
        encoding = cls.encode_json(content)
        try:
            encoding.send(None)
        except StopIteration as stop:
            return super()._consumer_encode(stop.value)
        encoding.close()
        raise TypeError(
            f"{cls.__qualname__}.encode_json() must not wait when it encodes the "
            "content of a broadcast"
        )

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        """Return the content of a text frame; override it for another decoder.

        Raises:
            ValueError: The text is not valid JSON, or has a value that cannot be sent
                on: NaN, an infinite number, or half of a surrogate pair.
            RecursionError: The content is nested too deeply.
        """
        return decode(text_data)

    @classmethod
    async def encode_json(cls, content: Any) -> str:
        """Return content as JSON; override it for another encoder.

        Raises:
            TypeError: The content cannot be encoded.
            ValueError: The content has a float that is NaN or infinite.
        """
        return encode(content)
