"""Messages for large groups are delivered in parts, and all messages in order."""

import asyncio
import itertools
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from fast_channels.frames import Frame, Outlet
from fast_channels.layers import InMemoryChannelLayer
from fast_channels.layers.counters import Counters
from fast_channels.layers.distribution import WORK, Distribution
from fast_channels.layers.mailbox import Item
from fast_channels.layers.mailboxes import SEND, Mailboxes
from fast_channels.layers.shared import SharedMessage
from tests.waiting import turn, until


class Echo:
    """Renders the text of a message."""

    def frame(self, message: Mapping[str, Any]) -> Frame | None:
        return None if message["text"] is None else Frame(message["text"])


class Records(Outlet):
    """Records the frames of one client."""

    def __init__(self) -> None:
        super().__init__()
        self.open = True
        self.loop = asyncio.get_running_loop()
        self.renderers = ECHO
        self.texts: list[object] = []

    def send(self, frame: Frame) -> None:
        self.texts.append(frame.content)


class Fails(Records):
    """Raises, as the server of a client that is gone does."""

    def send(self, frame: Frame) -> None:
        raise ConnectionResetError


ECHO = {"chat_message": Echo()}


def shared(
    text: str | None, *, seconds: float = 60, kind: str = "chat.message"
) -> Item:
    """Return a message that mailboxes share."""
    message = {"type": kind, "text": text}
    return (
        time.monotonic() + seconds,
        message.copy,
        SharedMessage(message, message.copy),
    )


class Group:
    """Members with a mailbox and an outlet each."""

    def __init__(self, count: int, outlet: type[Records] = Records) -> None:
        self.mailboxes = Mailboxes(lambda _: 100, interval=60)
        self.counters = Counters()
        self.distribution = Distribution(self.counters)
        self.channels = [f"channel{number}" for number in range(count)]
        self.outlets = [outlet() for _ in self.channels]
        for channel, each in zip(self.channels, self.outlets, strict=True):
            self.mailboxes.attach(channel, lambda: None).direct = each

    def put(self, item: Item) -> None:
        self.distribution.put(self.mailboxes, self.channels, item, "group")

    def waiting(self, number: int = 0) -> list[object]:
        """Take what waits in a mailbox."""
        mailbox = self.mailboxes.by_channel[self.channels[number]]
        taken: list[object] = []
        while (message := mailbox.take()) is not None:
            taken.append(message["text"])
        return taken


async def test_broadcasts_go_past_mailboxes() -> None:
    """A message is sent at once to members that can take it, and counted."""
    group = Group(3)
    group.outlets[1].open = False
    group.put(shared("hello"))
    assert [outlet.texts for outlet in group.outlets] == [["hello"], [], ["hello"]]
    assert group.waiting(1) == ["hello"]
    group.put(shared(None))
    assert group.outlets[0].texts == ["hello"]
    assert group.counters.delivered == 6


async def test_broadcasts_wait_behind_other_messages() -> None:
    """A member with a message in its mailbox gets the next ones there too."""
    group = Group(2)
    group.mailboxes.put("channel0", lambda: {"text": "first"}, time.monotonic() + 60)
    group.put(shared("second"))
    assert group.outlets[0].texts == []
    assert group.waiting(0) == ["first", "second"]
    assert group.outlets[1].texts == ["second"]


async def test_messages_without_renderer_wait() -> None:
    """Messages that are no broadcast wait in the mailbox."""
    group = Group(2)
    group.put(shared("one", kind="other.message"))
    assert group.outlets[0].texts == []
    assert group.waiting(0) == ["one"]
    group.put((time.monotonic() + 60, lambda: {"text": "three"}, None))
    assert group.waiting(1) == ["one", "three"]


async def test_expired_messages() -> None:
    """A message that has expired is not sent."""
    group = Group(1)
    group.put(shared("hello", seconds=-1))
    assert group.outlets[0].texts == group.waiting(0) == []


async def test_messages_without_type() -> None:
    """A message whose type is no str has no renderer."""
    group = Group(1)
    message = {"type": None, "text": "hello"}
    group.put(
        (time.monotonic() + 60, message.copy, SharedMessage(message, message.copy))
    )
    assert group.waiting(0) == ["hello"]


