"""The consumers of the chat: one instance for each person in a room.

Both sides send JSON objects, in text frames. The browser sends:

    {"type": "join", "name": "Ada"}       first; again, to change the name
    {"type": "message", "text": "Hello"}  after it has joined

and the server:

    {"type": "joined", "room": "tea", "name": "Ada"}       to whom has joined
    {"type": "notice", "event": "join", "name": "Ada"}     to the others; or "leave"
    {"type": "message", "name": "Ada", "text": "Hello", "own": false,
     "time": "2025-01-31T12:00:00+00:00"}                  to all; "own" to the author
    {"type": "error", "detail": "..."}                     to whom sent what is wrong,
                                                           or what cannot be sent now

A room whose name is not valid is closed with code 4400, and the rule as the reason.
"""

import asyncio
import contextlib
import re
from datetime import UTC, datetime
from typing import Any

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.exceptions import StopConsumer
from fast_channels.layers.redis import RedisUnavailable
from fast_channels.type_defs import ChannelMessage

BAD_ROOM = 4400
ROOM = re.compile(r"[A-Za-z0-9_-]{1,50}")
ROOM_RULE = "A room name has 1 to 50 letters (A-Z), digits, hyphens and underscores."
NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,40}")
NAME_RULE = "A name has 1 to 40 characters, and no control characters."
TEXT_LENGTH = 2000
UNSENT = "Not sent: the server cannot reach Redis. Try again in a moment."


class Room(AsyncJsonWebsocketConsumer):
    """A person in the room that the path names."""

    channel_layer_alias = "chat"

    name: str | None = None
    """The name of the person; None before they have joined."""

    @property
    def room(self) -> str:
        """The name of the room."""
        return str(self.scope["path_params"]["room_name"])

    @property
    def group(self) -> str:
        """The group of everybody in the room."""
        return f"room.{self.room}"

    async def connect(self) -> None:
        # Accepted first: browsers do not learn why a connection was refused.
        await self.accept()
        if not ROOM.fullmatch(self.room):
            await self.close(BAD_ROOM, ROOM_RULE)
            raise StopConsumer

    async def disconnect(self, code: int) -> None:
        if self.name is not None:
            # While Redis is away nobody can be told, and a server that stops is not to
            # wait for it.
            with contextlib.suppress(RedisUnavailable, TimeoutError):
                async with asyncio.timeout(1):
                    await self.notify("leave", self.name)

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        # Whatever is wrong with a frame, the person stays in the room. A frame may
        # also be nested too deeply to be decoded: that is the RecursionError.
        try:
            await super().receive(text_data, bytes_data, **kwargs)
        except (ValueError, RecursionError) as exc:
            await self.send_json({"type": "error", "detail": str(exc)})
        except RedisUnavailable:
            # If the connection broke just now, the others may have got it all the same.
            await self.send_json({"type": "error", "detail": UNSENT})

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        match content:
            case {"type": "join", "name": str(name)}:
                await self.join(name.strip())
            case {"type": "message", "text": str(text)}:
                await self.write(text.strip())
            case _:
                raise ValueError(
                    "Expected a 'join' with a name or a 'message' with a text."
                )

    async def join(self, name: str) -> None:
        """Enter the room, or go on in it under another name."""
        if not NAME.fullmatch(name):
            raise ValueError(NAME_RULE)
        before, self.name = self.name, name
        await self.join_group(self.group)
        await self.send_json({"type": "joined", "room": self.room, "name": name})
        if before is not None:
            await self.notify("leave", before)
        await self.notify("join", name)

    async def write(self, text: str) -> None:
        """Send a message to everybody in the room."""
        if self.name is None:
            raise ValueError("Join the room with a name before you write.")
        if not 1 <= len(text) <= TEXT_LENGTH:
            raise ValueError(f"A message has 1 to {TEXT_LENGTH} characters.")
        time = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"name": self.name, "text": text, "time": time}
        await self.publish("chat.message", **content)
        # To the author, it also says that the message was sent.
        await self.send_json({"type": "message", "own": True, **content})

    async def notify(self, event: str, name: str) -> None:
        """Tell the others in the room who joins or leaves."""
        await self.publish("chat.notice", event=event, name=name)

    async def publish(self, message_type: str, **content: str) -> None:
        """Send a message to the group: the others' consumers handle it, below."""
        assert self.channel_layer is not None
        message = {"type": message_type, "sender": self.channel_name, **content}
        await self.channel_layer.group_send(self.group, message)

    async def chat_message(self, event: ChannelMessage) -> None:
        """Handle what ``write()`` published."""
        if event["sender"] != self.channel_name:
            content = {key: event[key] for key in ("name", "text", "time")}
            await self.send_json({"type": "message", "own": False, **content})

    async def chat_notice(self, event: ChannelMessage) -> None:
        """Handle what ``notify()`` published."""
        if event["sender"] != self.channel_name:
            content = {key: event[key] for key in ("name", "event")}
            await self.send_json({"type": "notice", **content})


class Lobby(Room):
    """A person in the room that everybody finds first."""

    @property
    def room(self) -> str:
        """The name of the room."""
        return "lobby"
