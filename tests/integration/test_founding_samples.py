"""The original code samples of the project, except for those that need Redis.

They represent existing applications: their argument names and their assumptions must
keep working.
"""
# mypy: disable-error-code="union-attr"
# pyright: reportOptionalMemberAccess=false
# Both because the samples, like applications, use self.channel_layer unchecked.

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest
from fastapi import APIRouter, FastAPI

from fast_channels.consumer import AsyncConsumer, AsyncJsonWebsocketConsumer
from fast_channels.consumer.websocket import AsyncWebsocketConsumer
from fast_channels.layers import (
    InMemoryChannelLayer,
    get_channel_layer,
    has_layers,
    register_channel_layer,
)
from fast_channels.testing import WebsocketCommunicator

# README


def setup_channel_layers(*, force: bool = False) -> None:
    """Register the layers of an application, once."""
    if has_layers() and not force:
        return
    register_channel_layer("default", InMemoryChannelLayer())
    register_channel_layer("memory", InMemoryChannelLayer())


class ReadmeChatConsumer(AsyncWebsocketConsumer):
    groups = ["chat_room"]  # as users write it
    channel_layer_alias = "default"

    async def connect(self) -> None:
        await self.accept()
        await self.channel_layer.group_send(
            "chat_room", {"type": "chat_message", "message": "Someone joined the chat"}
        )

    async def disconnect(self, close_code: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] # the sample's name for it
        await self.channel_layer.group_send(
            "chat_room", {"type": "chat_message", "message": "Someone left the chat"}
        )

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        await self.channel_layer.group_send(
            "chat_room", {"type": "chat_message", "message": f"Message: {text_data}"}
        )

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(event["message"])


def test_layers_are_set_up_once_unless_forced() -> None:
    """A second set-up changes nothing, unless it is forced."""
    assert not has_layers()
    assert get_channel_layer() is None
    setup_channel_layers()
    layers = [get_channel_layer(), get_channel_layer("memory")]
    assert layers[0] is not layers[1]
    setup_channel_layers()
    assert [get_channel_layer(), get_channel_layer("memory")] == layers
    setup_channel_layers(force=True)
    assert get_channel_layer() not in layers


async def test_readme_chat_in_a_mounted_application(
    layer: InMemoryChannelLayer,
) -> None:
    """Everyone in the chat is notified of joins, messages and leaves."""
    setup_channel_layers()
    assert get_channel_layer() is layer  # which was registered before
    app = FastAPI()
    ws_app = FastAPI()
    ws_app.router.add_websocket_route("/chat", ReadmeChatConsumer.as_asgi())
    app.mount("/ws", ws_app)

    async with (
        WebsocketCommunicator(app, "/ws/chat") as alice,
        WebsocketCommunicator(app, "/ws/chat") as bob,
    ):
        assert await alice.connect() == (True, None)
        assert await alice.receive_from() == "Someone joined the chat"
        await bob.connect()
        assert await alice.receive_from() == "Someone joined the chat"
        await bob.send_to("hello")
        assert await alice.receive_from() == "Message: hello"
        await bob.disconnect()
        assert await alice.receive_from() == "Someone left the chat"


class ReadmeJsonConsumer(AsyncJsonWebsocketConsumer):
    """The consumer that makes the test in the README pass."""

    groups = ["chat_room"]  # as users write it
    channel_layer_alias = "default"

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.channel_layer.group_send(
            "chat_room", {"type": "chat.message", "content": content}
        )

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send_json(event["content"])


async def test_readme_test(layer: InMemoryChannelLayer) -> None:
    """A communicator accepts a consumer class, and receives its JSON."""
    communicator = WebsocketCommunicator(ReadmeJsonConsumer, "/ws/chat/")
    connected, subprotocol = await communicator.connect()
    assert connected
    assert subprotocol is None

    await communicator.send_json_to({"message": "hello world"})
    response = await communicator.receive_json_from()
    assert response == {"message": "hello world"}

    await communicator.disconnect()


# Core concepts


