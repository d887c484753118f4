"""A user's consumers, only for type checkers."""

import json
from datetime import datetime
from typing import Any, Literal, NotRequired, TypedDict, assert_type

import uvicorn
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket as StarletteWebSocket
from typing_extensions import override

from fast_channels.consumer import (
    AsyncConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
)
from fast_channels.exceptions import AcceptConnection, DenyConnection, StopConsumer
from fast_channels.layers import BaseChannelLayer
from fast_channels.type_defs import (
    ASGI3Application,
    ASGIApplication,
    ASGIApplicationProtocol,
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelApplication,
    ChannelHeaders,
    ChannelMessage,
    ChannelScope,
    MiddlewareProtocol,
    WebSocketConnectEvent,
    WebSocketDisconnectEvent,
    WebSocketReceiveEvent,
)


class ChatEvent(TypedDict):
    """A message between the members of a room."""

    type: Literal["chat.message"]
    text: str
    sender: NotRequired[str]


class Room(AsyncWebsocketConsumer):
    """Overrides every method that can be overridden."""

    channel_layer_alias = "chat"
    groups = ["lobby"]

    def __init__(self, *args: Any, limit: int = 10, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limit = limit
        self.room: str | None = None

    @override
    async def connect(self) -> None:
        if "user" not in self.scope:
            raise DenyConnection
        if self.scope["path"] == "/plain":
            raise AcceptConnection
        room: str = self.scope["path_params"]["room"]
        self.room = room
        await self.join_group(room)
        self.groups.append(f"{room}.admins")
        await self.accept(subprotocol="v1", headers=[(b"x-room", room.encode())])

    @override
    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        if text_data is None or self.room is None:
            await self.send(bytes_data=bytes_data, close=True)
            await self.send("too late", close=4000)
            return
        event: ChatEvent = {"type": "chat.message", "text": text_data}
        assert_type(self.channel_layer, BaseChannelLayer)
        await self.channel_layer.group_send(self.room, event)
        await self.channel_layer.group_send(self.room, {"type": "chat.ping"})
        await self.channel_layer.send(self.channel_name, event)
        await self.channel_layer.group_add("others", self.channel_name)
        await self.channel_layer.group_discard("others", self.channel_name)
        await self.leave_group(self.room)

    @override
    async def disconnect(self, code: int) -> None:
        assert_type(self.groups, list[str])
        assert_type(self.channel_name, str)
        assert_type(self.scope, ChannelScope)

    async def chat_message(self, event: ChatEvent) -> None:
        await self.send(text_data=event["text"])

    async def chat_ping(self, event: dict[str, Any]) -> None:
        await self.close(code=4001, reason="no pings")

    async def chat_pong(self, event: ChannelMessage) -> None:
        await self.close(True)
        await self.base_send({"type": "websocket.close"})


class Overrider(AsyncWebsocketConsumer):
    """Overrides the event handlers, and the methods that they call."""

    channel_layer_alias: str | None = None
    groups: list[str] = []

    @override
    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        await super().__call__(scope, receive, send)

    @override
    async def dispatch(self, message: ChannelMessage) -> None:
        await super().dispatch(message)

    @override
    async def websocket_connect(self, message: WebSocketConnectEvent) -> None:
        await super().websocket_connect(message)

    @override
    async def websocket_receive(self, message: WebSocketReceiveEvent) -> None:
        await super().websocket_receive(message)

    @override
    async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
        assert_type(message.get("code"), int | None)
        await super().websocket_disconnect(message)

    @override
    async def accept(
        self, subprotocol: str | None = None, headers: ChannelHeaders | None = None
    ) -> None:
        await super().accept(subprotocol, headers)

    @override
    async def send(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> None:
        await super().send(text_data, bytes_data, close)

    @override
    async def close(
        self, code: int | bool | None = None, reason: str | None = None
    ) -> None:
        await super().close(code, reason)

    # As in the documentation of Channels.
    @override
    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        await super().receive(text_data=text_data, bytes_data=bytes_data)


class Dates(AsyncJsonWebsocketConsumer):
    """Has its own encoding of JSON."""

    @override
    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            await super().receive(text_data, bytes_data, at=datetime.min, **kwargs)
        except ValueError:
            await self.close(1003)

    @override
    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json({"content": content, "at": kwargs["at"]}, close=True)

    @override
    async def send_json(self, content: Any, close: bool | int = False) -> None:
        await super().send_json(content, close)

    @classmethod
    @override
    async def decode_json(cls, text_data: str) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(text_data)
        return decoded

    @classmethod
    @override
    async def encode_json(cls, content: object) -> str:
        return json.dumps(content, default=str)


class Plain(AsyncJsonWebsocketConsumer):
    """Is written as in the documentation."""

    channel_layer_alias = "chat"

    @override
    async def receive_json(self, content: Any) -> None:
        await self.channel_layer.group_send("room", {"type": "chat.message"})
        await super().send_json(content, close=4001)
        await super().receive_json(content)

    # As in Channels, and in frameworks that build on it.
    @override
    async def send_json(self, content: Any, close: bool = False) -> None:
        await super().send_json(content, close)


class Typed(AsyncJsonWebsocketConsumer):
    """Has types for the content from its clients."""

    @override
    async def receive_json(self, content: dict[str, Any], *, at: datetime) -> None:
        await self.send_json({"at": at.isoformat(), **content})


class Lifespan(AsyncConsumer):
    """Implements its own protocol."""

    async def lifespan_startup(self, message: ChannelMessage) -> None:
        await self.send({"type": "lifespan.startup.complete"})

    async def lifespan_shutdown(self, message: dict[str, Any]) -> None:
        await self.send({"type": "lifespan.shutdown.complete"})
        raise StopConsumer


class AddUser:
    """A middleware."""

    def __init__(self, inner: ASGIApplication) -> None:
        self.inner = inner

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        await self.inner({**scope, "user": "Ada"}, receive, send)


# A consumer can be used wherever an ASGI application can.
asgi: ASGI3Application = Room.as_asgi()
channel: ChannelApplication = Lifespan.as_asgi()
described: ASGIApplicationProtocol = Room.as_asgi(limit=5)
wrapped: ASGIApplication = AddUser(Room.as_asgi())
middleware: MiddlewareProtocol = AddUser(Room.as_asgi())
instance: ASGIApplication = Room()
assert_type(Room.as_asgi().__name__, str)
assert_type(Room.as_asgi().consumer_class, type[AsyncConsumer])

starlette = Starlette(
    routes=[
        WebSocketRoute("/rooms/{room}", Room.as_asgi()),
        WebSocketRoute("/wrapped", AddUser(Room.as_asgi())),
        Mount("/dates", Dates.as_asgi()),
        Route("/lifespan", Lifespan.as_asgi()),
    ]
)

router = APIRouter()
router.add_websocket_route("/dates", Dates.as_asgi())
app = FastAPI(routes=[WebSocketRoute("/ws", Room.as_asgi())])
app.router.add_websocket_route("/rooms/{room}", Room.as_asgi(limit=5))
app.include_router(router)
app.mount("/overrider", Overrider.as_asgi())


@app.websocket("/serve/{room}")
async def serve(websocket: WebSocket, room: str) -> None:
    """Serve a consumer in an endpoint."""
    await Room(room, limit=5).serve(websocket)


async def serve_with_starlette(websocket: StarletteWebSocket) -> None:
    """Serve a consumer in an endpoint of Starlette."""
    await Room().serve(websocket)


def main() -> None:
    """Serve a consumer without any framework."""
    uvicorn.run(Room.as_asgi())
    uvicorn.run(AddUser(Room.as_asgi()))
