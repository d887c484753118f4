"""Features specific to the in-memory layer."""

import asyncio
import contextlib
import gc
import itertools
import random
import re
import threading
from typing import Any

import pytest

from fast_channels.exceptions import ChannelFull
from fast_channels.layers import InMemoryChannelLayer
from tests.clock import Clock, stop_time_in_memory

MESSAGE = {"type": "test.message"}
# Seconds after which a test that would wait forever fails.
LIMIT = 5


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give a test the clock of all its layers."""
    return stop_time_in_memory(monkeypatch)


@pytest.fixture
def layer(clock: Clock) -> InMemoryChannelLayer:
    """Give a test a layer: messages last ten seconds, memberships a hundred."""
    return InMemoryChannelLayer(expiry=10, group_expiry=100, capacity=2)


async def start(
    layer: InMemoryChannelLayer, channel: str
) -> asyncio.Task[dict[str, Any]]:
    """Return a task that waits for a message on a channel."""
    receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    return receiving


async def stop(receiving: asyncio.Task[dict[str, Any]]) -> None:
    """Cancel a waiting task."""
    receiving.cancel()
    await asyncio.wait([receiving])


# Options and names


def test_options_have_defaults() -> None:
    """Messages last a minute and memberships a day, as in Django Channels."""
    layer = InMemoryChannelLayer()
    assert (layer.expiry, layer.group_expiry, layer.capacity) == (60, 86400, 100)
    assert layer.channel_capacity == []
    assert layer.extensions == ["groups", "flush"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"group_expiry": 0}, ValueError, r"group_expiry must be positive, not 0"),
        ({"group_expiry": "1"}, TypeError, r"group_expiry must be a number, not '1'"),
    ],
)
def test_other_options_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The error names the invalid option and says what it should be."""
    with pytest.raises(error, match=message):
        InMemoryChannelLayer(**options)


@pytest.mark.parametrize("prefix", ["specific", "chat.room"])
async def test_names_are_independent_of_seeds(
    layer: InMemoryChannelLayer, prefix: str
) -> None:
    """Seeding ``random`` does not repeat names, and names do not change its state."""
    names: list[str] = []
    for _ in range(2):
        random.seed(1)
        state = random.getstate()
        names.append(await layer.new_channel(prefix))
        assert random.getstate() == state
    assert names[0] != names[1]
    for name in names:
        assert re.fullmatch(rf"{re.escape(prefix)}\.inmemory![0-9a-f]{{16}}", name)


# Contents


async def test_channel_is_held_while_a_message_waits(
    layer: InMemoryChannelLayer,
) -> None:
    """``channels`` contains a channel from its first message to its last."""
    await layer.send("a", MESSAGE)
    await layer.send("a", MESSAGE)
    await layer.receive("a")
    assert list(layer.channels) == ["a"]
    await layer.receive("a")
    assert layer.channels == {}


async def test_channel_is_held_while_a_receiver_waits(
    layer: InMemoryChannelLayer,
) -> None:
    """``channels`` contains a channel until its last receiver is gone."""
    receivers = [await start(layer, "a") for _ in range(3)]
    await layer.send("a", MESSAGE)
    assert await receivers[0] == MESSAGE
    await stop(receivers[1])
    assert list(layer.channels) == ["a"]
    await stop(receivers[2])
    assert layer.channels == {}


async def test_groups_have_the_time_when_each_channel_joined(
    layer: InMemoryChannelLayer, clock: Clock
) -> None:
    """``groups`` maps groups to their channels, and channels to the time of joining."""
    joined = clock.time()
    await layer.group_add("x", "a")
    await layer.group_add("y", "a")
    clock.advance(1)
    await layer.group_add("x", "b")
    assert layer.groups == {"x": {"a": joined, "b": joined + 1}, "y": {"a": joined}}
    await layer.group_add("x", "a")
    assert layer.groups["x"]["a"] == joined + 1
    await layer.group_discard("x", "b")
    await layer.group_discard("y", "a")
    assert layer.groups == {"x": {"a": joined + 1}}
    await layer.group_discard("x", "a")
    assert layer.groups == {}


