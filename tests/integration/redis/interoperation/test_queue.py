"""The queue layers of both libraries exchange messages through one Redis."""

from operator import itemgetter

import pytest

from tests.integration.redis.peer import Message, Peer

from .sides import MESSAGE, BothWays, Kind, Side, take


@pytest.fixture
def kind() -> Kind:
    return "core"


async def test_messages(both_ways: BothWays, messages: list[Message]) -> None:
    """A channel's messages arrive on the other side, unchanged and in order."""
    for sender, receiver in both_ways:
        channel = await receiver.new_channel()
        for message in messages:
            await sender.send(channel, message)
        # True equals 1, but is encoded differently.
        assert repr(await take(receiver, channel, len(messages))) == repr(messages)


async def test_groups(ours: Side, django: Peer) -> None:
    """Members on both sides get each side's messages, once, until discarded."""
    sides: list[Side] = [ours, django]
    members = [(side, await side.new_channel()) for side in sides for _ in sides]
    by_either = [{"type": "by.us"}, {"type": "by.django"}]
    # Django's messages to a channel can overtake its messages to a group.
    end = {"type": "end"}
    for i, (_, channel) in enumerate(members):
        await sides[i % 2].group_add("room", channel)
    for side, message in zip(sides, by_either, strict=True):
        await side.group_send("room", message)
    for side, channel in members:
        await ours.send(channel, end)
        assert await take(side, channel, 3) == [*by_either, end]

    for i, (_, channel) in enumerate(members):
        await sides[(i + 1) % 2].group_discard("room", channel)
    for side, message in zip(sides, by_either, strict=True):
        await side.group_send("room", message)
    for side, channel in members:
        await ours.send(channel, end)
        assert await take(side, channel) == [end]


async def test_plain_channels(both_ways: BothWays) -> None:
    """A plain channel carries messages both ways, also as a member of a group."""
    # Django's receiver waits for a message at one host, and then at the next: each host
    # has to get the same number. "mails" belongs to the first of three.
    jobs = [{"type": "job", "n": n} for n in range(6)]
    for sender, receiver in both_ways:
        for job in jobs:
            await sender.send("jobs", job)
        received = await take(receiver, "jobs", len(jobs))
        assert sorted(received, key=itemgetter("n")) == jobs

        await receiver.group_add("workers", "mails")
        await sender.group_send("workers", MESSAGE)
        assert await take(receiver, "mails") == [MESSAGE]


@pytest.mark.parametrize(
    ("servers", "serializer_format", "options"), [(3, "msgpack", None)], indirect=True
)
async def test_shards(both_ways: BothWays) -> None:
    """No message is lost between shards, although Django sends many to a wrong one."""
    for sender, receiver in both_ways:
        channels = [await receiver.new_channel() for _ in range(30)]
        for channel in channels:
            await sender.send(channel, {"type": "hello", "channel": channel})
        for channel in channels:
            (message,) = await take(receiver, channel)
            assert message == {"type": "hello", "channel": channel}


@pytest.mark.parametrize(
    ("servers", "serializer_format", "options"),
    [(1, "msgpack", ["new", "old"])],
    indirect=True,
)
async def test_key_rotation(both_ways: BothWays) -> None:
    """Two sides with the same keys in a different order can exchange messages."""
    for sender, receiver in both_ways:
        channel = await receiver.new_channel()
        await sender.send(channel, MESSAGE)
        assert await take(receiver, channel) == [MESSAGE]
