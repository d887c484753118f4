"""The chat with Litestar and its channels plugin."""

# Litestar is installed only where this runs.
# mypy: disable-error-code="import-not-found, untyped-decorator"
# pyright: basic, reportMissingImports=false

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.redis import RedisChannelsPubSubBackend
from litestar.exceptions import WebSocketDisconnect
from redis.asyncio import Redis

from . import LEAVE, LEFT, Publish


@websocket("/ws/{room:str}")
async def serve(socket: WebSocket, room: str, channels: ChannelsPlugin) -> None:
    """Serve a client."""
    with contextlib.suppress(WebSocketDisconnect):
        async with channels.start_subscription([room]) as subscriber:
            await socket.accept()
            async with subscriber.run_in_background(socket.send_text):
                while (text := await socket.receive_text()) != LEAVE:
                    channels.publish(text, room)
        await socket.send_text(LEFT)
        await socket.receive_text()


def make_application(redis_url: str) -> Any:
    """Return the chat."""
    backend = RedisChannelsPubSubBackend(redis=Redis.from_url(redis_url))
    plugin = ChannelsPlugin(backend=backend, arbitrary_channels_allowed=True)
    return Litestar(route_handlers=[serve], plugins=[plugin])


@contextlib.asynccontextmanager
async def open_publisher(redis_url: str) -> AsyncGenerator[Publish]:
    """Yield a function that publishes a text to a room."""
    backend = RedisChannelsPubSubBackend(redis=Redis.from_url(redis_url))
    plugin = ChannelsPlugin(backend=backend, arbitrary_channels_allowed=True)

    async def publish(room: str, text: str) -> None:
        await plugin.wait_published(text, room)

    yield publish
