"""The pub/sub layers of both libraries exchange messages through one Redis."""

import asyncio
from operator import itemgetter

import pytest

from tests.integration.redis.peer import Message, Peer
from tests.redis_servers.server import RedisServer
from tests.waiting import PAUSE, until

from .sides import MESSAGE, BothWays, Kind, Side, take

# Names that only this layer accepts, on either side; they cover all three hosts.
NAMES = ["Weekly Sync", "a/b", "caf\u00e9", *"abcdef"]


@pytest.fixture
def kind() -> Kind:
    return "pubsub"


async def until_heard(side: Side, channel: str, by: Side) -> None:
    """Wait until a channel has a subscriber; Django's layer doesn't wait for that."""
    receiving = asyncio.create_task(side.receive(channel))
    hello = {"type": "hello"}
    sent = 0
    async with asyncio.timeout(10):
        while not receiving.done():
            await by.send(channel, hello)
            sent += 1
            await asyncio.wait([receiving], timeout=0.05)
        await by.send(channel, {"type": "end"})
        while await receiving == hello:
            receiving = asyncio.create_task(side.receive(channel))


async def until_both_listen(servers: list[RedisServer], names: list[str]) -> None:
    """Wait until each of some Redis channels has two subscribers."""

    def subscriptions() -> int:
        counts = [server.command("PUBSUB", "NUMSUB", *names) for server in servers]
        return sum(
            n
            for each in counts
            if isinstance(each, list)
            for n in each[1::2]
            if isinstance(n, int)
        )

    await until(lambda: subscriptions() >= 2 * len(names), pause=PAUSE)


async def test_channels(both_ways: BothWays, messages: list[Message]) -> None:
    """A channel's messages arrive on the other side, unchanged and in order."""
    for sender, receiver in both_ways:
        channel = await receiver.new_channel()
        await until_heard(receiver, channel, sender)
        for message in messages:
            await sender.send(channel, message)
        # True equals 1, but is encoded differently.
        assert repr(await take(receiver, channel, len(messages))) == repr(messages)


async def test_groups(
    ours: Side, django: Peer, servers: list[RedisServer], prefix: str
) -> None:
    """Members on both sides get each side's messages, once, until they leave."""
    sides: list[Side] = [ours, django]
    members = [(side, await side.new_channel()) for side in sides for _ in sides]
    by_either = [{"type": "by.django"}, {"type": "by.us"}]

    async def send_to_all() -> None:
        for name in NAMES:
            await django.group_send(name, by_either[0])
            await ours.group_send(name, by_either[1])

    for side, channel in members:
        await until_heard(side, channel, ours)
        for name in NAMES:
            await side.group_add(name, channel)
    await until_both_listen(servers, [f"{prefix}__group__{each}" for each in NAMES])
    await send_to_all()
    for side, channel in members:
        received = await take(side, channel, 2 * len(NAMES))
        # Messages of two senders have no order.
        assert sorted(received, key=itemgetter("type")) == [
            message for message in by_either for _ in NAMES
        ]

    for side, channel in members:
        for name in NAMES:
            await side.group_discard(name, channel)
    await send_to_all()
    for side, channel in members:
        await ours.send(channel, MESSAGE)
        assert await take(side, channel) == [MESSAGE]


async def test_plain_channels(both_ways: BothWays) -> None:
    """A receiver of a plain channel gets the other side's messages."""
    for sender, receiver in both_ways:
        receiving = asyncio.create_task(receiver.receive("Weekly Sync"))
        async with asyncio.timeout(10):
            while not receiving.done():
                await sender.send("Weekly Sync", MESSAGE)
                await asyncio.wait([receiving], timeout=0.05)
            assert await receiving == MESSAGE


@pytest.mark.parametrize(
    ("servers", "serializer_format", "options"), [(3, "msgpack", None)], indirect=True
)
async def test_shards(both_ways: BothWays) -> None:
    """Each of many channels on three hosts gets its message."""
    for sender, receiver in both_ways:
        channels = [await receiver.new_channel() for _ in range(30)]
        for channel in channels:
            await until_heard(receiver, channel, sender)
            await sender.send(channel, {"type": "hello", "channel": channel})
        for channel in channels:
            assert await take(receiver, channel) == [
                {"type": "hello", "channel": channel}
            ]


@pytest.mark.parametrize(
    ("servers", "serializer_format", "options"),
    [(1, "msgpack", ["new", "old"])],
    indirect=True,
)
async def test_key_rotation(both_ways: BothWays) -> None:
    """Two sides with the same keys in a different order can exchange messages."""
    for sender, receiver in both_ways:
        channel = await receiver.new_channel()
        await until_heard(receiver, channel, sender)
        await sender.send(channel, MESSAGE)
        assert await take(receiver, channel) == [MESSAGE]
