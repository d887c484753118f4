"""The chat: a consumer for each connection, and a group for each room.

Both sides send JSON objects, in text frames. The browser sends:

    {"type": "join", "name": "Ada"}       first; again, to change the name
    {"type": "message", "text": "Hello"}  after it has joined

and the server:

    {"type": "joined", "room": "tea", "name": "Ada", "id": "5f0c"}  to the new person
    {"type": "notice", "event": "join", "name": "Ada"}      to the others; or "leave"
    {"type": "message", "name": "Ada", "text": "Hello", "own": false,
     "time": "2025-01-31T12:00:00+00:00"}                   to all; "own" for the author
    {"type": "error", "detail": "..."}                      to the sender

What goes to the others is sent to everyone in the room as a broadcast, with the ID of
its author in "from"; the author's browser ignores it.
"""

import asyncio
import contextlib
import secrets
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter

from fast_channels.consumer import broadcast
from fast_channels.exceptions import StopConsumer
from fast_channels.layers.redis import RedisUnavailable
from fast_channels.type_defs import ChannelMessage

from .answering import AnsweringConsumer
from .chat_rules import BAD_ROOM, ROOM_RULE, check_name, check_text, is_room

EXPECTED = "Expected a 'join' with a name or a 'message' with a text."


class Room(AnsweringConsumer):
    """A person in the room that the path names."""

    channel_layer_alias = "chat"

    name: str | None = None  # before they have joined

    async def connect(self) -> None:
        self.id = secrets.token_hex(4)
        self.room = str(self.scope["path_params"].get("room_name", "lobby"))
        self.group = f"room.{self.room}"
        # Accept first: browsers do not show why a connection was refused.
        await self.accept()
        if not is_room(self.room):
            await self.close(BAD_ROOM, ROOM_RULE)
            raise StopConsumer

    async def disconnect(self, code: int) -> None:
        if self.name is not None:
            # Without Redis the others cannot be notified; don't delay a shutdown.
            with contextlib.suppress(RedisUnavailable, TimeoutError):
                async with asyncio.timeout(1):
                    await self.notify("leave", self.name)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        match content:
            case {"type": "join", "name": str(name)}:
                await self.join(check_name(name))
            case {"type": "message", "text": str(text)}:
                await self.write(check_text(text, self.name))
            case _:
                raise ValueError(EXPECTED)

    async def join(self, name: str) -> None:
        """Enter the room, or change the name."""
        before, self.name = self.name, name
        await self.join_group(self.group)
        joined = {"type": "joined", "room": self.room, "name": name, "id": self.id}
        await self.send_json(joined)
        if before is not None:
            await self.notify("leave", before)
        await self.notify("join", name)

    async def write(self, text: str) -> None:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"type": "message", "name": self.name, "text": text, "time": time}
        await self.publish({**content, "own": False})
        # For the author, this also confirms that the message was sent.
        await self.send_json({**content, "own": True})

    async def notify(self, event: str, name: str) -> None:
        await self.publish({"type": "notice", "event": event, "name": name})

    async def publish(self, content: dict[str, Any]) -> None:
        """Send to everyone in the room, with the method below."""
        message = {"type": "chat", "content": {**content, "from": self.id}}
        await self.channel_layer.group_send(self.group, message)

    @broadcast
    def chat(cls, event: ChannelMessage) -> Any:
        return event["content"]


router = APIRouter()
router.add_websocket_route("/ws/lobby", Room.as_asgi())
# A path, so that a name with a slash is refused with a reason, not with a 404.
router.add_websocket_route("/ws/room/{room_name:path}", Room.as_asgi())
