"""A room chat written with chanx, a framework based on fast_channels."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Literal, TypeAlias

import pytest
from chanx.core.authenticator import BaseAuthenticator
from chanx.core.decorators import channel, ws_handler
from chanx.core.topic import Topic
from chanx.core.websocket import ChanxWebsocketConsumerMixin
from chanx.fast_channels.testing import WebsocketCommunicator
from chanx.fast_channels.websocket import AsyncJsonWebsocketConsumer
from chanx.messages.base import BaseMessage
from chanx.messages.incoming import PingMessage
from chanx.messages.outgoing import PongMessage
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from fast_channels import consumer
from fast_channels.layers import InMemoryChannelLayer
from fast_channels.type_defs import WebSocketDisconnectEvent

Join: TypeAlias = Callable[[str], AbstractAsyncContextManager[WebsocketCommunicator]]


class RoomMessagePayload(BaseModel):
    message: str
    room_name: str | None = None


class RoomChatMessage(BaseMessage):
    """A message from a client."""

    action: Literal["room_chat"] = "room_chat"
    payload: RoomMessagePayload


class RoomNotificationMessage(BaseMessage):
    """A notification to everyone in a room."""

    action: Literal["room_notification"] = "room_notification"
    payload: RoomMessagePayload


@channel(name="room_chat", description="Chat in rooms", tags=["chat", "rooms"])
class RoomChatConsumer(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "default"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.room_name: str | None = None
        self.room_group_name: str | None = None

    @ws_handler(summary="Answer a ping")
    async def handle_ping(self, _message: PingMessage) -> PongMessage:
        return PongMessage()

    @ws_handler(summary="Say something", output_type=RoomNotificationMessage)
    async def handle_room_chat(self, message: RoomChatMessage) -> None:
        await self.notify(f"💬 {message.payload.message}")

    async def post_authentication(self) -> None:
        self.room_name = self.scope["path_params"]["room_name"]
        self.room_group_name = f"room_{self.room_name}"
        await self.channel_layer.group_add(self.room_group_name, self.channel_name)
        if self.room_group_name not in self.groups:
            self.groups.append(self.room_group_name)
        await self.notify("🚪 joined", exclude_current=True)

    async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
        if self.room_group_name:
            await self.notify("👋 left", exclude_current=True)
            await self.channel_layer.group_discard(
                self.room_group_name, self.channel_name
            )
        await super().websocket_disconnect(message)

    async def notify(self, text: str, *, exclude_current: bool = False) -> None:
        assert self.room_group_name
        await self.broadcast_message(
            RoomNotificationMessage(
                payload=RoomMessagePayload(message=text, room_name=self.room_name)
            ),
            groups=[self.room_group_name],
            exclude_current=exclude_current,
        )


@pytest.fixture
def join(layer: InMemoryChannelLayer) -> Join:
    """Connect clients to rooms of one application."""
    router = APIRouter()
    router.add_websocket_route("/room/{room_name}", RoomChatConsumer.as_asgi())
    app = FastAPI()
    app.include_router(router, prefix="/ws")

    @asynccontextmanager
    async def join(room_name: str) -> AsyncGenerator[WebsocketCommunicator]:
        async with WebsocketCommunicator(
            app, f"/ws/room/{room_name}", consumer=RoomChatConsumer
        ) as client:
            # By now the client is in the room.
            await ask(client, PingMessage(), "pong")
            yield client

    return join


async def ask(
    client: WebsocketCommunicator, message: BaseMessage, action: str
) -> dict[str, Any]:
    """Send a message and return the answer, which must come first."""
    await client.send_message(message)
    answer: dict[str, Any] = await client.receive_json_from()
    assert answer["action"] == action
    return answer


async def heard(client: WebsocketCommunicator) -> tuple[str, str]:
    """Return room and text of the next notification."""
    notification = await client.receive_json_from()
    assert notification["action"] == "room_notification"
    payload = notification["payload"]
    return payload["room_name"], payload["message"]


def say(text: str) -> RoomChatMessage:
    return RoomChatMessage(payload=RoomMessagePayload(message=text))


async def test_joining_is_seen_by_the_others_only(join: Join) -> None:
    """When a client joins, only the others in the room are notified."""
    async with join("general") as first, join("general"):
        assert await heard(first) == ("general", "🚪 joined")


async def test_messages_reach_everyone_in_the_room(join: Join) -> None:
    """Every client in the room gets a message, including its sender."""
    async with join("general") as first, join("general") as second:
        await heard(first)
        await second.send_message(say("hello"))
        assert await heard(first) == ("general", "💬 hello")
        assert await heard(second) == ("general", "💬 hello")


async def test_leaving_is_seen_by_the_others(join: Join) -> None:
    """When a client leaves, the others in the room are notified."""
    async with join("general") as first:
        async with join("general"):
            await heard(first)
        assert await heard(first) == ("general", "👋 left")


async def test_rooms_are_isolated(join: Join) -> None:
    """Messages of one room do not reach another."""
    async with join("general") as general:
        async with join("private") as private:
            await private.send_message(say("secret"))
            assert await heard(private) == ("private", "💬 secret")
        await ask(general, PingMessage(), "pong")


async def test_invalid_message_is_answered(join: Join) -> None:
    """A frame that chanx rejects does not end the connection."""
    async with join("general") as client:
        await client.send_json_to({"action": "unheard_of"})
        assert (await client.receive_json_from())["action"] == "error"
        await client.send_to(text_data="no JSON")
        assert (await client.receive_json_from())["action"] == "error"
        await ask(client, PingMessage(), "pong")


class Nobody(BaseAuthenticator):
    """Refuses every client."""

    async def authenticate(self, scope: Any) -> bool:
        return False


class LockedConsumer(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "default"
    authenticator_class = Nobody


async def test_chanx_closes_the_connection(layer: InMemoryChannelLayer) -> None:
    """A client that chanx refuses is disconnected with chanx's code."""
    async with WebsocketCommunicator(
        LockedConsumer.as_asgi(), "/", consumer=LockedConsumer
    ) as client:
        await client.assert_closed(code=4401)


class RoomTopic(Topic):
    """A room to subscribe to, on a connection that can serve many."""

    pattern = "room:{room_name}"


class TopicConsumer(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "default"
    topics: ClassVar[list[type[Topic[Any]]]] = [RoomTopic]


async def test_topics_are_left_when_the_connection_ends(
    layer: InMemoryChannelLayer,
) -> None:
    """Groups that chanx joins at run time are left when the connection ends."""
    async with WebsocketCommunicator(
        TopicConsumer.as_asgi(), "/", consumer=TopicConsumer
    ) as client:
        assert (await client.subscribe("room:1"))["action"] == "subscribed"
        assert (await client.subscribe("room:2"))["action"] == "subscribed"
        assert (await client.unsubscribe("room:2"))["action"] == "unsubscribed"
        assert list(layer.groups) == [RoomTopic.group_name("room:1")]
    assert layer.groups == {}


def test_private_names_do_not_clash(layer: InMemoryChannelLayer) -> None:
    """The consumers of chanx and of the library share no private name."""
    ours = {
        name
        for base in (
            consumer.AsyncConsumer,
            consumer.AsyncWebsocketConsumer,
            consumer.AsyncJsonWebsocketConsumer,
        )
        for name in vars(base)
    } | set(vars(consumer.AsyncJsonWebsocketConsumer()))
    theirs = set(vars(ChanxWebsocketConsumerMixin)) | set(vars(LockedConsumer()))
    clashes = ours & theirs
    assert {name for name in clashes if name[0] == "_" and name[-2:] != "__"} == set()