async def test_error_of_a_server() -> None:
    """If a server raises, the message waits for the consumer, which will see that."""
    group = Group(2, Fails)
    group.put(shared("hello"))
    assert (group.waiting(0), group.waiting(1)) == (["hello"], ["hello"])
    assert group.counters.delivered == 2


async def test_other_event_loops_use_mailboxes() -> None:
    """An outlet is used in its own event loop only."""
    group = Group(1)

    async def put() -> None:
        distribution = Distribution(group.counters)
        distribution.put(group.mailboxes, group.channels, shared("hello"))

    thread = threading.Thread(target=lambda: asyncio.run(put()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert group.outlets[0].texts == []
    assert group.waiting() == ["hello"]


async def test_full_mailboxes_are_counted() -> None:
    """Copies for members that are full are counted as dropped."""
    group = Group(1)
    group.outlets[0].open = False
    for _ in range(103):
        group.put(shared("hello"))
    await turn()
    assert (group.counters.delivered, group.counters.dropped) == (100, 3)


@pytest.mark.parametrize("direct", [True, False])
async def test_other_tasks_get_turns(direct: bool) -> None:
    """Work in one turn of the event loop is limited, and the order is kept."""
    group = Group(1000)
    for outlet in group.outlets:
        outlet.open = direct
    seen: list[int] = []
    expected = 3 * len(group.channels)
    for text in ("one", "two", "three"):
        group.put(shared(text))
    while group.counters.delivered < expected:
        seen.append(group.counters.delivered)
        await asyncio.sleep(0)
    seen.append(expected)
    limit = WORK / SEND if direct else WORK
    assert max(b - a for a, b in itertools.pairwise(seen)) <= limit
    for number in (0, 500, 999):
        texts = group.outlets[number].texts if direct else group.waiting(number)
        assert texts == ["one", "two", "three"]
    # The next message is delivered at once again.
    await turn()
    group.distribution.put(group.mailboxes, group.channels[:1], shared("four"))
    assert group.counters.delivered == expected + 1


async def test_messages_that_wait_are_limited() -> None:
    """When many messages wait for their turn, the oldest are delivered at once."""
    group = Group(WORK)
    for number in range(110):
        group.put(shared(str(number)))
    assert group.outlets[0].texts[:8] == list(map(str, range(8)))
    await until(lambda: len(group.outlets[-1].texts) == 110)
    assert group.outlets[-1].texts == list(map(str, range(110)))


async def test_messages_that_wait_can_be_dropped() -> None:
    """After clear(), no message is delivered."""
    group = Group(1000)
    group.put(shared("hello"))
    group.distribution.clear()
    await turn()
    assert group.counters.delivered == WORK // SEND


async def test_large_group_in_memory() -> None:
    """group_send() in memory lets other tasks run, and returns when all have it."""
    layer = InMemoryChannelLayer()
    channels = [await layer.new_channel() for _ in range(5 * WORK)]
    for channel in channels:
        await layer.group_add("group", channel)
    sending = asyncio.create_task(layer.group_send("group", {"type": "a"}))
    seen = [0]
    while not sending.done():
        await asyncio.sleep(0)
        seen.append(layer.statistics()["delivered"])
    assert seen[-1] == len(channels)
    assert max(b - a for a, b in itertools.pairwise(seen)) <= WORK


async def test_member_that_leaves_meanwhile() -> None:
    """A channel that is deleted before its turn gets no mailbox again."""
    layer = InMemoryChannelLayer()
    channels = [await layer.new_channel() for _ in range(2 * WORK)]
    for channel in channels:
        await layer.group_add("group", channel)
    sending = asyncio.create_task(layer.group_send("group", {"type": "a"}))
    await asyncio.sleep(0)
    await layer.delete_channel(channels[-1])
    await sending
    assert set(layer.channels) == set(channels[:-1])


async def test_cancelled_group_send_in_memory() -> None:
    """A group_send() that is cancelled reaches all members, or none."""
    layer = InMemoryChannelLayer()
    channels = [await layer.new_channel() for _ in range(3 * WORK)]
    for channel in channels:
        await layer.group_add("group", channel)
    for turns in range(5):
        before = layer.statistics()["delivered"]
        sending = asyncio.create_task(layer.group_send("group", {"type": "a"}))
        await turn(turns)
        sending.cancel()
        await asyncio.wait([sending])
        await turn()
        delivered = layer.statistics()["delivered"] - before
        assert delivered in {0, len(channels)}
        assert bool(delivered) is bool(turns)
