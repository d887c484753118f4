"""The chat by hand: Starlette, one redis-py reader, and a loop over the sockets."""

# redis-py leaves the types of some arguments open.
# pyright: reportUnknownMemberType=false

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from . import LEAVE, LEFT, Publish


class Rooms:
    """The sockets in each room of this process."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(redis_url)
        self._pubsub: Any = self._redis.pubsub()
        self._members: dict[str, set[WebSocket]] = {}

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncGenerator[None]:
        """Read while the application runs."""
        # listen() returns when nothing is subscribed.
        await self._pubsub.subscribe("nothing")
        reader = asyncio.create_task(self._read())
        yield
        reader.cancel()
        await self._redis.aclose()

    async def _read(self) -> None:
        async for message in self._pubsub.listen():
            if message["type"] == "message":
                text = message["data"].decode()
                for socket in tuple(self._members.get(message["channel"].decode(), ())):
                    # The socket's own handler deals with its disconnect.
                    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                        await socket.send_text(text)

    async def join(self, room: str, socket: WebSocket) -> None:
        if room not in self._members:
            self._members[room] = {socket}
            await self._pubsub.subscribe(room)
        else:
            self._members[room].add(socket)

    async def leave(self, room: str, socket: WebSocket) -> None:
        members = self._members.get(room, set())
        members.discard(socket)
        if not members and room in self._members:
            del self._members[room]
            await self._pubsub.unsubscribe(room)

    async def serve(self, socket: WebSocket) -> None:
        """Serve a client."""
        room = socket.path_params["room"]
        await self.join(room, socket)
        try:
            await socket.accept()
            async for text in socket.iter_text():
                if text == LEAVE:
                    await self.leave(room, socket)
                    await socket.send_text(LEFT)
                else:
                    await self._redis.publish(room, text)
        finally:
            await self.leave(room, socket)


def make_application(redis_url: str) -> Starlette:
    """Return the chat."""
    rooms = Rooms(redis_url)
    return Starlette(
        routes=[WebSocketRoute("/ws/{room}", rooms.serve)], lifespan=rooms.lifespan
    )


@contextlib.asynccontextmanager
async def open_publisher(redis_url: str) -> AsyncGenerator[Publish]:
    """Yield a function that publishes a text to a room."""
    async with Redis.from_url(redis_url) as redis:

        async def publish(room: str, text: str) -> None:
            await redis.publish(room, text)

        yield publish