async def test_statistics_count_what_is_held_and_what_was_dropped(
    layer: InMemoryChannelLayer,
) -> None:
    """statistics() and the repr show the contents; dropped messages add up."""
    await layer.group_add("x", "a")
    await layer.group_add("x", "b")
    for _ in range(3):
        await layer.group_send("x", MESSAGE)
    await layer.receive("b")
    assert layer.statistics() == {
        "channels": 2,
        "groups": 1,
        "waiting": 3,
        "delivered": 4,
        "dropped": 2,
        "undecodable": 0,
        "reconnects": 0,
    }
    assert repr(layer) == (
        "<InMemoryChannelLayer [2 channels, 1 groups, 3 messages waiting]>"
    )
    with pytest.raises(ChannelFull):
        await layer.send("a", MESSAGE)
    await layer.flush()
    assert layer.statistics() == {
        "channels": 0,
        "groups": 0,
        "waiting": 0,
        "delivered": 4,
        "dropped": 2,
        "undecodable": 0,
        "reconnects": 0,
    }


async def test_flush_and_delete_keep_a_receiver(layer: InMemoryChannelLayer) -> None:
    """A receiver that waits while its channel is emptied gets the next message."""
    receiving = await start(layer, "a")
    await layer.flush()
    await layer.delete_channel("a")
    await layer.send("a", MESSAGE)
    assert await receiving == MESSAGE
    assert layer.channels == {}


# Attached readers


async def test_attached_reader_is_called_and_takes(layer: InMemoryChannelLayer) -> None:
    """The listener is called for each message, which waits in the mailbox."""
    calls: list[str] = []
    mailbox = layer.attach("a", lambda: calls.append("called"))
    await layer.group_add("x", "a")
    await layer.send("a", {"type": "first"})
    await layer.group_send("x", {"type": "second"})
    assert calls == ["called", "called"]
    with pytest.raises(ChannelFull):
        await layer.send("a", MESSAGE)
    assert mailbox.take() == {"type": "first"}
    assert mailbox.take() == {"type": "second"}
    await layer.flush()
    assert layer.channels == {"a": mailbox}
    await stop(await start(layer, "a"))
    assert layer.channels == {"a": mailbox}


async def test_attached_twice(layer: InMemoryChannelLayer) -> None:
    """A channel has one listener, the last; deleting the channel removes it."""
    calls: list[str] = []
    layer.attach("a", lambda: calls.append("first"))
    layer.attach("a", lambda: calls.append("second"))
    await layer.send("a", MESSAGE)
    assert calls == ["second"]
    await layer.delete_channel("a")
    assert layer.channels == {}


async def test_deleted_channel_is_not_attached(layer: InMemoryChannelLayer) -> None:
    """delete_channel() empties the mailbox, and the listener is no longer called."""
    calls: list[str] = []
    mailbox = layer.attach("a", lambda: calls.append("called"))
    await layer.group_add("x", "a")
    await layer.group_add("y", "a")
    await layer.group_add("y", "b")
    await layer.send("a", MESSAGE)
    await layer.delete_channel("a")
    assert mailbox.take() is None
    assert layer.channels == {}
    assert list(layer.groups) == ["y"]
    assert list(layer.groups["y"]) == ["b"]
    await layer.delete_channel("a")
    await layer.send("a", MESSAGE)
    assert calls == ["called"]
    assert mailbox.take() is None
    assert await layer.receive("a") == MESSAGE


# Abandoned channels


async def test_unread_channels_are_forgotten(
    layer: InMemoryChannelLayer, clock: Clock
) -> None:
    """A channel whose messages have expired is dropped when others are used."""
    await layer.send("a", MESSAGE)
    clock.advance(5)
    await layer.send("b", MESSAGE)
    receiving = await start(layer, "c")
    clock.advance(4)
    await layer.send("d", MESSAGE)
    assert set(layer.channels) == {"a", "b", "c", "d"}
    clock.advance(1)
    await layer.group_send("unknown", MESSAGE)
    assert set(layer.channels) == {"b", "c", "d"}
    clock.advance(10)
    await layer.send("e", MESSAGE)
    assert set(layer.channels) == {"b", "c", "d", "e"}
    assert await layer.receive("e") == MESSAGE
    assert set(layer.channels) == {"c"}
    await layer.send("f", MESSAGE)
    clock.advance(20)
    await layer.send("g", MESSAGE)
    assert set(layer.channels) == {"c", "g"}
    await stop(receiving)


