"""listen() on third-party layers, and in the corners that the contract leaves out."""

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from typing_extensions import override

from fast_channels.layers import (
    BaseChannelLayer,
    GroupMessage,
    History,
    InMemoryChannelLayer,
    Messages,
    Resumed,
    channel_layers,
    register_channel_layer,
)
from fast_channels.lifespan import channels_lifespan, close_consumers
from fast_channels.type_defs import ChannelMessage
from tests.waiting import turn, until

HELLO = {"type": "hello"}


class Minimal(BaseChannelLayer):
    """Has only what listen() needs, and records the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: asyncio.Queue[dict[str, Any] | Exception] = asyncio.Queue()
        self.calls: list[str] = []
        self.fails = False

    @override
    async def new_channel(self, prefix: str = "specific") -> str:
        return "channel"

    @override
    async def receive(self, channel: str) -> dict[str, Any]:
        self.calls.append(f"receive {channel}")
        message = await self.queue.get()
        if isinstance(message, Exception):
            raise message
        return message

    @override
    async def group_add(self, group: str, channel: str) -> None:
        self.calls.append(f"join {group}")
        if self.fails:
            raise LookupError(group)

    @override
    async def group_discard(self, group: str, channel: str) -> None:
        self.calls.append(f"leave {group}")
        if self.fails:
            raise LookupError(group)

    @override
    async def close(self) -> None:
        self.calls.append("closed")


@pytest.fixture
def layer() -> Minimal:
    return Minimal()


async def test_layer_without_mailboxes(layer: Minimal) -> None:
    """A layer needs receive(), new_channel() and the groups."""
    async with layer.listen("a", "b") as messages:
        layer.queue.put_nowait(HELLO)
        assert await messages.get() == HELLO
        # No wait that ends early loses a message.
        assert await messages.get(timeout=0) is None
        layer.queue.put_nowait(HELLO)
        assert await messages.get() == HELLO
        assert await messages.get(timeout=0) is None
    await turn()
    assert layer.calls[:2] == ["join a", "join b"]
    assert layer.calls[2:-2] == ["receive channel"] * 3
    assert layer.calls[-2:] == ["leave a", "leave b"]


@pytest.mark.parametrize("error", [LookupError("no"), TimeoutError("no")])
async def test_error_of_receive_propagates(layer: Minimal, error: Exception) -> None:
    """The loop raises what receive() raises, even if that looks like our timeout."""
    async with layer.listen("a") as messages:
        layer.queue.put_nowait(error)
        with pytest.raises(type(error), match="no"):
            await messages.get(timeout=10)
        layer.queue.put_nowait(HELLO)
        assert await messages.get() == HELLO


async def test_failure_to_join(
    layer: Minimal, caplog: pytest.LogCaptureFixture
) -> None:
    """The error propagates, and all groups are left; errors of that are logged."""
    layer.fails = True
    with pytest.raises(LookupError, match="a"):
        async with layer.listen("a", "b"):
            pass
    assert layer.calls == ["join a", "leave a", "leave b"]
    assert [record.getMessage() for record in caplog.records] == [
        "channel 'channel' could not be released"
    ] * 2


async def test_closing_a_layer_whose_close_does_not_end_listeners(
    layer: Minimal,
) -> None:
    """The registry and ``async with`` end them first."""
    register_channel_layer("default", layer)
    async with layer.listen("a") as messages:
        await channel_layers.close()
        assert await messages.get() is None
    assert layer.calls == ["join a", "leave a", "closed"]
    async with layer.listen("a") as messages:
        async with layer:
            pass
        assert messages.ended


async def test_long_run_of_messages_lets_other_tasks_run() -> None:
    """A loop over many waiting messages yields to the event loop."""
    layer = InMemoryChannelLayer(capacity=1000)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    async with layer.listen("a") as messages:
        for _ in range(1000):
            await layer.group_send("a", HELLO)
        before = turns
        for _ in range(1000):
            await messages.get()
        assert turns - before > 10
    counting.cancel()


async def test_cancelled_release_is_completed() -> None:
    """A release that is cancelled where it waits goes on in a task."""
    gate = asyncio.Event()

    class Slow(Minimal):
        async def group_discard(self, group: str, channel: str) -> None:
            await gate.wait()
            await super().group_discard(group, channel)

    layer = Slow()

    async def listen() -> None:
        async with layer.listen("a") as messages:
            await messages.get()

    listening = asyncio.create_task(listen())
    await until(lambda: "join a" in layer.calls)
    for _ in range(3):
        listening.cancel()
        await turn()
    assert listening.cancelled()
    gate.set()
    await until(lambda: layer.calls[-1] == "leave a")


def test_event_loop_that_is_closed_without_an_end() -> None:
    """What the layer does without waiting is done when the loop is gone."""
    layer = InMemoryChannelLayer()

    async def events() -> AsyncGenerator[dict[str, Any]]:
        async with layer.listen("a") as messages:
            async for message in messages:
                yield message

    generator = events()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(layer.group_send("a", HELLO))
    first = loop.create_task(anext(generator))
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(layer.group_send("a", HELLO))
    assert loop.run_until_complete(first) == HELLO
    loop.close()
    del generator, first
    gc.collect()
    assert layer.statistics()["channels"] == layer.statistics()["groups"] == 0


def test_receiving_task_of_a_closed_event_loop(layer: Minimal) -> None:
    """A layer without mailboxes is released too, as far as it does not wait."""

    async def begin() -> None:
        messages = layer.listen("a")
        await messages.__aenter__()
        layer.queue.put_nowait(HELLO)
        assert await messages.get() == HELLO
        assert await messages.get(timeout=0) is None
        kept.append(messages)

    kept: list[Any] = []
    asyncio.run(begin())
    kept.clear()
    gc.collect()
    assert layer.calls[-1] == "leave a"


async def test_other_event_loop_closes_the_layer() -> None:
    """Listeners of every event loop end; each leaves in its own."""
    layer = InMemoryChannelLayer()

    async def listen() -> list[ChannelMessage]:
        async with layer.listen("a") as messages:
            return [message async for message in messages]

    thread = asyncio.create_task(asyncio.to_thread(asyncio.run, listen()))
    await until(lambda: layer.groups, pause=0.001)
    await layer.close()
    assert await thread == []
    assert layer.statistics()["channels"] == 0


async def test_listener_dropped_in_another_thread() -> None:
    """Its own event loop releases it."""
    layer = InMemoryChannelLayer()
    messages = layer.listen("a")
    await messages.__aenter__()
    kept = [messages]
    del messages
    await asyncio.to_thread(kept.clear)
    await until(lambda: not layer.groups)


async def test_close_consumers_ends_listeners(layer: Minimal) -> None:
    """A loop ends without an exception, and listeners can begin again after it."""
    async with layer.listen("a") as messages:
        getting = asyncio.create_task(messages.get())
        await turn()
        await close_consumers()
        assert await getting is None
        assert messages.ended
    async with layer.listen("a") as messages:
        assert not messages.ended


async def test_listener_that_begins_during_the_shutdown_ends_at_once() -> None:
    """A request that is still being served does not wait for messages."""
    layer = InMemoryChannelLayer()
    async with channels_lifespan()(None):
        listening = layer.listen("a")
        async with listening:
            pass
    async with layer.listen("a") as messages:
        assert not messages.ended


async def test_end_before_the_block() -> None:
    """Ending what has not begun changes nothing."""
    layer = InMemoryChannelLayer()
    messages = layer.listen("a")
    await messages.end()
    async with messages:
        assert not messages.ended
        await messages.end()
        assert layer.groups == {}


async def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """No end of a listener is an error."""
    layer = InMemoryChannelLayer()
    with caplog.at_level(logging.DEBUG):
        async with layer.listen("a") as messages:
            await layer.close()
            assert [message async for message in messages] == []
    assert [r for r in caplog.records if r.name.startswith("fast_channels")] == []


# Resuming


@pytest.fixture
def rooms() -> InMemoryChannelLayer:
    """A layer whose rooms have a short history."""
    return InMemoryChannelLayer(capacity=3, history={"room.*": History(messages=3)})


async def send(layer: BaseChannelLayer, group: str, *numbers: int) -> list[str | None]:
    """Send numbers to a group, and return their positions."""
    return [
        await layer.group_send(group, {"type": "number", "number": number})
        for number in numbers
    ]


async def numbers(messages: Messages) -> list[int]:
    """Return the numbers that wait."""
    found: list[int] = []
    while (message := await messages.get(timeout=0)) is not None:
        found.append(message["number"])
    return found


async def test_resuming(rooms: InMemoryChannelLayer) -> None:
    """A loop gets what was sent since a position, and what follows."""
    async with rooms.listen("room.a") as messages:
        beginning = messages.position
        assert beginning is not None
    positions = await send(rooms, "room.a", 1, 2, 3)
    async with rooms.listen("room.a", since=positions[0]) as messages:
        assert messages.complete
        assert messages.position == positions[0]
        message = await messages.get()
        assert isinstance(message, GroupMessage)
        assert messages.position == message.position == positions[1]
        await send(rooms, "room.a", 4)
        assert await numbers(messages) == [3, 4]
    async with rooms.listen("room.a", since=positions[2]) as messages:
        assert await numbers(messages) == [4]
    async with rooms.listen("room.a", since=beginning) as messages:
        assert not messages.complete
        assert await numbers(messages) == []
        # From here, nothing is missing.
        assert messages.position == (await rooms.group_history("room.a")).position


async def test_latest_messages(rooms: InMemoryChannelLayer) -> None:
    """A loop can begin with the latest messages, at their position."""
    positions = await send(rooms, "room.a", 1, 2, 3, 4)
    async with rooms.listen("room.a", "news", last=2) as messages:
        assert messages.complete
        assert messages.position == positions[1]
        assert await numbers(messages) == [3, 4]
    async with rooms.listen("room.a", since="nonsense", last=1) as messages:
        assert not messages.complete
        assert messages.position == positions[2]
        assert await numbers(messages) == [4]


async def test_resuming_several_groups(rooms: InMemoryChannelLayer) -> None:
    """Each group has its own position."""
    a, b = await send(rooms, "room.a", 1, 2), await send(rooms, "room.b", 3, 4)
    since = {"room.a": str(a[0]), "room.b": str(b[0])}
    async with rooms.listen("room.a", "room.b", "news", since=since) as messages:
        assert messages.positions == since
        assert messages.position is None
        assert sorted(await numbers(messages)) == [2, 4]
        assert messages.positions == {"room.a": a[1], "room.b": b[1]}
        await send(rooms, "news", 5)
        assert await numbers(messages) == [5]
    # A group without a history has no position, and needs none.
    async with rooms.listen("news", "room.a", since=a[0]) as messages:
        assert await numbers(messages) == [2]


async def test_gap(rooms: InMemoryChannelLayer) -> None:
    """A loop that misses messages can resume after the last one that it got."""
    async with rooms.listen("room.a") as messages:
        await send(rooms, "room.a", *range(5))
        assert [(await anext(messages))["number"] for _ in range(3)] == [0, 1, 2]
        assert (await anext(messages))["type"] == "group.gap"
    async with rooms.listen("room.a", since=messages.position) as messages:
        assert await numbers(messages) == [3, 4]


async def test_mistakes_with_positions(rooms: InMemoryChannelLayer) -> None:
    """A position needs a group that it is in."""
    with pytest.raises(ValueError, match="2 of the groups"):
        rooms.listen("room.a", "room.b", since="position")
    with pytest.raises(ValueError, match="0 of the groups"):
        rooms.listen("news", since="position")
    with pytest.raises(ValueError, match="none of the groups"):
        rooms.listen("news", last=1)
    with pytest.raises(ValueError, match="has no history"):
        async with rooms.listen("news", since={"news": "position"}):
            pass
    assert rooms.groups == {}


async def test_positions_of_another_form(layer: Minimal) -> None:
    """A layer of users can have positions of its own."""

    class Own(Minimal):
        @override
        async def group_resume(
            self,
            group: str,
            channel: str,
            *,
            since: str | None = None,
            last: int | None = None,
        ) -> Resumed:
            return Resumed("seven", complete=True, replayed=2)

    async with Own().listen("a") as messages:
        assert messages.position == "seven"
