"""A consumer that answers what is wrong, where others would end the connection."""

from typing import Any

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.layers.redis import RedisUnavailable

UNSENT = "Not sent: the server cannot reach Redis. Try again in a moment."


class AnsweringConsumer(AsyncJsonWebsocketConsumer):
    """Sends ``{"type": "error", "detail": "..."}`` for each frame that is refused.

    A subclass raises ``ValueError`` in ``receive_json()`` to refuse one.
    """

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        # A frame may also be nested too deeply to be decoded: the RecursionError.
        try:
            await super().receive(text_data, bytes_data, **kwargs)
        except (ValueError, RecursionError) as exc:
            await self.send_json({"type": "error", "detail": str(exc)})
        except RedisUnavailable:
            # If the connection broke just now, the others may have got it all the same.
            await self.send_json({"type": "error", "detail": UNSENT})
