"""Consumers of any protocol: dispatch, the channel layer, as_asgi(), the end."""

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Mapping
from typing import Any

import pytest
import uvicorn
from starlette.routing import Mount, WebSocketRoute

from fast_channels.consumer import AsyncConsumer
from fast_channels.exceptions import InvalidChannelLayerError, StopConsumer
from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    register_channel_layer,
)
from fast_channels.layers.notices import Notice
from tests.waiting import until

from .fakes import Boom, FakeServer, QueueLayer, logged


class Recorder(AsyncConsumer):
    """Records the messages that it receives."""

    channel_layer_alias: str | None = "default"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kwargs = kwargs
        self.seen: list[Any] = []

    async def chat_message(self, message: Mapping[str, Any]) -> None:
        self.seen.append(message.get("text"))

    async def chat_stop(self, message: Mapping[str, Any]) -> None:
        raise StopConsumer

    async def chat_boom(self, message: Mapping[str, Any]) -> None:
        raise Boom


@pytest.fixture(params=[InMemoryChannelLayer, QueueLayer])
def layer(request: pytest.FixtureRequest) -> BaseChannelLayer:
    """Return the default layer: one of the library, or a third-party one."""
    layer: BaseChannelLayer = request.param()
    register_channel_layer("default", layer)
    return layer


@pytest.fixture(params=["server", "layer"])
def source(request: pytest.FixtureRequest) -> str:
    """Return the source of a test's messages."""
    name: str = request.param
    return name


async def deliver(
    source: str, server: FakeServer, consumer: AsyncConsumer, *messages: dict[str, Any]
) -> None:
    """Send messages to a consumer, from its server or through its layer."""
    await until(lambda: server.idle)
    for message in messages:
        if source == "server":
            server.put(message)
        else:
            await consumer.channel_layer.send(consumer.channel_name, message)


# Dispatch


@pytest.mark.parametrize("message_type", ["chat.message", "chat_message"])
async def test_type_names_a_method(
    message_type: str, source: str, layer: BaseChannelLayer
) -> None:
    """A message is handled by the method named after its type, "_" for each dot."""
    consumer = Recorder()
    async with FakeServer(consumer) as server:
        await deliver(source, server, consumer, {"type": message_type, "text": "hello"})
        await until(lambda: consumer.seen == ["hello"])


async def test_a_method_of_a_mixin_is_a_handler() -> None:
    """A handler can come from any class outside the library."""

    class Greeter:
        async def greet(self, message: Mapping[str, Any]) -> None:
            self.greeted = message["whom"]

    class Polite(Greeter, AsyncConsumer):
        pass

    consumer = Polite()
    await consumer.dispatch({"type": "greet", "whom": "you"})
    assert consumer.greeted == "you"


@pytest.mark.parametrize(
    "message",
    [{}, {"text": "hello"}, *({"type": kind} for kind in (None, 7, b"chat", ["chat"]))],
)
async def test_type_must_be_a_str(message: dict[str, Any]) -> None:
    """A message whose type is missing or not a str raises ValueError."""
    with pytest.raises(ValueError, match="a message needs a 'type', a str") as caught:
        await Recorder().dispatch(message)
    assert repr(message) in str(caught.value)


@pytest.mark.parametrize(
    "message_type", ["", ".", "_", ".chat", "_chat", "__init__", "._end", "_.end"]
)
async def test_type_must_not_begin_with_underscore_or_dot(message_type: str) -> None:
    """A type that is empty or begins with a dot or an underscore raises ValueError."""
    with pytest.raises(ValueError, match="malformed message type") as caught:
        await Recorder().dispatch({"type": message_type})
    assert repr(message_type) in str(caught.value)


@pytest.mark.parametrize("message_type", ["nobody.home", "chat message", "chat.", "ñ"])
async def test_type_must_be_known(message_type: str) -> None:
    """A type without a method raises ValueError, which names both."""
    with pytest.raises(ValueError, match="Recorder has no method") as caught:
        await Recorder().dispatch({"type": message_type})
    assert f"no handler for message type {message_type!r}" in str(caught.value)
    assert repr(message_type.replace(".", "_")) in str(caught.value)
    # A traceback would show the KeyError of the look-up first.
    assert caught.value.__context__ is None


