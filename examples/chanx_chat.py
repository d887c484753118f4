"""The room chat, written with chanx: ``uvicorn examples.chanx_chat:app``.

chanx (``pip install 'chanx[core]'``) validates and documents messages with pydantic; it
builds on the consumers and layers of fast_channels. With REDIS_URL, several servers
share the rooms. Connect a client to ws://localhost:8000/ws/room/tea, and send::

    {"action": "room_chat", "payload": {"message": "Hello"}}
"""

import os
from typing import Any, Literal

from chanx.core.decorators import channel, ws_handler
from chanx.fast_channels.websocket import AsyncJsonWebsocketConsumer
from chanx.messages.base import BaseMessage
from chanx.messages.incoming import PingMessage
from chanx.messages.outgoing import PongMessage
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisPubSubChannelLayer,
    register_channel_layer,
)
from fast_channels.lifespan import channels_lifespan
from fast_channels.type_defs import WebSocketDisconnectEvent

url = os.environ.get("REDIS_URL")
layer = RedisPubSubChannelLayer(hosts=[url]) if url else InMemoryChannelLayer()
register_channel_layer("chat", layer)


class RoomPayload(BaseModel):
    message: str
    room_name: str | None = None


class RoomChatMessage(BaseMessage):
    """A message from a client."""

    action: Literal["room_chat"] = "room_chat"
    payload: RoomPayload


class RoomNotificationMessage(BaseMessage):
    """A notification to everyone in the room."""

    action: Literal["room_notification"] = "room_notification"
    payload: RoomPayload


@channel(name="room_chat", description="Chat in rooms", tags=["chat", "rooms"])
class RoomChat(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "chat"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.room_name: str | None = None

    async def post_authentication(self) -> None:
        """Enter the room; chanx calls this when a connection is accepted."""
        self.room_name = self.scope["path_params"]["room_name"]
        await self.join_group(self.group)
        await self.tell("🚪 Somebody came in", exclude_current=True)

    @ws_handler(summary="Answer a ping")
    async def handle_ping(self, _message: PingMessage) -> PongMessage:
        return PongMessage()

    @ws_handler(summary="Say something", output_type=RoomNotificationMessage)
    async def handle_room_chat(self, message: RoomChatMessage) -> None:
        await self.tell(f"💬 {message.payload.message}")

    async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
        """Say goodbye; the consumer leaves its group automatically."""
        if self.room_name is not None:
            await self.tell("👋 Somebody left", exclude_current=True)
        await super().websocket_disconnect(message)

    @property
    def group(self) -> str:
        """The group of the room."""
        return f"room_{self.room_name}"

    async def tell(self, text: str, *, exclude_current: bool = False) -> None:
        """Send a text to everyone in the room."""
        payload = RoomPayload(message=text, room_name=self.room_name)
        await self.broadcast_message(
            RoomNotificationMessage(payload=payload),
            groups=[self.group],
            exclude_current=exclude_current,
        )


router = APIRouter()
router.add_websocket_route("/room/{room_name}", RoomChat.as_asgi())
app = FastAPI(lifespan=channels_lifespan())
app.include_router(router, prefix="/ws")
