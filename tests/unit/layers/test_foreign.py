"""Layers that do not derive from BaseChannelLayer, as those for Django Channels."""

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
    """What the specification asks of a layer without groups."""

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
    """With groups; and with methods that mean something else than ours do."""

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
    """Return what was logged: what goes wrong at the end is nowhere else."""
    return [each.message for each in caplog.records if "fast_channels" in each.name]


def test_registry_returns_the_very_object(foreign: WithGroups) -> None:
    """Code that asks for a foreign layer finds all of its own methods."""
    found: list[object] = [get_channel_layer("foreign"), channel_layers["foreign"]]
    assert found == [foreign, foreign]
    assert repr(channel_layers) == "<ChannelLayerRegistry [foreign=WithGroups]>"


@pytest.mark.parametrize(
    "value", [None, 5, "default", object(), {"BACKEND": "x"}, Minimal, BaseChannelLayer]
)
def test_what_is_no_layer(value: object) -> None:
    """Something without the methods of a layer, or a class, is no layer."""
    assert not is_layer(value)
    assert is_layer(Minimal())


def test_layers_of_ours_are_used_as_they_are() -> None:
    """as_layer() wraps only what does not derive from BaseChannelLayer."""
    layer = InMemoryChannelLayer()
    assert as_layer(layer) is layer
    assert isinstance(as_layer(Minimal()), BaseChannelLayer)


async def test_consumers(foreign: WithGroups, caplog: pytest.LogCaptureFixture) -> None:
    """A consumer joins groups, hears what is sent to them, and leaves them."""
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
    """It serves consumers without groups; the optional methods say what is missing."""
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
    """A worker takes the messages of a foreign layer."""
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
    """Code without an event loop sends through a foreign layer."""
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
    """close() is awaited if there is one, and called if it is a plain method."""

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


def test_nonsense_is_refused_in_the_same_words() -> None:
    """What is no layer is refused where a layer is expected."""
    nonsense: Any = object()
    with pytest.raises(TypeError, match="an instance of a subclass of BaseChannelLay"):
        ChannelLayerRegistry().register("alias", nonsense)
    with pytest.raises(TypeError, match="an instance of a subclass of BaseChannelLay"):
        Worker(AsyncConsumer, ["jobs"], nonsense)
    with pytest.raises(TypeError, match="a layer or the alias of a registered one"):
        SyncChannelLayer(nonsense)