async def test_notice_needs_no_handler() -> None:
    """A layer's own message is dispatched if there is a handler, else ignored."""
    consumer = Recorder()
    await consumer.dispatch(Notice(type="redis.lost"))
    await consumer.dispatch(Notice(type="seen"))
    await consumer.dispatch(Notice(type="chat.message", text="hi"))
    assert consumer.seen == ["hi"]


async def test_type_must_not_name_a_plain_attribute() -> None:
    """A type that names an attribute other than a method raises ValueError."""
    with pytest.raises(ValueError, match="no handler for message type 'seen'"):
        await Recorder().dispatch({"type": "seen"})


# fmt: off
BASE_ATTRIBUTES = [
    "as_asgi", "as.asgi", "base.send", "channel_layer", "channel.layer.alias",
    "channel.name", "channel.receive", "dispatch", "scope", "send",
]
# fmt: on


@pytest.mark.parametrize("message_type", BASE_ATTRIBUTES)
async def test_type_must_not_name_what_every_consumer_has(
    message_type: str, source: str, layer: BaseChannelLayer
) -> None:
    """No message reaches a method or attribute of the base class."""
    consumer = Recorder()
    async with FakeServer(consumer) as server:
        await deliver(source, server, consumer, {"type": message_type})
        outcome = await server.end()
    assert isinstance(outcome, ValueError)
    assert f"no handler for message type {message_type!r}" in str(outcome)
    assert "every consumer has, which no message may reach" in str(outcome)
    assert server.sent == []


async def test_type_must_not_name_what_every_consumer_has_overridden() -> None:
    """Overriding a method of the base class does not make it a handler."""

    class Loud(AsyncConsumer):
        async def send(self, message: Mapping[str, Any]) -> None:
            raise AssertionError

    class Louder(Loud):
        pass

    with pytest.raises(ValueError, match="'send' is a method or attribute"):
        await Louder().dispatch({"type": "send"})


@pytest.mark.parametrize("message_type", ["http.request", "websocket.connect"])
async def test_type_can_name_an_event_handler(message_type: str) -> None:
    """An ASGI event reaches its handler, although base classes define it too."""

    class Handler(AsyncConsumer):
        async def http_request(self, message: Mapping[str, Any]) -> None:
            self.got = message["type"]

        websocket_connect = http_request

    handler = Handler()
    await handler.dispatch({"type": message_type})
    assert handler.got == message_type


# Handlers


class Slow(AsyncConsumer):
    """Has slow handlers, and notices if they overlap."""

    channel_layer_alias = "default"

    def __init__(self) -> None:
        super().__init__()
        self.busy = False
        self.seen: list[tuple[str, int]] = []

    async def count(self, message: Mapping[str, Any]) -> None:
        assert not self.busy
        self.busy = True
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.seen.append((message["source"], message["number"]))
        self.busy = False


async def test_handlers_do_not_overlap(layer: BaseChannelLayer) -> None:
    """Handlers run one at a time, and each source's messages keep their order."""
    consumer = Slow()
    async with FakeServer(consumer) as server:
        for source in "server", "layer":
            messages = [
                {"type": "count", "source": source, "number": number}
                for number in range(10)
            ]
            await deliver(source, server, consumer, *messages)
            # The other source gets its messages while these are being handled.
            server.idle = True
        await until(lambda: len(consumer.seen) == 20)
    for source in "server", "layer":
        numbers = [number for name, number in consumer.seen if name == source]
        assert numbers == list(range(10))


async def test_stop_consumer(source: str, layer: BaseChannelLayer) -> None:
    """StopConsumer from a handler of either source ends the consumer cleanly."""
    consumer = Recorder()
    async with FakeServer(consumer) as server:
        await deliver(source, server, consumer, {"type": "chat.stop"})
        assert await server.end() is None


async def test_exception_in_a_handler(source: str, layer: BaseChannelLayer) -> None:
    """An exception in a handler of either source reaches the server."""
    consumer = Recorder()
    async with FakeServer(consumer) as server:
        await deliver(source, server, consumer, {"type": "chat.boom"})
        assert isinstance(await server.end(), Boom)


async def test_exception_from_the_server(layer: BaseChannelLayer) -> None:
    """An exception from the server's receive() goes back to the server."""
    async with FakeServer(Recorder()) as server:
        await server.give(Boom())
        assert isinstance(await server.end(), Boom)


