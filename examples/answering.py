"""A consumer that answers invalid frames instead of closing the connection."""

from typing import Any

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.layers.redis import RedisUnavailable

UNSENT = "Not sent: the server cannot reach Redis. Try again in a moment."


class AnsweringConsumer(AsyncJsonWebsocketConsumer):
    """Sends ``{"type": "error", "detail": "..."}`` for each refused frame.

    To refuse a frame, a subclass raises ``ValueError`` in ``receive_json()``.
    """

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        # RecursionError: the frame is nested too deeply to be decoded.
        try:
            await super().receive(text_data, bytes_data, **kwargs)
        except (ValueError, RecursionError) as exc:
            await self.send_json({"type": "error", "detail": str(exc)})
        except RedisUnavailable:
            # If the connection has just broken, others may have received the message.
            await self.send_json({"type": "error", "detail": UNSENT})
