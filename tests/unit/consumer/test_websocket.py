"""Consumers for WebSockets: what they send, receive, and let be overridden."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import pytest

from fast_channels.consumer import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.exceptions import (
    AcceptConnection,
    DenyConnection,
)
from fast_channels.type_defs import WebSocketConnectEvent, WebSocketDisconnectEvent
from tests.waiting import until

from .fakes import FakeServer, Layer, members
from .subject import Member


@pytest.mark.parametrize(
    ("arguments", "event"),
    [
        ({}, {}),
        ({"subprotocol": "chat"}, {"subprotocol": "chat"}),
        ({"headers": [(b"a", b"b")]}, {"headers": [(b"a", b"b")]}),
        ({"headers": ((b"a", b"b"),)}, {"headers": [(b"a", b"b")]}),
    ],
)
async def test_accept(arguments: dict[str, Any], event: dict[str, Any]) -> None:
    """accept() sends an event with the keys that were given, and no others."""
    consumer = AsyncWebsocketConsumer()
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        await consumer.accept(**arguments)
    assert server.sent == [{"type": "websocket.accept", **event}]


@pytest.mark.parametrize(
    ("arguments", "event"),
    [
        ({"text_data": "hello"}, {"text": "hello"}),
        ({"text_data": ""}, {"text": ""}),
        ({"bytes_data": b"\0"}, {"bytes": b"\0"}),
        ({"bytes_data": b""}, {"bytes": b""}),
        ({"text_data": "hello", "bytes_data": b"\0"}, {"text": "hello"}),
    ],
)
async def test_send(arguments: dict[str, Any], event: dict[str, Any]) -> None:
    """send() sends one frame, with text or with bytes."""
    consumer = AsyncWebsocketConsumer()
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        await consumer.send(**arguments)
    assert server.sent == [{"type": "websocket.send", **event}]


@pytest.mark.parametrize(("close", "code"), [(True, 1000), (4001, 4001)])
async def test_send_and_close(close: bool | int, code: int) -> None:
    """send() can close the connection afterwards."""
    consumer = AsyncWebsocketConsumer()
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        await consumer.send("bye", close=close)
    assert server.sent == [
        {"type": "websocket.send", "text": "bye"},
        {"type": "websocket.close", "code": code},
    ]


async def test_send_nothing() -> None:
    """send() without content raises ValueError."""
    with pytest.raises(ValueError, match="needs text_data or bytes_data"):
        await AsyncWebsocketConsumer().send()


@pytest.mark.parametrize(
    "arguments",
    [
        {"text_data": b"bytes"},
        {"text_data": {"a": "dict"}},
        {"bytes_data": "text"},
        {"bytes_data": 7},
    ],
)
async def test_send_content_of_a_wrong_type(arguments: dict[str, Any]) -> None:
    """send() raises TypeError for content of the wrong type."""
    consumer = AsyncWebsocketConsumer()
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        with pytest.raises(TypeError) as caught:
            await consumer.send(**arguments)
    [(name, value)] = arguments.items()
    assert f"{name} must be" in str(caught.value)
    assert repr(value) in str(caught.value)
    assert server.sent == []


@pytest.mark.parametrize(
    ("arguments", "event"),
    [
        ({}, {}),
        ({"code": None}, {}),
        ({"code": True}, {"code": 1000}),
        ({"code": 4001}, {"code": 4001}),
        ({"reason": "too late"}, {"reason": "too late"}),
        ({"code": 4001, "reason": ""}, {"code": 4001, "reason": ""}),
    ],
)
async def test_close(arguments: dict[str, Any], event: dict[str, Any]) -> None:
    """close() sends an event with the keys that were given; True means 1000."""
    consumer = AsyncWebsocketConsumer()
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        await consumer.close(**arguments)
    assert server.sent == [{"type": "websocket.close", **event}]
    assert type(server.sent[0].get("code", 0)) is int


@pytest.mark.parametrize("code", ["4001", 1000.0])
async def test_close_with_a_code_of_a_wrong_type(code: Any) -> None:
    """close() raises TypeError for a code that is not an int."""
    consumer = AsyncWebsocketConsumer()
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        with pytest.raises(TypeError, match=f"must be an int, not {code!r}"):
            await consumer.close(code)
    assert server.sent == []


async def test_nothing_is_sent_after_close() -> None:
    """After close(), frames are dropped and the connection is not closed again."""
    consumer = AsyncWebsocketConsumer()
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        await consumer.close(4001)
        await consumer.send("too late")
        await consumer.send("too late", close=True)
        await consumer.close(4002)
    assert server.sent == [{"type": "websocket.close", "code": 4001}]


async def test_connect_accepts() -> None:
    """A consumer that does not override connect() accepts every connection."""
    async with FakeServer(AsyncWebsocketConsumer()) as server:
        await server.connect()
    assert server.sent == [{"type": "websocket.accept"}]


@pytest.mark.parametrize(
    ("signal", "event_type"),
    [(AcceptConnection, "websocket.accept"), (DenyConnection, "websocket.close")],
)
async def test_signals_from_connect(signal: type[Exception], event_type: str) -> None:
    """connect() can raise AcceptConnection or DenyConnection."""

    class Deciding(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            raise signal

    async with FakeServer(Deciding()) as server:
        await server.connect()
        assert server.sent == [{"type": event_type}]
        assert await server.disconnect() is None


# Receiving


class Listener(AsyncWebsocketConsumer):
    """Records its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        self.calls.append((text_data, bytes_data))

    async def disconnect(self, code: int) -> None:
        self.calls.append(code)


