"""A broadcast is rendered once, and reaches every member of a group in order."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, TypeAlias

import pytest

from fast_channels.consumer import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    broadcast,
)
from fast_channels.frames import EXTENSION, SocketOutlet
from fast_channels.layers import InMemoryChannelLayer, register_channel_layer
from tests.waiting import turn, until

from .fakes import FakeServer, Layer, QueueLayer, logged
from .subject import Subject, assert_released

HELLO = {"type": "chat.message", "text": "hello"}


class QuickServer(FakeServer):
    """Sends without waiting, unless it is full."""

    full = False
    """Whether send() has to wait."""

    async def _send(self, event: Mapping[str, Any]) -> None:
        await until(lambda: not self.full) if self.full else None
        if self.gone:
            self.put({"type": "websocket.disconnect", "code": 1006})
            raise ConnectionResetError("the client is gone")
        self.sent.append(event)


class DirectServer(QuickServer):
    """Has the extension: frames are written past ``send()``."""

    def __init__(self, application: Any) -> None:
        self.outlet = SocketOutlet(self)
        scope = {
            "type": "websocket",
            "extensions": {EXTENSION: {"outlet": self.outlet}},
        }
        super().__init__(application, scope)
        self.outlet.open = True

    def write(self, data: bytes) -> None:
        if self.gone:
            raise ConnectionResetError("the client is gone")
        self.sent.append({"type": "websocket.send", "text": data[2:].decode()})


Servers: TypeAlias = list[FakeServer]


def texts(server: FakeServer) -> list[str | bytes]:
    """Return the contents of the frames that a client got."""
    return [
        event.get("text", event.get("bytes"))
        for event in server.sent
        if event["type"] == "websocket.send"
    ]


@contextlib.asynccontextmanager
async def serving(
    server_class: Callable[[Any], FakeServer],
    *applications: Any,
) -> AsyncGenerator[Servers]:
    """Connect a client to each of the applications."""
    async with contextlib.AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(server_class(each)) for each in applications
        ]
        for server in servers:
            await server.connect()
        # Until each consumer waits.
        await turn()
        yield servers


@pytest.fixture(params=[FakeServer, QuickServer, DirectServer])
def kind(request: pytest.FixtureRequest) -> Callable[[Any], FakeServer]:
    """A server that waits in send(), one that doesn't, and one with the extension."""
    kind: Callable[[Any], FakeServer] = request.param
    return kind


class Chat(AsyncWebsocketConsumer):
    """Sends text."""

    channel_layer_alias = "default"
    groups = ["chat"]
    rendered: list[Mapping[str, Any]]

    @broadcast
    def chat_message(cls, event: dict[str, Any]) -> str | bytes | None:
        cls.rendered.append(event)
        content: str | bytes | None = event["text"]
        return content

    async def chat_wait(self, event: Mapping[str, Any]) -> None:
        """Be busy."""
        await until(lambda: event["done"] in self.rendered)
        await self.send("waited")

    async def chat_note(self, event: Mapping[str, Any]) -> None:
        await self.send("note")

    async def chat_say(self, event: Mapping[str, Any]) -> None:
        """Send to the group, and then to the client."""
        await self.channel_layer.group_send("chat", {**HELLO, "text": event["text"]})
        await self.send("said")


@pytest.fixture(autouse=True)
def rendered() -> list[Mapping[str, Any]]:
    """Collect the messages that were rendered."""
    Chat.rendered = []
    return Chat.rendered


@pytest.mark.parametrize("content", ["hello", "grüße", "", b"\x00\xff"])
async def test_all_members_get_what_is_rendered_once(
    layer: Layer, rendered: list[Mapping[str, Any]], content: str | bytes
) -> None:
    """The content reaches every member; rendered for each in other layers."""
    async with serving(QuickServer, *[Chat.as_asgi()] * 3) as servers:
        await layer.group_send("chat", {**HELLO, "text": content})
        await until(lambda: all(map(texts, servers)))
        assert [texts(server) for server in servers] == [[content]] * 3
    assert len(rendered) == (3 if isinstance(layer, QueueLayer) else 1)


