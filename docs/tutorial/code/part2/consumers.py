import re
from urllib.parse import parse_qs

from fast_channels.consumer import AsyncJsonWebsocketConsumer

ROOM_NAME = re.compile(r"[a-z0-9-]{1,30}")


class Room(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "chat"
    group = None

    async def connect(self):
        room = self.scope["path_params"]["room"]
        if not ROOM_NAME.fullmatch(room):
            await self.deny(404)
            return
        query = parse_qs(self.scope["query_string"].decode())
        self.name = query.get("name", ["Somebody"])[0]
        self.group = f"room.{room}"
        await self.join_group(self.group)
        await self.accept()
        message = {"type": "chat.notice", "text": f"{self.name} came in"}
        await self.channel_layer.group_send(self.group, message)

    async def receive_json(self, content):
        message = {"type": "chat.message", "name": self.name, "text": content["text"]}
        await self.channel_layer.group_send(self.group, message)

    async def disconnect(self, code):
        if self.group is not None:
            message = {"type": "chat.notice", "text": f"{self.name} left"}
            await self.channel_layer.group_send(self.group, message)

    async def chat_message(self, event):
        await self.send_json({"name": event["name"], "text": event["text"]})

    async def chat_notice(self, event):
        await self.send_json({"notice": event["text"]})
