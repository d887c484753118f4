"""The errors and log lines for mistakes in a consumer."""

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fast_channels.consumer import (
    AsyncConsumer,
    AsyncHttpConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
)
from fast_channels.consumer.timing import Timing
from fast_channels.layers import InMemoryChannelLayer, register_channel_layer
from tests.waiting import until

from .fakes import FakeServer, Layer, logged

CONNECT = {"type": "websocket.connect"}
FRAME = {"type": "websocket.receive", "text": "[]"}
BINARY = {"type": "websocket.receive", "bytes": b"[]"}
LEAVE = {"type": "websocket.disconnect", "code": 1000}
MESSAGE = {"type": "chat.message"}


# Handlers that are not coroutine functions


@pytest.mark.parametrize(
    ("base", "method", "events"),
    [
        (AsyncWebsocketConsumer, "connect", [CONNECT]),
        (AsyncWebsocketConsumer, "receive", [CONNECT, FRAME]),
        (AsyncWebsocketConsumer, "receive", [CONNECT, BINARY]),
        (AsyncWebsocketConsumer, "disconnect", [CONNECT, LEAVE]),
        (AsyncJsonWebsocketConsumer, "receive_json", [CONNECT, FRAME]),
        (AsyncJsonWebsocketConsumer, "decode_json", [CONNECT, FRAME]),
        (AsyncConsumer, "chat_message", [MESSAGE]),
    ],
)
async def test_plain_function(
    base: type[AsyncConsumer], method: str, events: list[dict[str, Any]]
) -> None:
    """A handler without async raises an error that names it and says what to write."""

    def handle(*arguments: object, **options: object) -> None:
        pass

    chat: type[AsyncConsumer] = type("Chat", (base,), {method: handle})
    async with FakeServer(chat.as_asgi()) as server:
        server.put(*events)
        outcome = await server.end()
    assert isinstance(outcome, TypeError)
    assert f"Chat.{method}() must be a coroutine function" in str(outcome)
    assert f"write 'async def {method}'; it returned None" in str(outcome)


@pytest.mark.parametrize("method", ["handle", "disconnect"])
async def test_plain_function_over_http(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is the same over HTTP; in disconnect() it is logged, as always."""

    class Page(AsyncHttpConsumer):
        async def handle(self, body: bytes) -> None:
            await self.send_response(200, b"hello")

    def answer(*arguments: object) -> None:
        pass

    setattr(Page, method, answer)
    async with FakeServer(Page(), {"type": "http"}) as server:
        server.put({"type": "http.request"})
        outcome = await server.end()
    said = caplog.text if outcome is None else str(outcome)
    assert f"Page.{method}() must be a coroutine function" in said


async def test_plain_function_through_the_layer(layer: Layer) -> None:
    """A handler without async ends the consumer, also for a message of the layer."""

    class Chat(AsyncWebsocketConsumer):
        channel_layer_alias = "default"

        def chat_message(self, event: Mapping[str, Any]) -> None:
            pass

    consumer = Chat()
    async with FakeServer(consumer) as server:
        await server.connect()
        await layer.send(consumer.channel_name, MESSAGE)
        outcome = await server.end()
    assert isinstance(outcome, TypeError)
    assert "Chat.chat_message() must be a coroutine function" in str(outcome)


calls: list[str] = []


async def note_call(text: str, event: Mapping[str, Any]) -> None:
    calls.append(text)


def wrapped(
    function: Callable[["Many", Mapping[str, Any]], Any],
) -> Callable[["Many", Mapping[str, Any]], Any]:
    """Wrap a handler as a careless decorator would."""

    @functools.wraps(function)
    def wrapper(consumer: "Many", event: Mapping[str, Any]) -> Any:
        return function(consumer, event)

    return wrapper


class Many(AsyncWebsocketConsumer):
    """Has handlers of every kind."""

    channel_layer_alias = "default"

    @wrapped
    async def chat_wrapped(self, event: Mapping[str, Any]) -> None:
        await note_call("wrapped", event)

    @staticmethod
    async def chat_static(event: Mapping[str, Any]) -> None:
        await note_call("static", event)

    @classmethod
    async def chat_class(cls, event: Mapping[str, Any]) -> None:
        await note_call("class", event)

    async def chat_any(self, text: str, event: Mapping[str, Any]) -> None:
        await note_call(text, event)

    chat_partial = functools.partialmethod(chat_any, "partial")

    def chat_future(self, event: Mapping[str, Any]) -> asyncio.Future[None]:
        return asyncio.ensure_future(note_call("future", event))

    def __getattr__(self, name: str) -> Any:
        if name != "chat_dynamic":
            raise AttributeError(name)
        return functools.partial(note_call, "dynamic")


async def test_handlers_of_other_kinds(layer: Layer) -> None:
    """A callable that returns an awaitable is a handler, for every message."""
    calls.clear()
    consumer = Many()
    vars(consumer)["chat_own"] = functools.partial(note_call, "own")
    kinds = ["wrapped", "static", "class", "partial", "future", "dynamic", "own"] * 2
    async with FakeServer(consumer) as server:
        await server.connect()
        for kind in kinds:
            await layer.send(consumer.channel_name, {"type": f"chat.{kind}"})
        await until(lambda: len(calls) == len(kinds))
    assert calls == kinds


# Types that name no method


async def test_types_that_name_no_method() -> None:
    """A message neither reaches nor evaluates a property or other attribute."""
    evaluated: list[str] = []

    class Chat(AsyncWebsocketConsumer):
        limit = 7

        class Meta:
            """A class nested in the consumer."""

            def __init__(self, *_: object) -> None:
                evaluated.append("Meta")

        @property
        def user(self) -> str:
            evaluated.append("user")
            return "Ada"

        @functools.cached_property
        def room(self) -> str:
            evaluated.append("room")
            return "lobby"

    for name in "limit", "Meta", "user", "room", "missing":
        for _ in range(2):
            with pytest.raises(ValueError, match=f"Chat has no method '{name}'"):
                await Chat().dispatch({"type": name})
    assert evaluated == []


# No layer


class Speaker(AsyncWebsocketConsumer):
    """Uses a layer that it doesn't have."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.channel_layer.group_send("room", {"type": "chat.message"})


class LostSpeaker(Speaker):
    channel_layer_alias = "chta"


class HastySpeaker(Speaker):
    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().receive(text_data, bytes_data))