async def test_every_server(layer: Layer, kind: Callable[[Any], FakeServer]) -> None:
    """Broadcasts and other messages reach each client in the order they were sent."""
    async with serving(kind, *[Chat.as_asgi()] * 3) as servers:
        for number in range(100):
            await layer.group_send("chat", {**HELLO, "text": str(number)})
            if not number % 10:
                await turn(number // 10)
        await until(lambda: all(len(texts(server)) == 100 for server in servers))
        expected = list(map(str, range(100)))
        assert [texts(server) for server in servers] == [expected] * 3
    assert_released(layer)


async def test_nothing_to_send(
    layer: Layer, kind: Callable[[Any], FakeServer], rendered: list[Mapping[str, Any]]
) -> None:
    """A broadcast that returns None sends nothing."""
    async with serving(kind, Chat.as_asgi()) as (server,):
        await layer.group_send("chat", {**HELLO, "text": None})
        await layer.group_send("chat", HELLO)
        await until(lambda: texts(server))
        assert texts(server) == ["hello"]
    assert len(rendered) == 2


async def test_json(layer: Layer) -> None:
    """The content for a JSON consumer is encoded by its encode_json(), once."""
    encoded: list[object] = []

    class JsonChat(AsyncJsonWebsocketConsumer):
        channel_layer_alias = "default"
        groups = ["chat"]

        @broadcast
        def chat_message(cls, event: dict[str, Any]) -> Any:
            return {"text": event["text"]}

        @classmethod
        async def encode_json(cls, content: Any) -> str:
            encoded.append(content)
            return json.dumps(content).upper()

    async with serving(QuickServer, *[JsonChat.as_asgi()] * 2) as servers:
        await layer.group_send("chat", HELLO)
        await until(lambda: all(map(texts, servers)))
        assert [texts(server) for server in servers] == [['{"TEXT": "HELLO"}']] * 2
    assert len(encoded) == (2 if isinstance(layer, QueueLayer) else 1)


async def test_each_class_renders() -> None:
    """Members of one group with different classes get what their class renders."""
    layer = InMemoryChannelLayer()
    register_channel_layer("default", layer)

    class Loud(Chat):
        @broadcast
        @classmethod
        def chat_message(cls, event: dict[str, Any]) -> str:
            return f"{cls.__name__}{event['text'].upper()}"

    class Quiet(Chat):
        async def chat_message(self, event: dict[str, Any]) -> None:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride] # a handler instead of a broadcast
            await self.send("...")

    applications = [each.as_asgi() for each in (Chat, Loud, Quiet, Chat)]
    async with serving(DirectServer, *applications) as servers:
        await layer.group_send("chat", HELLO)
        await until(lambda: all(map(texts, servers)))
        expected = ["hello", "LoudHELLO", "...", "hello"]
        assert [texts(server)[0] for server in servers] == expected
    assert len(Chat.rendered) == 1


def test_class_method() -> None:
    """Called on the class, a broadcast returns its content."""
    assert Chat.chat_message({"type": "chat.message", "text": "hello"}) == "hello"
    assert Chat.chat_message({"type": "chat.message", "text": None}) is None