async def test_exception_from_the_layer() -> None:
    """An exception from the layer's receive() reaches the server."""

    class Broken(QueueLayer):
        async def receive(self, channel: str) -> dict[str, Any]:
            raise Boom

    register_channel_layer("default", Broken())
    async with FakeServer(Recorder()) as server:
        assert isinstance(await server.end(), Boom)


async def test_receive_of_a_layer_that_misses_its_cancellation() -> None:
    """A consumer ends even if its layer returns a message instead of being cancelled.

    asyncio.wait_for() does that before Python 3.12 when both happen at once.
    """

    class Deaf(QueueLayer):
        async def receive(self, channel: str) -> dict[str, Any]:
            try:
                return await super().receive(channel)
            except asyncio.CancelledError:
                return {"type": "chat.message"}

    register_channel_layer("default", Deaf())
    consumer = Recorder()
    async with FakeServer(consumer) as server:
        await deliver("server", server, consumer, {"type": "chat.stop"})
        assert await server.end() is None


async def test_send() -> None:
    """send() passes an event to the server unchanged."""
    consumer = Recorder()
    event = {"type": "anything", "more": [1, 2]}
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        await consumer.send(event)
        await consumer.base_send(event)
    assert server.sent == [event, event]


async def test_context_variables_persist(layer: BaseChannelLayer) -> None:
    """A context variable set in one handler is visible in the next one."""
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")

    class Contextual(Recorder):
        async def log_in(self, message: Mapping[str, Any]) -> None:
            user.set(message["name"])

        async def who(self, message: Mapping[str, Any]) -> None:
            self.seen.append(user.get())

    consumer = Contextual()
    async with FakeServer(consumer) as server:
        await server.give({"type": "log.in", "name": "one"}, {"type": "who"})
        await layer.send(consumer.channel_name, {"type": "who"})
        await layer.send(consumer.channel_name, {"type": "log.in", "name": "two"})
        await layer.send(consumer.channel_name, {"type": "who"})
        await until(lambda: consumer.seen == ["one", "one", "two"])
        await server.give({"type": "who"})
        assert consumer.seen[-1] == "two"


async def test_message_from_another_thread() -> None:
    """A message sent in the event loop of another thread arrives."""
    layer = InMemoryChannelLayer()
    register_channel_layer("default", layer)
    consumer = Recorder()
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        message = {"type": "chat.message", "text": "from afar"}
        await asyncio.to_thread(
            lambda: asyncio.run(layer.send(consumer.channel_name, message))
        )
        await until(lambda: consumer.seen == ["from afar"])


# The channel layer


async def test_layer_by_alias(layer: BaseChannelLayer) -> None:
    """The alias selects the layer, and the consumer gets a channel of it."""

    class Early(Recorder):
        async def first(self, message: Mapping[str, Any]) -> None:
            self.seen = [self.scope, self.channel_layer, self.channel_name]

    consumer = Early()
    async with FakeServer(consumer, {"type": "early"}) as server:
        await server.give({"type": "first"})
        assert consumer.seen[:2] == [{"type": "early"}, layer]
        assert layer.require_valid_channel_name(consumer.seen[2])
        message = {"type": "chat.message", "text": "hello"}
        await layer.send(consumer.channel_name, message)
        await until(lambda: consumer.seen[-1] == "hello")


async def test_channel_receive() -> None:
    """channel_receive() waits for a message on the consumer's channel."""

    class Asking(Recorder):
        async def ask(self, message: Mapping[str, Any]) -> None:
            self.seen.append("asking")
            self.seen.append((await self.channel_receive())["text"])

    layer = InMemoryChannelLayer()
    register_channel_layer("default", layer)
    consumer = Asking()
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        server.put({"type": "ask"})
        await until(lambda: consumer.seen == ["asking"])
        message = {"type": "chat.message", "text": "answer"}
        await layer.send(consumer.channel_name, message)
        await until(lambda: consumer.seen == ["asking", "answer"])


async def test_channel_receive_without_a_layer() -> None:
    """Without a layer there is no channel to receive from, and the error says why."""
    with pytest.raises(
        InvalidChannelLayerError,
        match=r"^Recorder has no channel to receive from: no layer is registered for",
    ):
        await Recorder().channel_receive()