NO_ALIAS = (
    "Speaker.channel_layer is None, since its channel_layer_alias is None: set it to "
    "the alias of a registered layer"
)
WRONG_ALIAS = (
    "LostSpeaker.channel_layer is None, since no layer is registered for its "
    "channel_layer_alias 'chta' (registered: 'chat'): call "
    "register_channel_layer('chta', ...) before connections are served"
)


@pytest.mark.parametrize(
    ("consumer", "note"),
    [
        (Speaker, NO_ALIAS),
        (LostSpeaker, WRONG_ALIAS),
        (HastySpeaker, "Hasty" + NO_ALIAS),
    ],
)
async def test_missing_layer(consumer: type[Speaker], note: str) -> None:
    """The AttributeError says which attribute to set, or which layer to register."""
    register_channel_layer("chat", InMemoryChannelLayer())
    async with FakeServer(consumer.as_asgi()) as server:
        server.put(CONNECT, FRAME)
        outcome: Any = await server.end()
    if consumer is HastySpeaker:
        (outcome,) = outcome.exceptions
    assert isinstance(outcome, AttributeError)
    assert outcome.__notes__ == [note]


async def test_missing_layer_in_disconnect(caplog: pytest.LogCaptureFixture) -> None:
    """An error logged for disconnect() says so too."""

    class Leaver(Speaker):
        async def disconnect(self, code: int) -> None:
            await self.receive()

    async with FakeServer(Leaver()) as server:
        server.put(CONNECT)
        await until(lambda: server.idle)
    assert "Leaver.channel_layer is None" in caplog.text


@pytest.mark.parametrize("attribute", ["nothing", "group_send"])
async def test_other_attribute_errors(attribute: str) -> None:
    """An AttributeError with another cause gets no note."""

    class Forgetful(AsyncWebsocketConsumer):
        channel_layer_alias = None if attribute == "nothing" else "default"

        async def connect(self) -> None:
            getattr(None, attribute)

    register_channel_layer("default", InMemoryChannelLayer())
    async with FakeServer(Forgetful()) as server:
        server.put(CONNECT)
        outcome = await server.end()
    assert isinstance(outcome, AttributeError)
    assert not hasattr(outcome, "__notes__")


# A connection that is left undecided


async def test_connect_that_does_not_decide(caplog: pytest.LogCaptureFixture) -> None:
    """A connect() that neither accepts nor refuses is logged, once per class."""

    class Forgetful(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            pass

        async def chat_open(self, event: Mapping[str, Any]) -> None:
            await self.accept()

    for _ in range(2):
        async with FakeServer(Forgetful()) as server:
            await server.connect()
            assert server.sent == []
            await server.give({"type": "chat.open"})
            assert server.sent == [{"type": "websocket.accept"}]
    (line,) = logged(caplog)
    assert (
        "Forgetful.connect() has returned without accept(), close() or deny()" in line
    )
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


# Exceptions


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("closed", [False, True])
async def test_client_gets_a_close_after_an_exception(
    any_layer: Layer | None, *, accepted: bool, closed: bool
) -> None:
    """After an exception, an open connection is closed with code 1011, once."""

    class Broken(AsyncWebsocketConsumer):
        channel_layer_alias = None if any_layer is None else "default"
        codes: list[int] = []

        async def connect(self) -> None:
            if accepted:
                await self.accept()
            if closed:
                await self.close(4001)
            raise LookupError

        async def disconnect(self, code: int) -> None:
            self.codes.append(code)
            assert [event.get("code") for event in server.sent if "code" in event] == (
                [4001] if closed else [1011] if accepted else []
            )

    async with FakeServer(Broken()) as server:
        server.put(CONNECT)
        assert isinstance(await server.end(), LookupError)
    assert Broken.codes == [1011]


async def test_close_after_an_exception_fails() -> None:
    """A close that fails or hangs does not hide the exception."""

    class Broken(AsyncWebsocketConsumer):
        _consumer_timing = Timing(close=0.01)
        codes: list[int] = []

        def __init__(self, hangs: bool) -> None:
            super().__init__()
            self.hangs = hangs

        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            self.base_send = self.cannot_send
            raise LookupError

        async def cannot_send(self, event: Mapping[str, Any]) -> None:
            if self.hangs:
                await asyncio.Event().wait()
            raise ConnectionResetError

        async def disconnect(self, code: int) -> None:
            self.codes.append(code)

    for hangs in False, True:
        async with FakeServer(Broken(hangs)) as server:
            server.put(CONNECT, FRAME)
            assert isinstance(await server.end(), LookupError)
    assert Broken.codes == [1011, 1011]


async def test_exception_for_which_a_framework_closes() -> None:
    """The connection is left open for a framework that closes it with its own code."""

    class WebSocketException(Exception):
        """The exception of Starlette."""

    class Strict(AsyncWebsocketConsumer):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            raise WebSocketException

    async with FakeServer(Strict()) as server:
        server.put(CONNECT, FRAME)
        assert isinstance(await server.end(), WebSocketException)
    assert server.sent == [{"type": "websocket.accept"}]
