"""The chat with python-socketio and its Redis manager.

A Socket.IO client joins with an event, and gets another one when it has joined.
"""

# python-socketio is installed only where this runs.
# mypy: disable-error-code="import-not-found"
# pyright: basic, reportMissingImports=false

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import socketio

from . import LEAVE, LEFT, Publish


def make_application(redis_url: str) -> Any:
    """Return the chat."""
    manager = socketio.AsyncRedisManager(redis_url)
    server = socketio.AsyncServer(async_mode="asgi", client_manager=manager)
    rooms: dict[str, str] = {}

    async def join(sid: str, room: str) -> None:
        rooms[sid] = room
        await server.enter_room(sid, room)
        await server.emit("joined", to=sid)

    async def say(sid: str, text: str) -> None:
        room = rooms[sid]
        if text == LEAVE:
            await server.leave_room(sid, room)
            await server.emit("text", LEFT, to=sid)
        else:
            await server.emit("text", text, room=room)

    async def disconnect(sid: str, *_: object) -> None:
        rooms.pop(sid, None)

    for handler in (join, say, disconnect):
        server.on(handler.__name__, handler)
    return socketio.ASGIApp(server)


@contextlib.asynccontextmanager
async def open_publisher(redis_url: str) -> AsyncGenerator[Publish]:
    """Yield a function that publishes a text to a room."""
    manager = socketio.AsyncRedisManager(redis_url, write_only=True)

    async def publish(room: str, text: str) -> None:
        await manager.emit("text", text, room=room)

    yield publish
