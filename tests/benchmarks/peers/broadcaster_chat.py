"""The chat with Broadcaster and Starlette."""

# Broadcaster is installed only where this runs.
# mypy: disable-error-code="import-not-found"
# pyright: basic, reportMissingImports=false

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from broadcaster import Broadcast
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from . import LEAVE, LEFT, Publish


def make_application(redis_url: str) -> Starlette:
    """Return the chat."""
    broadcast: Any = Broadcast(redis_url)

    async def pass_on(socket: WebSocket, subscriber: Any) -> None:
        async for event in subscriber:
            await socket.send_text(event.message)

    async def serve(socket: WebSocket) -> None:
        room = socket.path_params["room"]
        async with broadcast.subscribe(channel=room) as subscriber:
            await socket.accept()
            sender = asyncio.create_task(pass_on(socket, subscriber))
            try:
                async for text in socket.iter_text():
                    if text == LEAVE:
                        break
                    await broadcast.publish(channel=room, message=text)
            finally:
                sender.cancel()
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.send_text(LEFT)
            await socket.receive()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        # Its reader can miss the first subscription, so subscribe once more.
        async with broadcast, broadcast.subscribe("one"), broadcast.subscribe("two"):
            yield

    return Starlette(routes=[WebSocketRoute("/ws/{room}", serve)], lifespan=lifespan)


@contextlib.asynccontextmanager
async def open_publisher(redis_url: str) -> AsyncGenerator[Publish]:
    """Yield a function that publishes a text to a room."""
    async with Broadcast(redis_url) as broadcast:

        async def publish(room: str, text: str) -> None:
            await broadcast.publish(channel=room, message=text)

        yield publish
