"""The chat with Django Channels and channels_redis."""

# Channels is installed only where this runs.
# mypy: disable-error-code="import-not-found, misc, import-untyped"
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from django.conf import settings

from . import LEAVE, LEFT, Publish

KIND = "pubsub"

_BACKENDS = {
    "memory": "channels.layers.InMemoryChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "queue": "channels_redis.core.RedisChannelLayer",
}


def _configure(redis_url: str) -> None:
    options: dict[str, Any] = {"capacity": 100_000}
    if KIND != "memory":
        options["hosts"] = [redis_url]
    layer = {"BACKEND": _BACKENDS[KIND], "CONFIG": options}
    settings.configure(CHANNEL_LAYERS={"default": layer})


def make_application(redis_url: str) -> Any:
    """Return the chat."""
    _configure(redis_url)
    from channels.generic.websocket import (  # noqa: PLC0415 # it reads the settings
        AsyncWebsocketConsumer,
    )

    class Chat(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            self.room = self.scope["path"].rpartition("/")[2]
            await self.channel_layer.group_add(self.room, self.channel_name)
            await self.accept()

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard(self.room, self.channel_name)

        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            if text_data == LEAVE:
                await self.channel_layer.group_discard(self.room, self.channel_name)
                await self.send(LEFT)
            else:
                message = {"type": "chat.message", "text": text_data}
                await self.channel_layer.group_send(self.room, message)

        async def chat_message(self, event: dict[str, Any]) -> None:
            await self.send(event["text"])

    return Chat.as_asgi()


@contextlib.asynccontextmanager
async def open_publisher(redis_url: str) -> AsyncGenerator[Publish]:
    """Yield a function that publishes a text to a room."""
    _configure(redis_url)
    from channels.layers import get_channel_layer  # noqa: PLC0415 # as above

    layer: Any = get_channel_layer()

    async def publish(room: str, text: str) -> None:
        await layer.group_send(room, {"type": "chat.message", "text": text})

    yield publish
