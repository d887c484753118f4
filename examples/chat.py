"""The chat: a consumer for each connection, and a group with a history for each room.

Both sides send JSON objects, in text frames. The browser sends:

    {"type": "join", "name": "Ada", "tab": "d5e3"}  first; again, to change the name
    {"type": "message", "text": "Hello"}            after it has joined

"tab" is a secret of the tab, which makes the "id" below: by it the tab recognizes its
own messages, even after a reload. The address of the WebSocket can have the position to
resume from: "?since=0f6b9ad2.17".

The server sends:

    {"type": "joined", "room": "tea", "name": "Ada", "id": "5f0c", "complete": true}
        to the person; "complete" is false if messages are missing
    {"type": "notice", "event": "join", "name": "Ada", "from": "5f0c"}  or "leave"
    {"type": "message", "name": "Ada", "text": "Hello", "from": "5f0c",
     "time": "2025-01-31T12:00:00+00:00", "position": "0f6b9ad2.17"}
        to everyone in the room, the same for all
    {"type": "error", "detail": "..."}  to the sender
"""

import asyncio
import contextlib
import hashlib
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter

from fast_channels.consumer import broadcast
from fast_channels.exceptions import StopConsumer
from fast_channels.layers import GroupMessage, Resumed
from fast_channels.layers.redis import RedisUnavailable
from fast_channels.type_defs import ChannelMessage

from .answering import AnsweringConsumer
from .chat_rules import BAD_ROOM, ROOM_RULE, check_name, check_text, is_room

# https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
TRY_AGAIN_LATER = 1013
# Messages that a new person sees.
LATEST = 50

EXPECTED = "Expected a 'join' with a name or a 'message' with a text."


class Room(AnsweringConsumer):
    """A person in the room that the path names."""

    channel_layer_alias = "chat"

    name: str | None = None  # before they have joined

    async def connect(self) -> None:
        self.room = str(self.scope["path_params"].get("room_name", "lobby"))
        self.group = f"room.{self.room}"
        # A group without a history: who came and left yesterday does not matter.
        self.people = f"people.{self.room}"
        query = parse_qs(self.scope["query_string"].decode())
        (self.since,) = query.get("since", [None])[-1:]
        self.joined = {"type": "joined", "room": self.room, "complete": True}
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
                await self.join(check_name(name), str(content.get("tab", "")))
            case {"type": "message", "text": str(text)}:
                await self.write(check_text(text, self.name))
            case _:
                raise ValueError(EXPECTED)

    async def join(self, name: str, tab: str) -> None:
        """Enter the room, or change the name."""
        secret = tab or self.channel_name
        self.id = hashlib.sha256(secret.encode(errors="replace")).hexdigest()[:16]
        joined = {**self.joined, "name": name, "id": self.id}
        if self.name is not None:
            before, self.name = self.name, name
            await self.send_json(joined)
            await self.notify("leave", before)
        else:
            try:
                # What was missed follows when this handler has returned.
                resumed = await self.resume(self.since)
            except RedisUnavailable:
                # The page comes back after a while.
                await self.close(TRY_AGAIN_LATER)
                return
            self.name = name
            await self.send_json({**joined, "complete": resumed.complete})
            await self.join_group(self.people)
        await self.notify("join", name)

    async def resume(self, since: str | None) -> Resumed:
        return await self.join_group(self.group, since=since, last=LATEST)

    async def write(self, text: str) -> None:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"type": "message", "name": self.name, "text": text, "time": time}
        await self.publish(self.group, {**content, "from": self.id})

    async def notify(self, event: str, name: str) -> None:
        content = {"type": "notice", "event": event, "name": name}
        await self.publish(self.people, {**content, "from": self.id})

    async def publish(self, group: str, content: dict[str, Any]) -> None:
        """Send to everyone in the room, with the methods below."""
        message = {"type": f"chat.{content['type']}", "content": content}
        await self.channel_layer.group_send(group, message)

    # For the author, it also confirms that the message was sent.
    @broadcast
    def chat_message(cls, event: GroupMessage) -> Any:
        return {**event["content"], "position": event.position}

    @broadcast
    def chat_notice(cls, event: ChannelMessage) -> Any:
        return event["content"]

    async def group_gap(self, event: ChannelMessage) -> None:
        """Get what this connection was too slow for, or what Redis has lost."""
        resumed = await self.resume(event["position"])
        if not resumed.complete:
            joined = {**self.joined, "name": self.name, "id": self.id}
            await self.send_json({**joined, "complete": False})


router = APIRouter()
router.add_websocket_route("/ws/lobby", Room.as_asgi())
# A path, so that a name with a slash is refused with a reason, not with a 404.
router.add_websocket_route("/ws/room/{room_name:path}", Room.as_asgi())