async def test_no_alias(caplog: pytest.LogCaptureFixture) -> None:
    """Without an alias there is no layer and no channel, and nothing is logged."""

    class Alone(AsyncConsumer):
        pass

    register_channel_layer("default", InMemoryChannelLayer())
    consumer = Alone()
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        assert consumer.channel_layer is None
        assert consumer.channel_name is None
    assert logged(caplog) == []


async def test_unknown_alias(caplog: pytest.LogCaptureFixture) -> None:
    """An unknown alias means no layer, and is logged once per class."""

    class Lost(AsyncConsumer):
        channel_layer_alias = "chta"

    class LostToo(Lost):
        pass

    register_channel_layer("chat", InMemoryChannelLayer())
    register_channel_layer("jobs", InMemoryChannelLayer())
    for consumer_class in Lost, Lost, LostToo, Lost, LostToo:
        consumer = consumer_class()
        async with FakeServer(consumer) as server:
            await until(lambda: server.idle)
            assert consumer.channel_layer is None
            assert consumer.channel_name is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    for message, name in zip(logged(caplog), ["Lost", "LostToo"], strict=True):
        assert f"{name} has no channel layer: no layer is registered" in message
        assert "'chta' (registered: 'chat', 'jobs')" in message


async def test_unknown_alias_and_no_layers(caplog: pytest.LogCaptureFixture) -> None:
    """The warning about an unknown alias says so when no layer is registered."""

    class Lost(AsyncConsumer):
        channel_layer_alias = "chat"

    async with FakeServer(Lost()) as server:
        await until(lambda: server.idle)
    assert "'chat' (registered: none)" in caplog.text


async def test_layer_registered_later() -> None:
    """The alias is looked up for each connection, not when the route is declared."""
    consumers: list[Recorder] = []

    class Listed(Recorder):
        def __init__(self) -> None:
            super().__init__()
            consumers.append(self)

    application = Listed.as_asgi()
    layers = [InMemoryChannelLayer(), InMemoryChannelLayer()]
    for layer in layers:
        register_channel_layer("default", layer)
        async with FakeServer(application) as server:
            await until(lambda: server.idle)
    assert [consumer.channel_layer for consumer in consumers] == layers


async def test_layer_replaced_during_a_connection() -> None:
    """A connection keeps the layer that it began with."""
    layer = InMemoryChannelLayer()
    register_channel_layer("default", layer)
    consumer = Recorder()
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        register_channel_layer("default", InMemoryChannelLayer())
        await layer.send(consumer.channel_name, {"type": "chat.message"})
        await until(lambda: consumer.seen)
        assert consumer.channel_layer is layer
    assert layer.statistics()["channels"] == 0


# as_asgi()


def test_as_asgi_describes_what_it_runs() -> None:
    """The application has its class, its arguments, a name and a docstring."""
    application = Recorder.as_asgi(room="lobby")
    assert application.consumer_class is Recorder
    assert application.consumer_initkwargs == {"room": "lobby"}
    assert application.__name__ == "Recorder"
    assert application.__doc__ == "Records the messages that it receives."
    assert repr(application).endswith("test_base.Recorder>")


def test_as_asgi_is_not_a_function() -> None:
    """Starlette treats the application as ASGI, not as an endpoint."""
    application = Recorder.as_asgi()
    assert not inspect.isfunction(application)
    assert not inspect.ismethod(application)
    assert WebSocketRoute("/chat", application).app is application
    assert WebSocketRoute("/chat", application).name == "Recorder"
    assert Mount("/chat", app=application).app is application


@pytest.mark.parametrize("application", [Recorder.as_asgi(), Recorder()])
def test_uvicorn_treats_it_as_asgi_3(application: Any) -> None:
    """A server that detects the version of ASGI finds version 3."""
    config = uvicorn.Config(application, log_config=None, lifespan="off")
    config.load()
    assert config.interface == "asgi3"


async def test_as_asgi_creates_an_instance_for_each_connection() -> None:
    """Every connection has an instance, created with the arguments of as_asgi()."""
    made: list[Recorder] = []

    class Listed(Recorder):
        channel_layer_alias = None

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            made.append(self)

    application = Listed.as_asgi(room="lobby", limit=3)
    async with FakeServer(application) as one, FakeServer(application) as two:
        await one.give({"type": "chat.message", "text": "for one"})
        await two.give({"type": "chat.message", "text": "for two"})
    assert [consumer.seen for consumer in made] == [["for one"], ["for two"]]
    assert [consumer.kwargs for consumer in made] == [{"room": "lobby", "limit": 3}] * 2


