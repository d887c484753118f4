"""Signals raised in a task group count like those of a handler."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fast_channels.consumer import AsyncHttpConsumer, AsyncWebsocketConsumer
from fast_channels.exceptions import AcceptConnection, DenyConnection, StopConsumer
from fast_channels.type_defs import ChannelMessage

from .fakes import Boom, FakeServer, Layer, logged
from .subject import Subject, assert_released, bring_to


async def together(*tasks: Awaitable[None]) -> None:
    """Run tasks in a group."""

    async def run(task: Awaitable[None]) -> None:
        await task

    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(run(task))


async def nested(*tasks: Awaitable[None]) -> None:
    """Run tasks in a group inside another group."""
    await together(together(*tasks))


async def throw(error: type[Exception]) -> None:
    raise error


Group = Callable[..., Awaitable[None]]
groups = pytest.mark.parametrize("group", [together, nested])


@groups
@pytest.mark.parametrize("place", ["connect", "receive", "chat_message"])
async def test_client_is_gone(
    place: str, group: Group, any_layer: Layer | None
) -> None:
    """Tasks that send to a client that is gone end with its disconnect."""

    async def talk(consumer: Subject) -> None:
        await group(consumer.send("hello?"), consumer.send("hello?"))

    consumer = Subject(any_layer, **{place: talk})
    async with FakeServer(consumer) as server:
        await bring_to(place, consumer, server, gone=True)
        assert await server.end() is None
        assert_released(any_layer)
    assert consumer.codes == [1006]


@groups
@pytest.mark.parametrize("place", ["connect", "receive", "chat_message", "disconnect"])
async def test_stop_consumer(
    place: str,
    group: Group,
    any_layer: Layer | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """StopConsumer in a task group ends the consumer cleanly."""

    async def stop(consumer: Subject) -> None:
        await group(throw(StopConsumer), throw(StopConsumer))

    consumer = Subject(any_layer, **{place: stop})
    async with FakeServer(consumer) as server:
        await bring_to(place, consumer, server)
        assert await server.end() is None
        assert_released(any_layer)
    assert consumer.codes == [1001 if place == "disconnect" else 1000]
    assert logged(caplog) == []


@pytest.mark.parametrize("first", [StopConsumer, Boom])
async def test_signals_in_disconnect_after_trouble(
    first: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """A group of signals that disconnect() raises at the end is not logged."""

    async def begin(consumer: Subject) -> None:
        await throw(first)

    async def stop(consumer: Subject) -> None:
        await together(throw(StopConsumer))

    consumer = Subject(None, receive=begin, disconnect=stop)
    async with FakeServer(consumer) as server:
        await bring_to("receive", consumer, server)
        assert type(await server.end()) is (Boom if first is Boom else type(None))
    assert logged(caplog) == []


@groups
@pytest.mark.parametrize(
    ("signals", "event_type"),
    [
        ([AcceptConnection], "websocket.accept"),
        ([DenyConnection], "websocket.close"),
        ([AcceptConnection, DenyConnection], "websocket.close"),
        ([DenyConnection, DenyConnection], "websocket.close"),
    ],
)
async def test_signals_from_connect(
    signals: list[type[Exception]], event_type: str, group: Group
) -> None:
    """Tasks in connect() can accept or refuse; refusing takes precedence."""

    class Deciding(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            await group(*[throw(signal) for signal in signals])

    async with FakeServer(Deciding()) as server:
        await server.connect()
        assert [event["type"] for event in server.sent] == [event_type]
        assert await server.disconnect() is None


@pytest.mark.parametrize("signal", [StopConsumer, DenyConnection])
async def test_signal_and_error(signal: type[Exception]) -> None:
    """A group that also contains an error reaches the server unchanged."""

    async def fail(consumer: Subject) -> None:
        await together(throw(signal), throw(Boom))

    consumer = Subject(None, connect=fail)
    async with FakeServer(consumer) as server:
        await bring_to("connect", consumer, server)
        outcome = await server.end()
    assert isinstance(outcome, ExceptionGroup)
    assert consumer.codes == [1011]
    assert server.sent == []


async def test_deny_outside_of_connect() -> None:
    """DenyConnection outside connect() is an error, also in a group."""

    async def deny(consumer: Subject) -> None:
        await together(throw(DenyConnection))

    consumer = Subject(None, receive=deny)
    async with FakeServer(consumer) as server:
        await bring_to("receive", consumer, server)
        assert isinstance(await server.end(), ExceptionGroup)
    assert consumer.codes == [1011]


@groups
async def test_http_client_is_gone(group: Group) -> None:
    """Tasks in handle() that send to a client that is gone end the request cleanly."""
    ended: list[str] = []

    class Page(AsyncHttpConsumer):
        async def handle(self, body: bytes) -> None:
            await self.send_headers()
            await group(self.send_body(b"1", more_body=True), self.send_body(b"2"))

        async def disconnect(self) -> None:
            ended.append("disconnect")

    async def receive() -> dict[str, object]:
        return {"type": "http.request"} if not ended else {"type": "http.disconnect"}

    async def send(event: ChannelMessage) -> None:
        if event["type"] == "http.response.body":
            raise ConnectionResetError

    await Page()({"type": "http"}, receive, send)
    assert ended == ["disconnect"]
