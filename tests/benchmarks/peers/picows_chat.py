"""The chat on picows, a WebSocket server in C: what the sockets alone cost.

It is not an ASGI server. Nothing comes between Redis and the sockets: no framework, no
task of a connection, and nothing for a client that reads slowly.
"""

# picows is installed only where this runs.
# mypy: disable-error-code="import-not-found, misc"
# pyright: basic, reportMissingImports=false

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from typing import Any

import uvloop
from picows import WSListener, WSMsgType, ws_create_server
from redis.asyncio import Redis

from . import LEAVE, LEFT, Publish


class Rooms:
    """The sockets in each room of this process."""

    def __init__(self, redis_url: str) -> None:
        self.redis = Redis.from_url(redis_url)
        self._pubsub: Any = self.redis.pubsub()
        self._members: dict[str, set[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def do(self, work: Any) -> None:
        """Run a coroutine in a task: the methods of listeners are none."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def open(self) -> None:
        """Subscribe, so that read() has something to listen to."""
        await self._pubsub.subscribe("nothing")

    async def read(self) -> None:
        """Send what is published."""
        async for message in self._pubsub.listen():
            if message["type"] == "message":
                for transport in self._members.get(message["channel"].decode(), ()):
                    transport.send(WSMsgType.TEXT, message["data"])

    async def join(self, room: str, transport: Any) -> None:
        if room not in self._members:
            self._members[room] = set()
            await self._pubsub.subscribe(room)
        self._members[room].add(transport)

    def leave(self, room: str, transport: Any) -> None:
        self._members[room].discard(transport)


class Client(WSListener):
    """A client in a room."""

    def __init__(self, room: str, rooms: Rooms) -> None:
        self._room = room
        self._rooms = rooms

    def on_ws_connected(self, transport: Any) -> None:
        self._rooms.do(self._rooms.join(self._room, transport))

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type is WSMsgType.TEXT:
            text = frame.get_payload_as_utf8_text()
            if text == LEAVE:
                self._rooms.leave(self._room, transport)
                transport.send(WSMsgType.TEXT, LEFT.encode())
            else:
                self._rooms.do(self._rooms.redis.publish(self._room, text))
        elif frame.msg_type is WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_ws_disconnected(self, transport: Any) -> None:
        self._rooms.leave(self._room, transport)


async def _serve(redis_url: str, listener: socket.socket) -> None:
    rooms = Rooms(redis_url)

    def connect(request: Any) -> Client:
        return Client(request.path.decode().rpartition("/")[2], rooms)

    await rooms.open()
    async with await ws_create_server(connect, sock=listener):
        await rooms.read()


def run(redis_url: str, listener: socket.socket) -> None:
    """Serve the chat."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(redis_url, listener))


@contextlib.asynccontextmanager
async def open_publisher(redis_url: str) -> AsyncGenerator[Publish]:
    """Yield a function that publishes a text to a room."""
    async with Redis.from_url(redis_url) as redis:

        async def publish(room: str, text: str) -> None:
            await redis.publish(room, text)

        yield publish
