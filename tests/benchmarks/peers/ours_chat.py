"""The chat with fast_channels."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    register_channel_layer,
)

from . import LEAVE, LEFT, Publish

KIND: str = "pubsub"


def _make_layer(redis_url: str) -> BaseChannelLayer:
    # More capacity than any workload needs: the peers have no limit.
    if KIND == "memory":
        return InMemoryChannelLayer(capacity=100_000)
    layer = RedisPubSubChannelLayer if KIND == "pubsub" else RedisChannelLayer
    return layer(hosts=[redis_url], capacity=100_000)


class Room(AsyncWebsocketConsumer):
    channel_layer_alias = "chat"
    channel_layer: BaseChannelLayer  # pyright: ignore[reportIncompatibleVariableOverride] # it has one

    async def connect(self) -> None:
        self.room = self.scope["path_params"]["room"]
        await self.join_group(self.room)
        await self.accept()

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        if text_data == LEAVE:
            await self.leave_group(self.room)
            await self.send(LEFT)
        else:
            message = {"type": "chat.message", "text": text_data}
            await self.channel_layer.group_send(self.room, message)


class Chat(Room):
    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(event["text"])


def serve(consumer: type[Room], redis_url: str) -> Starlette:
    """Return the chat with a consumer."""
    register_channel_layer("chat", _make_layer(redis_url))
    return Starlette(routes=[WebSocketRoute("/ws/{room}", consumer.as_asgi())])


def make_application(redis_url: str) -> Starlette:
    """Return the chat."""
    return serve(Chat, redis_url)


@contextlib.asynccontextmanager
async def open_publisher(redis_url: str) -> AsyncGenerator[Publish]:
    """Yield a function that publishes a text to a room."""
    async with _make_layer(redis_url) as layer:

        async def publish(room: str, text: str) -> None:
            await layer.group_send(room, {"type": "chat.message", "text": text})

        yield publish
