"""Layers that do not derive from BaseChannelLayer, such as Django Channels' own."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from fast_channels.consumer import AsyncConsumer, AsyncJsonWebsocketConsumer
from fast_channels.layers import (
    BaseChannelLayer,
    ChannelLayerRegistry,
    InMemoryChannelLayer,
    SyncChannelLayer,
    channel_layers,
    get_channel_layer,
    register_channel_layer,
)
from fast_channels.layers.foreign import as_layer, is_layer
from fast_channels.lifespan import channels_lifespan
from fast_channels.testing import WebsocketCommunicator
from fast_channels.worker import Worker


class Minimal:
    """The methods that the specification requires of a layer without groups."""

    __slots__ = ("numbers", "queues")

    def __init__(self) -> None:
        self.queues: dict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        self.numbers = itertools.count()

    def __repr__(self) -> str:
        return "<Minimal>"

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        self.queues[channel].put_nowait(message)

    async def receive(self, channel: str) -> dict[str, Any]:
        message: dict[str, Any] = await self.queues[channel].get()
        return message

    async def new_channel(self, prefix: str = "specific") -> str:
        return f"{prefix}.minimal!{next(self.numbers)}"


class WithGroups(Minimal):
    """A layer with groups, and with methods that differ from those of the library."""

    __slots__ = ("closed", "members")

    def __init__(self) -> None:
        super().__init__()
        self.members: dict[str, set[str]] = defaultdict(set)
        self.closed = 0

    async def group_add(self, group: str, channel: str) -> None:
        self.members[group].add(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self.members[group].discard(channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        for channel in self.members[group]:
            await self.send(channel, message)

    async def close(self) -> None:
        self.closed += 1

    def attach(self, server: str) -> None:
        raise AssertionError(server)

    def delete_channel(self, *names: str) -> None:
        raise AssertionError(names)

    def statistics(self) -> str:
        raise AssertionError


class Room(AsyncJsonWebsocketConsumer):
    channel_layer: Any
    channel_layer_alias = "foreign"

    async def connect(self) -> None:
        await self.join_group("room")
        await self.accept()

    async def receive_json(self, content: Any, **_kwargs: Any) -> None:
        await self.channel_layer.group_send("room", {"type": "say", "text": content})

    async def say(self, event: dict[str, Any]) -> None:
        await self.send_json(event["text"])


@pytest.fixture
def foreign() -> Iterator[WithGroups]:
    """Register a foreign layer."""
    layer = WithGroups()
    register_channel_layer("foreign", layer)
    yield layer
    channel_layers.clear()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log, the only place for errors at the end of a connection."""
    return [each.message for each in caplog.records if "fast_channels" in each.name]


def test_registry_returns_the_very_object(foreign: WithGroups) -> None:
    """The registry returns a foreign layer itself, with all of its methods."""
    found: list[object] = [get_channel_layer("foreign"), channel_layers["foreign"]]
    assert found == [foreign, foreign]
    assert repr(channel_layers) == "<ChannelLayerRegistry [foreign=WithGroups]>"


@pytest.mark.parametrize(
    "value", [None, 5, "default", object(), {"BACKEND": "x"}, Minimal, BaseChannelLayer]
)
def test_what_is_not_a_layer(value: object) -> None:
    """A class, or an object without the methods of a layer, is refused."""
    assert not is_layer(value)
    assert is_layer(Minimal())


def test_own_layers_are_not_wrapped() -> None:
    """as_layer() wraps only layers that do not derive from BaseChannelLayer."""
    layer = InMemoryChannelLayer()
    assert as_layer(layer) is layer
    assert isinstance(as_layer(Minimal()), BaseChannelLayer)


async def test_consumers(foreign: WithGroups, caplog: pytest.LogCaptureFixture) -> None:
    """A consumer joins groups, receives their messages, and leaves them."""
    async with (
        WebsocketCommunicator(Room, "/") as one,
        WebsocketCommunicator(Room, "/") as two,
    ):
        assert await one.connect() == (True, None)
        assert await two.connect() == (True, None)
        await one.send_json_to("hello")
        assert await one.receive_json_from() == "hello"
        assert await two.receive_json_from() == "hello"
        await foreign.group_send("room", {"type": "say", "text": "direct"})
        assert await two.receive_json_from() == "direct"
        assert len(foreign.members["room"]) == 2
    assert foreign.members["room"] == set()
    assert errors(caplog) == []


async def test_layer_without_groups() -> None:
    """A layer without groups serves consumers; the errors say what is missing."""
    layer = as_layer(Minimal())
    assert repr(layer) == "<Minimal>"
    assert layer.attach("a!b", lambda: None) is None
    await layer.delete_channel("a!b")
    await layer.close()
    for missing in (
        layer.group_add("group", "channel"),
        layer.group_discard("group", "channel"),
        layer.group_send("group", {}),
        layer.flush(),
    ):
        with pytest.raises(NotImplementedError):
            await missing


async def test_worker(foreign: WithGroups) -> None:
    """A worker handles the messages of a foreign layer."""
    handled: asyncio.Queue[Any] = asyncio.Queue()

    class Job(AsyncConsumer):
        async def job(self, event: dict[str, Any]) -> None:
            handled.put_nowait(event["number"])

    with pytest.raises(TypeError, match="'two words' is not a channel name"):
        Worker(Job, ["two words"], foreign)
    task = asyncio.create_task(Worker(Job, ["jobs"], foreign).run())
    await foreign.send("jobs", {"type": "job", "number": 7})
    async with asyncio.timeout(5):
        assert await handled.get() == 7
    task.cancel()
    await asyncio.wait([task])


def test_sync_layer(foreign: WithGroups) -> None:
    """Synchronous code can send through a foreign layer."""
    for layer in (SyncChannelLayer(foreign), SyncChannelLayer("foreign")):
        layer.group_add("group", "jobs")
        layer.send("jobs", {"type": "one"})
        layer.group_send("group", {"type": "all"})
        layer.group_discard("group", "jobs")
    layer.close()
    assert repr(SyncChannelLayer(Minimal())) == "<SyncChannelLayer of <Minimal>>"
    queue = foreign.queues["jobs"]
    assert [queue.get_nowait()["type"] for _ in range(4)] == ["one", "all"] * 2


async def test_lifespan_closes_it_if_it_can(
    foreign: WithGroups, caplog: pytest.LogCaptureFixture
) -> None:
    """close() is called if it exists, and awaited if it is a coroutine function."""

    class Plain(Minimal):
        def close(self) -> None:
            self.queues.clear()

    plain = Plain()
    await plain.send("channel", {})
    register_channel_layer("plain", plain)
    register_channel_layer("minimal", Minimal())
    async with channels_lifespan()(None):
        assert foreign.closed == 0
    assert foreign.closed == 1
    assert not plain.queues
    assert errors(caplog) == []


def test_same_error_for_everything_that_is_not_a_layer() -> None:
    """An object that is not a layer is refused everywhere with the same error."""
    nonsense: Any = object()
    with pytest.raises(TypeError, match="an instance of a subclass of BaseChannelLay"):
        ChannelLayerRegistry().register("alias", nonsense)
    with pytest.raises(TypeError, match="an instance of a subclass of BaseChannelLay"):
        Worker(AsyncConsumer, ["jobs"], nonsense)
    with pytest.raises(TypeError, match="a layer or the alias of a registered one"):
        SyncChannelLayer(nonsense)