@pytest.mark.parametrize(
    ("event", "call"),
    [
        ({"text": "hello"}, ("hello", None)),
        ({"text": "hello", "bytes": None}, ("hello", None)),
        ({"text": ""}, ("", None)),
        ({"bytes": b"\0"}, (None, b"\0")),
        ({"text": None, "bytes": b""}, (None, b"")),
        ({}, (None, None)),
    ],
)
async def test_receive(event: dict[str, Any], call: tuple[Any, Any]) -> None:
    """receive() is called with the text or the bytes of a frame."""
    consumer = Listener()
    async with FakeServer(consumer) as server:
        await server.connect()
        await server.give({"type": "websocket.receive", **event})
        assert consumer.calls == [call]


async def test_receive_ignores_frames() -> None:
    """A consumer that does not override receive() ignores what the client sends."""
    async with FakeServer(AsyncWebsocketConsumer()) as server:
        await server.connect()
        await server.give({"type": "websocket.receive", "text": "hello"})
        assert await server.disconnect() is None
    assert server.sent == [{"type": "websocket.accept"}]


@pytest.mark.parametrize(
    ("event", "code"),
    [({"code": 1001}, 1001), ({"code": 0}, 0), ({"code": None}, 1005), ({}, 1005)],
)
async def test_disconnect_of_the_client(event: dict[str, Any], code: int) -> None:
    """disconnect() gets the client's close code, or 1005 if it gave none."""
    consumer = Listener()
    async with FakeServer(consumer) as server:
        await server.connect()
        assert await server.disconnect(**event) is None
    assert consumer.calls == [code]


async def test_scope_of_another_protocol() -> None:
    """A consumer refuses the scope of another protocol."""
    consumer = Listener()
    async with FakeServer(consumer, {"type": "http"}) as server:
        outcome = await server.end()
    assert isinstance(outcome, ValueError)
    assert "Listener serves WebSockets" in str(outcome)
    assert "'http'" in str(outcome)
    assert consumer.calls == []


async def test_event_without_type() -> None:
    """An event without a type raises ValueError, also if it is the first one."""
    async with FakeServer(Listener()) as server:
        await server.give({"text": "hello"})
        assert isinstance(await server.end(), ValueError)


# fmt: off
WEBSOCKET_ATTRIBUTES = [
    "accept", "close", "connect", "disconnect", "groups", "join.group", "leave.group",
    "receive", "send",
]
JSON_ATTRIBUTES = ["decode.json", "encode.json", "receive.json", "send_json"]
# fmt: on


@pytest.mark.parametrize("message_type", WEBSOCKET_ATTRIBUTES + JSON_ATTRIBUTES)
@pytest.mark.parametrize("overridden", [False, True])
async def test_message_must_not_name_what_every_consumer_has(
    message_type: str, overridden: bool, layer: Layer
) -> None:
    """A layer's message never reaches a method of the base classes, even overridden."""

    async def trap(*_: object) -> None:
        raise AssertionError

    class Chat(AsyncJsonWebsocketConsumer):
        channel_layer_alias = "default"

    consumer = Chat()
    async with FakeServer(consumer) as server:
        await server.connect()
        if overridden:
            setattr(Chat, message_type.replace(".", "_"), trap)
        await layer.send(consumer.channel_name, {"type": message_type})
        outcome = await server.end()
    assert isinstance(outcome, ValueError)
    assert f"no handler for message type {message_type!r}" in str(outcome)
    assert server.sent == [
        {"type": "websocket.accept"},
        {"type": "websocket.close", "code": 1011},
    ]


# Subclasses


def test_consumers_are_plain_classes() -> None:
    """Consumer classes have no metaclass, and accept any arguments without a loop."""
    assert type(AsyncJsonWebsocketConsumer) is type
    AsyncJsonWebsocketConsumer(1, "two", three=3)