# Subclasses


def test_constructor_accepts_any_arguments() -> None:
    """The constructor accepts any arguments, and needs no event loop."""
    AsyncConsumer(1, "two", three=3)


def test_consumers_are_plain_classes() -> None:
    """A consumer class has no metaclass, and its instances have a __dict__."""
    assert type(AsyncConsumer) is type
    assert vars(AsyncConsumer()) == {}


async def test_constructor_without_super(layer: BaseChannelLayer) -> None:
    """The constructor of a subclass doesn't have to call super."""

    class Own(AsyncConsumer):
        channel_layer_alias = "default"

        def __init__(self, limit: int) -> None:
            self.limit = limit

        async def chat_message(self, message: Mapping[str, Any]) -> None:
            self.limit -= 1

    consumer = Own(limit=2)
    async with FakeServer(consumer) as server:
        await server.give({"type": "chat.message"})
        await layer.send(consumer.channel_name, {"type": "chat.message"})
        await until(lambda: consumer.limit == 0)


async def test_dispatch_can_be_overridden(source: str, layer: BaseChannelLayer) -> None:
    """An override of dispatch() gets every message from both sources."""

    class Watcher(Recorder):
        async def dispatch(self, message: Mapping[str, Any]) -> None:
            self.seen.append("before")
            await super().dispatch(message)
            self.seen.append("after")

    consumer = Watcher()
    async with FakeServer(consumer) as server:
        await deliver(source, server, consumer, {"type": "chat.message", "text": "at"})
        await until(lambda: consumer.seen == ["before", "at", "after"])


# The end


@pytest.mark.parametrize("message_type", ["chat.stop", "chat.boom"])
async def test_channel_is_released(message_type: str, source: str) -> None:
    """When a consumer ends, its channel is removed from the layer."""
    layer = InMemoryChannelLayer()
    register_channel_layer("default", layer)
    consumer = Recorder()
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        await layer.group_add("room", consumer.channel_name)
        await deliver(source, server, consumer, {"type": message_type})
        await server.end()
    assert layer.channels == {}
    assert layer.groups == {}


class Tidy(QueueLayer):
    """A third-party layer that takes a while to delete a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.open: set[str] = set()

    async def new_channel(self, prefix: str = "specific") -> str:
        channel = await super().new_channel(prefix)
        self.open.add(channel)
        return channel

    async def delete_channel(self, channel: str) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.open.discard(channel)


async def test_cancelled_at_every_step() -> None:
    """At whatever step a consumer is cancelled, it releases its channel first."""
    for steps in range(100):
        layer = Tidy()
        register_channel_layer("default", layer)
        server = FakeServer(Recorder())
        server.put({"type": "chat.message"}, {"type": "chat.stop"})
        for _ in range(steps):
            await asyncio.sleep(0)
        done = server.task.done()
        server.task.cancel()
        await server.end()
        assert layer.open == set(), f"cancelled after {steps} steps"
        assert asyncio.all_tasks() == {asyncio.current_task()}
        if done:
            return
        assert server.task.cancelled()
    raise AssertionError("the consumer never ended")


async def test_new_channel_fails(caplog: pytest.LogCaptureFixture) -> None:
    """If the layer cannot create a channel, its exception reaches the server."""

    class Broken(QueueLayer):
        async def new_channel(self, prefix: str = "specific") -> str:
            raise Boom

    register_channel_layer("default", Broken())
    async with FakeServer(Recorder()) as server:
        assert isinstance(await server.end(), Boom)
    assert logged(caplog) == []


@pytest.mark.parametrize(
    ("message_type", "outcome"), [("chat.stop", type(None)), ("chat.boom", Boom)]
)
async def test_delete_channel_fails(
    message_type: str, outcome: type, caplog: pytest.LogCaptureFixture
) -> None:
    """A layer's failure to release a channel is only logged."""

    class Broken(QueueLayer):
        async def delete_channel(self, channel: str) -> None:
            raise OSError("the layer is gone")

    register_channel_layer("default", Broken())
    async with FakeServer(Recorder()) as server:
        await server.give({"type": message_type})
        assert type(await server.end()) is outcome
    assert logged(caplog) == ["Recorder could not release its channel"]
    assert "the layer is gone" in caplog.text