def test_coroutine_functions_are_refused() -> None:
    """A broadcast cannot be a coroutine function, and must be one function."""

    async def chat_message(cls: type, event: Mapping[str, Any]) -> str:
        return ""

    for wrong in (chat_message, "hello"):
        with pytest.raises(
            TypeError, match="plain function of the class and the event"
        ):
            broadcast(wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the subject of the test


def test_names_of_consumers_are_refused() -> None:
    """A broadcast cannot be called like a method that every consumer has."""

    def close(cls: type, event: Mapping[str, Any]) -> str:
        return ""

    # Python 3.11 raises a RuntimeError from it.
    with pytest.raises((RuntimeError, ValueError)) as caught:
        type("Wrong", (AsyncWebsocketConsumer,), {"close": broadcast(close)})
    assert "no message may reach" in str(caught.value.__cause__ or caught.value)


async def test_private_broadcasts(layer: Layer) -> None:
    """A message cannot reach a broadcast whose name begins with an underscore."""

    class Private(Chat):
        @broadcast
        def _secret(cls, event: dict[str, Any]) -> str:
            return "secret"

    async with serving(QuickServer, Private.as_asgi()) as (server,):
        await layer.group_send("chat", {"type": "_secret"})
        assert isinstance(await server.end(), ValueError)
        assert texts(server) == []


# Errors


def fail(event: Mapping[str, Any]) -> Any:
    return event["missing"]


def wrong_type(event: Mapping[str, Any]) -> Any:
    return ["not a str"]


def no_character(event: Mapping[str, Any]) -> Any:
    return "\ud800"


@pytest.mark.parametrize("render", [fail, wrong_type, no_character])
async def test_errors_are_logged_once(
    layer: Layer,
    kind: Callable[[Any], FakeServer],
    render: Callable[[Mapping[str, Any]], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error of a broadcast is logged, and ends no connection."""

    class Faulty(Chat):
        @broadcast
        def chat_faulty(cls, event: dict[str, Any]) -> Any:
            return render(event)

    async with serving(kind, *[Faulty.as_asgi()] * 2) as servers:
        await layer.group_send("chat", {"type": "chat.faulty"})
        await layer.group_send("chat", HELLO)
        await until(lambda: all(map(texts, servers)))
        assert [texts(server) for server in servers] == [["hello"]] * 2
    records = logged(caplog)
    assert len(records) == (2 if isinstance(layer, QueueLayer) else 1)
    assert "Faulty.chat_faulty() failed" in records[0]
    assert "'chat.faulty' was sent to no client" in records[0]


async def test_encode_json_that_waits(
    layer: Layer, caplog: pytest.LogCaptureFixture
) -> None:
    """An encode_json() that waits cannot encode a broadcast."""

    class Slow(AsyncJsonWebsocketConsumer):
        channel_layer_alias = "default"
        groups = ["chat"]

        @broadcast
        def chat_message(cls, event: dict[str, Any]) -> Any:
            return event["text"]

        @classmethod
        async def encode_json(cls, content: Any) -> str:
            await asyncio.sleep(0)
            return str(content)

    async with serving(QuickServer, Slow.as_asgi()) as (server,):
        await layer.group_send("chat", HELLO)
        await until(lambda: logged(caplog))
        assert texts(server) == []
    assert "encode_json() must not wait" in caplog.text


async def test_client_that_is_gone(
    layer: Layer, kind: Callable[[Any], FakeServer]
) -> None:
    """A client that is gone is a disconnect of its consumer, and no other."""
    ended: list[int] = []

    class Member(Chat):
        async def disconnect(self, code: int) -> None:
            ended.append(code)

    async with serving(kind, *[Member.as_asgi()] * 3) as servers:
        servers[1].gone = True
        for _ in range(2):
            await layer.group_send("chat", HELLO)
            await turn()
        assert await servers[1].end() is None
        assert ended == [1006]
        await until(lambda: len(texts(servers[2])) == 2)
        assert [len(texts(server)) for server in servers] == [2, 0, 2]


async def test_server_that_raises(layer: Layer) -> None:
    """Another error of a server's send() ends the connection with 1011."""

    class Broken(QuickServer):
        async def _send(self, event: Mapping[str, Any]) -> None:
            if event.get("text") == "hello":
                raise ValueError("broken")
            await super()._send(event)

    async with serving(Broken, Chat.as_asgi()) as (server,):
        await layer.group_send("chat", HELLO)
        assert isinstance(await server.end(), ValueError)
        assert server.sent[-1] == {"type": "websocket.close", "code": 1011}


async def test_slow_client() -> None:
    """A client whose socket is full delays no other, and gets everything in order."""
    layer = InMemoryChannelLayer()
    register_channel_layer("default", layer)
    async with serving(QuickServer, *[Chat.as_asgi()] * 3) as servers:
        slow = servers[1]
        assert isinstance(slow, QuickServer)
        slow.full = True
        for number in range(10):
            await layer.group_send("chat", {**HELLO, "text": str(number)})
            await turn()
        assert [len(texts(server)) for server in servers] == [10, 0, 10]
        slow.full = False
        await until(lambda: len(texts(slow)) == 10)
        assert texts(slow) == list(map(str, range(10)))


async def test_full_socket_with_the_extension() -> None:
    """Messages wait in the mailbox while the server has closed the outlet."""
    layer = InMemoryChannelLayer()
    register_channel_layer("default", layer)
    async with serving(DirectServer, *[Chat.as_asgi()] * 2) as (slow, other):
        assert isinstance(slow, DirectServer)
        slow.outlet.open, slow.full = False, True
        await layer.group_send("chat", {**HELLO, "text": "one"})
        await layer.group_send("chat", {**HELLO, "text": "two"})
        await turn()
        assert (texts(slow), texts(other)) == ([], ["one", "two"])
        slow.outlet.open, slow.full = True, False
        await layer.group_send("chat", {**HELLO, "text": "three"})
        await until(lambda: len(texts(slow)) == 3)
        assert texts(slow) == ["one", "two", "three"]


# Order


async def test_busy_consumer(layer: Layer, kind: Callable[[Any], FakeServer]) -> None:
    """A consumer that is busy in a handler sends broadcasts after it, in order."""
    marker = {**HELLO, "text": "marker"}
    async with serving(kind, Chat.as_asgi()) as (server,):
        await layer.group_send("chat", {"type": "chat.wait", "done": marker})
        await turn()
        await layer.group_send("chat", HELLO)
        await layer.group_send("chat", {"type": "chat.note"})
        await layer.group_send("chat", {**HELLO, "text": "again"})
        await turn()
        assert texts(server) == []
        Chat.rendered.append(marker)
        await until(lambda: len(texts(server)) == 4)
        assert texts(server) == ["waited", "hello", "note", "again"]


async def test_sender_in_the_group(
    layer: Layer, kind: Callable[[Any], FakeServer]
) -> None:
    """What a handler sends to its own group comes after what it sends itself."""
    async with serving(kind, *[Chat.as_asgi()] * 2) as servers:
        await layer.group_send("chat", {"type": "chat.say", "text": "hello"})
        await until(lambda: all(len(texts(server)) == 3 for server in servers))
        for server in servers:
            assert "said" in texts(server)[:2]
            assert texts(server).count("hello") == 2


async def test_frame_that_sends_to_its_own_group() -> None:
    """The same is true of a handler of the client's frame."""
    layer = InMemoryChannelLayer()
    register_channel_layer("default", layer)

    class Speaker(Chat):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            await self.chat_say({"text": text_data})

    async with serving(DirectServer, *[Speaker.as_asgi()] * 2) as (speaker, other):
        await speaker.give({"type": "websocket.receive", "text": "hello"})
        await until(lambda: len(texts(speaker)) == 2)
        assert texts(speaker) == ["said", "hello"]
        assert texts(other) == ["hello"]


async def test_own_task(layer: Layer) -> None:
    """What the server's send() sees is the task of each consumer."""
    seen: list[asyncio.Task[Any] | None] = []

    class Watching(QuickServer):
        async def _send(self, event: Mapping[str, Any]) -> None:
            if event["type"] == "websocket.send":
                seen.append(asyncio.current_task())
            await super()._send(event)

    class Member(Chat):
        async def chat_task(self, event: Mapping[str, Any]) -> None:
            tasks.append(asyncio.current_task())

    tasks: list[asyncio.Task[Any] | None] = []
    async with serving(Watching, *[Member.as_asgi()] * 2):
        await layer.group_send("chat", {"type": "chat.task"})
        await until(lambda: len(tasks) == 2)
        await layer.group_send("chat", HELLO)
        await until(lambda: len(seen) == 2)
        assert set(seen) == set(tasks)
        assert len(set(seen)) == 2


async def test_sending_outside_of_any_task() -> None:
    """A callback of the event loop can deliver broadcasts too."""
    layer = InMemoryChannelLayer()
    register_channel_layer("default", layer)
    async with serving(QuickServer, Chat.as_asgi()) as (server,):
        sending = layer.group_send("chat", HELLO)

        def send() -> None:
            with contextlib.suppress(StopIteration):
                sending.send(None)

        asyncio.get_running_loop().call_soon(send)
        await until(lambda: texts(server))
        assert texts(server) == ["hello"]


# What is overridden


@pytest.mark.parametrize("place", ["dispatch", "send", "send_json", "base_send"])
async def test_overrides_see_broadcasts(layer: Layer, place: str) -> None:
    """Overridden methods, and a base_send() that was replaced, see each broadcast."""
    seen: list[object] = []

    class Overridden(AsyncJsonWebsocketConsumer):
        channel_layer_alias = "default"
        groups = ["chat"]

        async def connect(self) -> None:
            if place == "base_send":
                send = self.base_send

                async def watch(event: Any) -> None:
                    seen.append(event.get("text"))
                    await send(event)

                self.base_send = watch
            await self.accept()

        @broadcast
        def chat_message(cls, event: dict[str, Any]) -> Any:
            return [event["text"]]

    async def override(self: Any, *args: Any, **kwargs: Any) -> None:
        seen.append((*args, *kwargs.values())[0])
        await getattr(Overridden, place)(self, *args, **kwargs)

    methods = {} if place == "base_send" else {place: override}
    changed: Any = type("Changed", (Overridden,), methods)
    async with serving(DirectServer, *[changed.as_asgi()] * 2) as servers:
        seen.clear()
        await layer.group_send("chat", HELLO)
        await until(lambda: all(map(texts, servers)))
        assert [texts(server) for server in servers] == [['["hello"]']] * 2
    expected = {"dispatch": HELLO, "send_json": ["hello"]}.get(place, '["hello"]')
    assert seen[:2] == [expected, expected]


@pytest.mark.parametrize("content", ["hello", b"hello", None])
async def test_overridden_send(layer: Layer, content: str | bytes | None) -> None:
    """A consumer that overrides send() sends text and bytes with it."""

    class Member(Chat):
        async def send(
            self,
            text_data: str | None = None,
            bytes_data: bytes | None = None,
            close: bool | int = False,
        ) -> None:
            seen.append(text_data or bytes_data)
            await super().send(text_data, bytes_data, close)

    seen: list[str | bytes | None] = []
    async with serving(QuickServer, Member.as_asgi()) as (server,):
        await layer.group_send("chat", {**HELLO, "text": content})
        await layer.group_send("chat", {**HELLO, "text": "end"})
        await until(lambda: "end" in texts(server))
    assert seen == [content, "end"] if content else ["end"]


# The end


async def test_closed_consumers_are_sent_nothing(
    layer: Layer, kind: Callable[[Any], FakeServer]
) -> None:
    """After close(), nothing is sent."""

    class Closing(Chat):
        async def chat_close(self, event: Mapping[str, Any]) -> None:
            await self.close()
            server = servers[0]
            if isinstance(server, DirectServer):
                server.outlet.open = False

    async with serving(kind, Closing.as_asgi()) as servers:
        await layer.group_send("chat", {"type": "chat.close"})
        await layer.group_send("chat", HELLO)
        await turn()
        await layer.group_send("chat", HELLO)
        await turn()
        assert texts(servers[0]) == []
        await servers[0].disconnect(code=1000)


class Member(Subject):
    """Sends broadcasts, and counts calls of disconnect()."""

    groups = ["lobby"]

    @broadcast
    def lobby_message(cls, event: dict[str, Any]) -> str:
        return "hello"


async def cancel_after(turns: int, layer: Layer, kind: Any) -> bool:
    """Cancel a member after some turns of the event loop, while others send to it.

    Returns:
        Whether it was still running.
    """
    member, other = Member(layer), Member(layer)
    server, witness = kind(member), kind(other)
    await witness.connect()
    server.put({"type": "websocket.connect"})
    sent = 0
    for _ in range(turns):
        await layer.group_send("lobby", {"type": "lobby.message"})
        sent += 1
        await asyncio.sleep(0)
    server.put({"type": "websocket.disconnect", "code": 1001})
    await layer.group_send("lobby", {"type": "lobby.message"})
    for _ in range(turns):
        await asyncio.sleep(0)
    in_time: bool = server.task.cancel()
    outcome = await server.end()
    assert isinstance(outcome, asyncio.CancelledError) is in_time
    assert len(member.codes) == ("websocket.connect" in server.received)
    await until(lambda: len(texts(witness)) == sent + 1)
    await witness.disconnect(code=1001)
    return in_time


async def test_cancelled_at_every_step(
    layer: Layer, kind: Callable[[Any], FakeServer]
) -> None:
    """A member that is cancelled at any step is released; others get everything."""
    steps = 0
    while await cancel_after(steps, layer, kind) or steps < 10:
        assert_released(layer)
        steps += 1
    assert steps > 3
