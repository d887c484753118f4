"""The groups of consumers."""

import asyncio
from typing import Any

import pytest

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.exceptions import (
    InvalidChannelLayerError,
)
from fast_channels.layers import (
    InMemoryChannelLayer,
    register_channel_layer,
)
from tests.waiting import counting_turns, until

from .fakes import FakeServer, Layer, QueueLayer, logged, members
from .subject import Member


async def test_groups_are_joined_and_left(layer: Layer) -> None:
    """The groups are joined before connect(), and left before disconnect()."""
    seen: list[set[str]] = []

    class Watching(Member):
        async def connect(self) -> None:
            seen.append(members(layer, "lobby") & members(layer, "news"))

        async def disconnect(self, code: int) -> None:
            seen.append(members(layer))

    consumer = Watching()
    async with FakeServer(consumer) as server:
        await server.connect()
        await layer.group_send("news", {"type": "chat.message", "text": "hello"})
        await until(
            lambda: server.sent == [{"type": "websocket.send", "text": "hello"}]
        )
        await server.disconnect()
    assert seen == [{consumer.channel_name}, set()]


async def test_groups_are_copied(layer: Layer) -> None:
    """Appending to the groups of a connection affects no other connection or class."""
    one, two = Member(), Member()
    async with FakeServer(one) as server:
        await server.connect()
        one.groups.append("kitchen")
        assert two.groups == Member().groups == Member.groups == ["lobby", "news"]
    assert AsyncWebsocketConsumer.groups == []


@pytest.mark.parametrize(
    ("groups", "joined"),
    [(("lobby",), ["lobby"]), ({"lobby"}, ["lobby"]), (None, []), ((), [])],
)
async def test_groups_of_another_kind(
    groups: Any, joined: list[str], layer: Layer
) -> None:
    """The groups of a class can be any iterable, or None."""

    class Mixed(Member):
        pass

    Mixed.groups = groups
    consumer = Mixed()
    async with FakeServer(consumer) as server:
        await server.connect()
        await consumer.join_group("kitchen")
        for group in [*joined, "kitchen"]:
            assert members(layer, group) == {consumer.channel_name}
    assert members(layer) == set()
    assert Mixed.groups is groups


@pytest.mark.parametrize("groups", [("lobby",), None])
async def test_groups_of_an_instance(
    groups: Any, layer: Layer, caplog: pytest.LogCaptureFixture
) -> None:
    """A constructor can set the groups, to any iterable or None."""

    class Own(Member):
        def __init__(self) -> None:
            self.groups = groups

    consumer = Own()
    async with FakeServer(consumer) as server:
        await server.connect()
        await consumer.join_group("kitchen")
        for group in {*(groups or ()), "kitchen"}:
            assert members(layer, group) == {consumer.channel_name}
        assert await server.disconnect() is None
    assert members(layer) == set()
    assert logged(caplog) == []


async def test_groups_as_a_property(layer: Layer) -> None:
    """The groups can be a property that depends on the scope."""

    class Room(Member):
        @property
        def groups(self) -> list[str]:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride] # what people write
            return [f"room.{self.scope['path_params']['room']}"]

    consumer = Room()
    scope = {"type": "websocket", "path_params": {"room": "kitchen"}}
    async with FakeServer(consumer, scope) as server:
        await server.connect()
        assert members(layer, "room.kitchen") == {consumer.channel_name}
        await consumer.join_group("news")
        await consumer.join_group("lobby")
        await consumer.leave_group("lobby")
        assert members(layer, "news") == {consumer.channel_name}
        assert members(layer, "lobby") == set()
        assert await server.disconnect() is None
    assert members(layer) == set()


async def test_groups_must_not_be_a_str() -> None:
    """A str instead of a list of groups is refused, not treated as letters."""

    class OnClass(Member):
        groups = "lobby"  # type: ignore[assignment] # pyright: ignore[reportAssignmentType] # the mistake

    class OnInstance(Member):
        def __init__(self) -> None:
            super().__init__()
            self.groups = "lobby"  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue] # the mistake

    layer = QueueLayer()
    register_channel_layer("default", layer)
    for consumer_class in OnClass, OnInstance:
        async with FakeServer(consumer_class.as_asgi()) as server:
            outcome = await server.end()
        assert isinstance(outcome, TypeError)
        name = consumer_class.__qualname__
        assert f"{name}.groups must be a list" in str(outcome)
        assert "write ['lobby']" in str(outcome)


async def test_groups_appended_later_are_left(layer: Layer) -> None:
    """A group that is joined by hand and appended to groups is left at the end."""
    consumer = Member()
    async with FakeServer(consumer) as server:
        await server.connect()
        await layer.group_add("kitchen", consumer.channel_name)
        consumer.groups.append("kitchen")
        await server.disconnect()
    assert members(layer) == set()


async def test_join_group(layer: Layer) -> None:
    """join_group() joins a group until the connection ends, once or twice."""
    consumer = Member()
    async with FakeServer(consumer) as server:
        await server.connect()
        await consumer.join_group("kitchen")
        await consumer.join_group("kitchen")
        assert consumer.groups == ["lobby", "news", "kitchen"]
        await layer.group_send("kitchen", {"type": "chat.message", "text": "hungry"})
        await until(lambda: len(server.sent) == 2)
        assert server.sent[-1] == {"type": "websocket.send", "text": "hungry"}
        await server.disconnect()
    assert members(layer) == set()