def test_private_names_leave_room_for_those_of_subclasses() -> None:
    """Private names of the library are mangled or have an unusual prefix."""
    private = {
        name
        for base in AsyncJsonWebsocketConsumer.__mro__[:-1]
        for name in {*vars(base), *inspect.get_annotations(base)}
        if name.startswith("_") and not name.endswith("__")
    }
    assert private
    ours = re.compile(r"_consumer_|_Async(Group|(Json)?Websocket)?Consumer__")
    assert [name for name in private if not ours.match(name)] == []


@pytest.mark.parametrize("ended", [False, True], ids=["at once", "one after another"])
async def test_instance_serves_one_connection(layer: Layer, *, ended: bool) -> None:
    """A second call raises an error that says what to write; the first continues."""
    consumer = Member()
    async with FakeServer(consumer) as server:
        await server.connect()
        if ended:
            await server.disconnect()
        async with FakeServer(consumer) as other:
            outcome = await other.end()
        assert isinstance(outcome, RuntimeError)
        assert "Member serves one connection" in str(outcome)
        assert "write Member.as_asgi()" in str(outcome)
        assert other.sent == []
        if not ended:
            await layer.group_send("news", {"type": "chat.message", "text": "hello"})
            await until(lambda: server.sent[1:])
    assert server.sent[1:] == (
        [] if ended else [{"type": "websocket.send", "text": "hello"}]
    )
    assert members(layer) == set()


async def test_scope_of_another_protocol_does_not_use_up_an_instance() -> None:
    """A scope of another protocol, such as lifespan, doesn't use up an instance."""
    consumer = Listener()
    async with FakeServer(consumer, {"type": "lifespan"}) as server:
        assert isinstance(await server.end(), ValueError)
    async with FakeServer(consumer) as server:
        await server.connect()
        assert await server.disconnect(code=1001) is None
    assert consumer.calls == [1001]


async def test_constructor_without_super(layer: Layer) -> None:
    """The constructor of a subclass doesn't have to call super."""

    class Own(Member):
        def __init__(self, greeting: str) -> None:
            self.greeting = greeting

    consumer = Own("hello")
    async with FakeServer(consumer) as server:
        await server.connect()
        consumer.groups.append("kitchen")
        await server.disconnect()
    assert Member.groups == ["lobby", "news"]
    assert members(layer) == set()


async def test_websocket_connect_overridden(layer: Layer) -> None:
    """websocket_connect() can be overridden without super; disconnect() is called."""
    codes: list[int] = []

    class Own(Member):
        async def websocket_connect(self, message: WebSocketConnectEvent) -> None:
            assert self.scope["type"] == message["type"].partition(".")[0]
            assert self.channel_layer is layer
            await self.accept()
            await self.join_group("kitchen")

        async def disconnect(self, code: int) -> None:
            codes.append(code)

    consumer = Own()
    async with FakeServer(consumer) as server:
        await server.connect()
        assert members(layer) == members(layer, "kitchen") == {consumer.channel_name}
        assert await server.disconnect(code=1001) is None
    assert codes == [1001]
    assert members(layer) == set()


async def test_websocket_disconnect_overridden(layer: Layer) -> None:
    """websocket_disconnect() can send to a group and then call super."""

    class Polite(Member):
        async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
            await layer.group_send("lobby", {"type": "chat.message", "text": "bye"})
            await layer.group_discard("lobby", self.channel_name)
            await super().websocket_disconnect(message)

    class Staying(Member):
        groups = ["lobby"]

    async with FakeServer(Staying()) as stays, FakeServer(Polite()) as leaves:
        await stays.connect()
        await leaves.connect()
        assert await leaves.disconnect(code=1000) is None
        await until(lambda: {"type": "websocket.send", "text": "bye"} in stays.sent)
    assert members(layer) == set()


async def test_mixins() -> None:
    """Mixins can come before or after a consumer class, and call super."""

    class Greeting:
        async def connect(self) -> None:
            await super().connect()  # type: ignore[misc] # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue] # of the class it is mixed into
            self.greeted = True

    class Resting:
        async def rest(self, message: Mapping[str, Any]) -> None:
            self.rested = True

    class Mixed(Greeting, AsyncWebsocketConsumer, Resting):
        pass

    consumer = Mixed()
    async with FakeServer(consumer) as server:
        await server.connect()
        await server.give({"type": "rest"})
        assert consumer.greeted
        assert consumer.rested


async def test_methods_without_a_connection() -> None:
    """Tests of an application can call an instance's methods directly."""
    sent: list[Mapping[str, Any]] = []

    async def send(event: Mapping[str, Any]) -> None:
        sent.append(event)
        if event["type"] == "websocket.close":
            raise RuntimeError("no connection")

    consumer = AsyncWebsocketConsumer()
    consumer.base_send = send
    await consumer.accept()
    await consumer.send("hello")
    with pytest.raises(RuntimeError, match="no connection"):
        await consumer.close()
    assert len(sent) == 3