async def test_channel_is_forgotten_by_the_receiver_that_empties_it(
    layer: InMemoryChannelLayer, clock: Clock
) -> None:
    """A receiver that sweeps unread channels can drop its own, which is empty."""
    clock.advance(9)
    await layer.send("a", MESSAGE)
    clock.advance(1)
    assert await layer.receive("a") == MESSAGE
    assert layer.channels == {}


async def test_memberships_of_unread_channels_expire(
    layer: InMemoryChannelLayer, clock: Clock
) -> None:
    """A channel without messages and receivers eventually leaves its groups."""
    layer.attach("read", lambda: None)
    for group, channel in [("x", "old"), ("x", "again"), ("x", "read"), ("y", "old")]:
        await layer.group_add(group, channel)
    clock.advance(60)
    await layer.group_add("x", "again")
    await layer.group_add("x", "new")
    await layer.group_add("x", "unread")
    clock.advance(41)
    await layer.send("elsewhere", MESSAGE)
    assert list(layer.groups) == ["x"]
    assert set(layer.groups["x"]) == {"again", "new", "read", "unread"}
    clock.advance(55)
    await layer.send("unread", MESSAGE)
    clock.advance(4)
    await layer.send("unread", MESSAGE)
    clock.advance(6)
    await layer.group_send("unknown", MESSAGE)
    assert set(layer.groups["x"]) == {"read", "unread"}


async def test_reader_stays_in_its_groups_between_two_messages(
    layer: InMemoryChannelLayer, clock: Clock
) -> None:
    """A channel that is read regularly does not leave its groups."""
    await layer.group_add("x", "a")
    for _ in range(30):
        receiving = await start(layer, "a")
        clock.advance(9)
        await layer.send("a", MESSAGE)
        assert await receiving == MESSAGE
        # Another sender while the message is handled.
        clock.advance(1)
        await layer.send("elsewhere", MESSAGE)
    assert set(layer.groups["x"]) == {"a"}


# Threads


async def test_threads_send_and_receive_at_once() -> None:
    """Each message of many threads arrives once, and nothing is left."""
    layer = InMemoryChannelLayer(capacity=10_000)
    threads, count = 4, 200
    turns = itertools.count()

    async def send(thread: int) -> None:
        for number in range(count):
            await layer.group_add(f"group-{thread}", f"member-{number % 3}")
            await layer.send("a", {"type": "a", "from": thread, "number": number})
            await layer.group_send("b", MESSAGE)
            await layer.group_discard(f"group-{thread}", f"member-{number % 3}")
            await asyncio.sleep(0)

    async def receive() -> list[tuple[int, int]]:
        received: list[tuple[int, int]] = []
        while len(received) < count:
            # Every seventh receiver is cancelled as soon as it waits.
            delay = 0 if next(turns) % 7 == 0 else LIMIT
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    message = await layer.receive("a")
                    received.append((message["from"], message["number"]))
        return received

    await layer.group_add("b", "c")
    sending = [asyncio.to_thread(asyncio.run, send(n)) for n in range(threads)]
    receiving = [asyncio.to_thread(asyncio.run, receive()) for _ in range(threads)]
    _, received = await asyncio.gather(
        asyncio.gather(*sending), asyncio.gather(*receiving)
    )
    assert sorted(itertools.chain.from_iterable(received)) == [
        (thread, number) for thread in range(threads) for number in range(count)
    ]
    assert layer.statistics() == {
        "channels": 1,
        "groups": 1,
        "waiting": threads * count,
        "delivered": 2 * threads * count,
        "dropped": 0,
        "undecodable": 0,
        "reconnects": 0,
    }


def test_garbage_collection_of_a_receiver_does_not_deadlock() -> None:
    """An abandoned receiver can be collected in the middle of a send()."""

    class Collecting(InMemoryChannelLayer):
        def get_capacity(self, channel: str) -> int:
            gc.collect()
            return super().get_capacity(channel)

    async def use() -> None:
        layer = Collecting()
        abandoned: list[object] = [receiving := layer.receive("a")]
        # A cycle, like a task and its coroutine after their event loop was closed.
        abandoned.append(abandoned)
        receiving.send(None)
        del abandoned, receiving
        await layer.send("b", MESSAGE)
        ended.set()

    ended = threading.Event()
    gc.disable()
    try:
        threading.Thread(target=asyncio.run, args=[use()], daemon=True).start()
        assert ended.wait(LIMIT)
    finally:
        gc.enable()