async def test_leave_group(layer: Layer) -> None:
    """leave_group() leaves a group; leaving it again does nothing."""
    consumer = Member()
    async with FakeServer(consumer) as server:
        await server.connect()
        await consumer.join_group("kitchen")
        for group in "kitchen", "kitchen", "lobby", "never.joined":
            await consumer.leave_group(group)
        assert consumer.groups == ["news"]
        assert members(layer, "kitchen") == members(layer, "lobby") == set()
        assert members(layer, "news") == {consumer.channel_name}


async def test_join_again(layer: Layer) -> None:
    """A group that was left can be joined again."""
    consumer = Member()
    async with FakeServer(consumer) as server:
        await server.connect()
        await consumer.leave_group("lobby")
        await consumer.join_group("lobby")
        assert members(layer, "lobby") == {consumer.channel_name}
        await server.disconnect()
    assert members(layer) == set()


async def test_join_group_of_an_invalid_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A group that the layer refuses is not left at the end."""
    register_channel_layer("default", InMemoryChannelLayer())
    consumer = Member()
    async with FakeServer(consumer) as server:
        await server.connect()
        with pytest.raises(TypeError, match="'a room' is not a group name"):
            await consumer.join_group("a room")
        assert consumer.groups == ["lobby", "news"]
        await server.disconnect()
    assert logged(caplog) == []


async def test_groups_without_a_layer(caplog: pytest.LogCaptureFixture) -> None:
    """A consumer that has groups and no layer fails on connect, and says why."""

    class Groupie(Member):
        channel_layer_alias = "chta"

    register_channel_layer("chat", InMemoryChannelLayer())
    async with FakeServer(Groupie()) as server:
        await server.connect()
        outcome = await server.end()
    assert isinstance(outcome, InvalidChannelLayerError)
    assert "Groupie cannot join its groups ['lobby', 'news']" in str(outcome)
    assert "'chta' (registered: 'chat')" in str(outcome)
    assert len(logged(caplog)) == 1


@pytest.mark.parametrize("method", ["join_group", "leave_group"])
async def test_group_methods_without_a_layer(method: str) -> None:
    """The error of join_group() and leave_group() says which layer is missing."""
    consumer = AsyncWebsocketConsumer()
    async with FakeServer(consumer) as server:
        await server.connect()
        with pytest.raises(InvalidChannelLayerError) as caught:
            await getattr(consumer, method)("kitchen")
    assert "group 'kitchen', as it has no channel layer" in str(caught.value)
    assert "its channel_layer_alias is None" in str(caught.value)


async def test_join_group_that_was_appended(layer: Layer) -> None:
    """Joining a group that was appended to groups by hand doesn't add it again."""
    consumer = Member()
    async with FakeServer(consumer) as server:
        await server.connect()
        consumer.groups.append("kitchen")
        await consumer.join_group("kitchen")
        assert consumer.groups == ["lobby", "news", "kitchen"]
        await consumer.leave_group("kitchen")
        assert consumer.groups == ["lobby", "news"]
        assert members(layer, "kitchen") == set()


async def test_groups_after_the_end_of_the_connection(layer: Layer) -> None:
    """A task that outlives the connection cannot join a group, but can leave one."""
    consumer = Member()
    async with FakeServer(consumer) as server:
        await server.connect()
        assert await server.disconnect() is None
    await consumer.join_group("kitchen")
    await consumer.leave_group("lobby")
    assert members(layer, "kitchen") == set()
    assert members(layer, "lobby") == set()


async def test_many_groups() -> None:
    """Joining and leaving many groups doesn't block other tasks."""
    layer = InMemoryChannelLayer()
    register_channel_layer("default", layer)
    names = [f"group.{number}" for number in range(5000)]

    class Busy(Member):
        groups = names

    consumer = Busy()
    async with FakeServer(consumer) as server:
        async with counting_turns() as turns:
            await server.connect()
        assert len(turns) > 50
        async with counting_turns() as turns:
            for name in reversed(names):
                await consumer.leave_group(name)
        assert len(turns) > 50
        async with counting_turns() as turns:
            for name in names:
                await consumer.join_group(name)
        assert len(turns) > 50
        assert consumer.groups == names
        # A message that arrives meanwhile is dropped with the rest.
        sending = asyncio.create_task(
            layer.group_send(names[0], {"type": "chat.message", "text": "hello"})
        )
        async with counting_turns() as turns:
            assert await server.disconnect() is None
        assert len(turns) >= 5
        await sending
    assert layer.groups == {}
    assert layer.channels == {}


async def test_layer_leaves_all_groups_in_one_call() -> None:
    """A layer that knows a channel's groups leaves them all before disconnect()."""
    seen: list[Any] = []

    class Watched(InMemoryChannelLayer):
        async def group_discard(self, group: str, channel: str) -> None:
            raise AssertionError

    class Watching(Member):
        async def disconnect(self, code: int) -> None:
            seen.append(members(layer))

    layer = Watched()
    register_channel_layer("default", layer)
    async with FakeServer(Watching()) as server:
        await server.connect()
        assert await server.disconnect() is None
    assert seen == [set()]
