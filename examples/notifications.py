"""Notifications from an HTTP endpoint or a script to every open page."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, StringConstraints

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.exceptions import StopConsumer
from fast_channels.layers import get_channel_layer
from fast_channels.layers.redis import RedisUnavailable
from fast_channels.type_defs import ChannelMessage

GROUP = "everybody"
TEXT_LENGTH = 200
TRY_AGAIN_LATER = 1013
NO_REDIS = "The server cannot reach Redis."


class Notifications(AsyncJsonWebsocketConsumer):
    """A page that shows notifications, and sends nothing."""

    channel_layer_alias = "notifications"

    async def connect(self) -> None:
        await self.accept()
        try:
            await self.join_group(GROUP)
        except RedisUnavailable:
            await self.close(TRY_AGAIN_LATER, NO_REDIS)
            raise StopConsumer from None
        await self.send_json({"type": "ready"})

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        """Ignore frames: notifications come through the layer."""

    async def notification(self, event: ChannelMessage) -> None:
        """Handle a message from ``notify()``."""
        content = {"text": event["text"], "source": event["source"]}
        await self.send_json({"type": "notification", **content})


async def notify(text: str, source: str) -> None:
    """Send a notification to everyone."""
    layer = get_channel_layer("notifications")
    assert layer is not None
    message = {"type": "notification", "text": text, "source": source}
    await layer.group_send(GROUP, message)


class Notification(BaseModel):
    text: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=TEXT_LENGTH),
    ]


router = APIRouter()
router.add_websocket_route("/ws/notifications", Notifications.as_asgi())


@router.post("/notify", status_code=202)
async def notify_everybody(notification: Notification) -> dict[str, str]:
    """Send a notification to every page that shows them."""
    try:
        await notify(notification.text, "POST /notify")
    except RedisUnavailable:
        raise HTTPException(503, NO_REDIS) from None
    return {"sent": notification.text}