class EchoConsumer(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.accept()

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        assert text_data is not None
        await self.send(text_data="Echo: " + text_data)

    async def disconnect(self, close_code: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] # the sample's name for it
        pass


async def test_basic_consumer() -> None:
    """The basic consumer needs no layer."""
    async with WebsocketCommunicator(EchoConsumer, "/") as communicator:
        await communicator.connect()
        await communicator.send_to("hello")
        assert await communicator.receive_from() == "Echo: hello"


class GroupsConsumer(AsyncWebsocketConsumer):
    channel_layer_alias = "default"
    groups = ["chat_room", "notifications"]  # as users write it


async def test_groups_of_a_class(layer: InMemoryChannelLayer) -> None:
    """The groups of a class are joined on connect and left on disconnect."""
    async with WebsocketCommunicator(GroupsConsumer, "/") as communicator:
        await communicator.connect()
        assert sorted(layer.groups) == ["chat_room", "notifications"]
    assert layer.groups == {}


class RoomChatConsumer(AsyncWebsocketConsumer):
    channel_layer_alias = "default"
    room_name: str
    room_group: str

    async def connect(self) -> None:
        self.room_name = self.scope["path_params"]["room_name"]
        self.room_group = f"room_{self.room_name}"
        query_string = self.scope["query_string"].decode()
        await self.accept()
        await self.channel_layer.group_add(self.room_group, self.channel_name)
        await self.send(",".join(parse_qs(query_string)["user_id"]))

    async def disconnect(self, close_code: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] # the sample's name for it
        await self.channel_layer.group_discard(self.room_group, self.channel_name)


async def test_room_of_the_path(layer: InMemoryChannelLayer) -> None:
    """Path parameters name the room, and the query string the user."""
    router = APIRouter()
    router.add_websocket_route("/ws/room/{room_name}/", RoomChatConsumer.as_asgi())
    app = FastAPI()
    app.include_router(router)
    async with WebsocketCommunicator(app, "/ws/room/123/?user_id=456") as communicator:
        await communicator.connect()
        assert await communicator.receive_from() == "456"
        assert list(layer.groups) == ["room_123"]
    assert layer.groups == {}


class UserConsumer(AsyncWebsocketConsumer):
    room_id: str

    async def connect(self) -> None:
        user = self.scope.get("user")
        if user and user.is_authenticated:
            self.room_id = self.scope["path"].split("/")[-1]
            await self.accept()
            await self.send(self.room_id)
        else:
            await self.close()


async def test_authenticated_user_is_accepted() -> None:
    """Data that a middleware puts into the scope is available in connect()."""
    async with WebsocketCommunicator(UserConsumer, "/ws/room/lobby") as communicator:
        communicator.scope["user"] = SimpleNamespace(is_authenticated=True)
        assert await communicator.connect() == (True, None)
        assert await communicator.receive_from() == "lobby"


@pytest.mark.parametrize("user", [None, SimpleNamespace(is_authenticated=False)])
async def test_unknown_user_is_refused(user: object) -> None:
    """A consumer that closes in connect() refuses the connection."""
    async with WebsocketCommunicator(UserConsumer, "/ws/room/lobby") as communicator:
        communicator.scope["user"] = user
        assert await communicator.connect() == (False, 1000)


class NotifiedConsumer(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "default"

    async def connect(self) -> None:
        await self.channel_layer.group_add("notifications", self.channel_name)
        await self.accept()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.channel_layer.group_discard("notifications", self.channel_name)
        await self.send_json({"channel": self.channel_name})

    async def notification_message(self, event: dict[str, Any]) -> None:
        await self.send_json(event)


async def test_operations_of_a_layer(layer: InMemoryChannelLayer) -> None:
    """A connection is reached by its channel, and by a group while it is in it."""
    to_group = {"type": "notification.message", "content": "Sale!"}
    to_channel = {"type": "notification.message", "content": "Your order is ready!"}
    async with WebsocketCommunicator(NotifiedConsumer, "/") as communicator:
        await communicator.connect()
        await layer.group_send("notifications", to_group)
        assert await communicator.receive_json_from() == to_group

        await communicator.send_json_to("leave")
        channel_name = (await communicator.receive_json_from())["channel"]
        await layer.group_send("notifications", to_group)
        await layer.send(channel_name, to_channel)
        assert await communicator.receive_json_from() == to_channel


class BroadcastingConsumer(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "default"
    groups = ["chat_room"]  # as users write it

    async def receive(self, text_data: str | None = None, **kwargs: Any) -> None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] # the sample leaves bytes_data to kwargs
        await self.channel_layer.group_send(
            "chat_room",
            {"type": "chat.message", "message": text_data, "username": "user123"},
        )

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send_json(
            {"message": event["message"], "username": event["username"]}
        )


async def test_message_flow(layer: InMemoryChannelLayer) -> None:
    """A frame goes to the group, and from there to the method its type names."""
    async with (
        WebsocketCommunicator(BroadcastingConsumer, "/") as sender,
        WebsocketCommunicator(BroadcastingConsumer, "/") as other,
    ):
        await sender.connect()
        await other.connect()
        await sender.send_to("hello")
        for communicator in (sender, other):
            assert await communicator.receive_json_from() == {
                "message": "hello",
                "username": "user123",
            }


# Groups of a connection


class JoiningConsumer(AsyncWebsocketConsumer):
    channel_layer_alias = "default"

    async def connect(self) -> None:
        group = f"room_{self.scope['path'].strip('/')}"
        await self.channel_layer.group_add(group, self.channel_name)
        self.groups.append(group)
        await self.accept()
        await self.send(",".join(self.groups))


async def test_groups_do_not_leak_between_connections(
    layer: InMemoryChannelLayer,
) -> None:
    """Groups that a connection appends are not in the groups of another."""
    async with (
        WebsocketCommunicator(JoiningConsumer, "/one") as one,
        WebsocketCommunicator(JoiningConsumer, "/two") as two,
    ):
        await one.connect()
        await two.connect()
        assert await one.receive_from() == "room_one"
        assert await two.receive_from() == "room_two"
    assert JoiningConsumer.groups == []


async def test_appended_group_is_left(layer: InMemoryChannelLayer) -> None:
    """A group that was appended to self.groups is left when the connection ends."""
    async with WebsocketCommunicator(JoiningConsumer, "/one") as communicator:
        await communicator.connect()
        assert list(layer.groups) == ["room_one"]
    assert layer.groups == {}


# The reference of the consumers


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        (AsyncConsumer.as_asgi, "(**initkwargs)"),
        (AsyncConsumer.dispatch, "(self, message)"),
        (AsyncConsumer.send, "(self, message)"),
        (AsyncWebsocketConsumer.__init__, "(self, *args, **kwargs)"),
        (AsyncWebsocketConsumer.accept, "(self, subprotocol=None, headers=None)"),
        (AsyncWebsocketConsumer.close, "(self, code=None, reason=None)"),
        (AsyncWebsocketConsumer.connect, "(self)"),
        (AsyncWebsocketConsumer.disconnect, "(self, code)"),
        (AsyncWebsocketConsumer.receive, "(self, text_data=None, bytes_data=None)"),
        (
            AsyncWebsocketConsumer.send,
            "(self, text_data=None, bytes_data=None, close=False)",
        ),
        (AsyncWebsocketConsumer.websocket_connect, "(self, message)"),
        (AsyncWebsocketConsumer.websocket_disconnect, "(self, message)"),
        (AsyncWebsocketConsumer.websocket_receive, "(self, message)"),
        (AsyncJsonWebsocketConsumer.__init__, "(self, *args, **kwargs)"),
        (AsyncJsonWebsocketConsumer.decode_json, "(text_data)"),
        (AsyncJsonWebsocketConsumer.encode_json, "(content)"),
        (
            AsyncJsonWebsocketConsumer.receive,
            "(self, text_data=None, bytes_data=None, **kwargs)",
        ),
        (AsyncJsonWebsocketConsumer.receive_json, "(self, content, **kwargs)"),
        (AsyncJsonWebsocketConsumer.send_json, "(self, content, close=False)"),
    ],
)
def test_signatures(method: Callable[..., Any], signature: str) -> None:
    """Every method has the arguments in the reference."""
    actual = inspect.signature(method)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in actual.parameters.values()
    ]
    assert str(inspect.Signature(bare)) == signature
    plain = method.__name__ in {"as_asgi", "__init__"}
    assert inspect.iscoroutinefunction(method) is not plain


def test_attributes() -> None:
    """Every attribute of the reference is declared, and the alias is None."""
    attributes = {
        "base_send",
        "channel_layer",
        "channel_layer_alias",
        "channel_name",
        "channel_receive",
        "scope",
    }
    assert attributes <= {*AsyncConsumer.__annotations__, *dir(AsyncConsumer)}
    declared = [
        vars(base).get("__annotations__", {}) for base in AsyncWebsocketConsumer.__mro__
    ]
    assert any("groups" in annotations for annotations in declared)
    assert AsyncConsumer.channel_layer_alias is None
    assert AsyncConsumer.__bases__ == (object,)
    # The base class shared with the HTTP consumer is in between.
    assert issubclass(AsyncWebsocketConsumer, AsyncConsumer)
    assert AsyncJsonWebsocketConsumer.__bases__ == (AsyncWebsocketConsumer,)
