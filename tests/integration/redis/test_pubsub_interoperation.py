"""The pub/sub layer beside that of channels_redis, which Django processes use."""

import asyncio
from collections.abc import AsyncIterator
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from fast_channels.layers.redis import RedisPubSubChannelLayer
from tests.integration.redis.peer import Django, Message, django_process
from tests.redis_servers.server import RedisServer

# Before the first test Django Channels is installed, which takes its time.
pytestmark = pytest.mark.timeout(30, func_only=True)

Options: TypeAlias = dict[str, Any]
Side: TypeAlias = RedisPubSubChannelLayer | Django

MESSAGE: Message = {
    "type": "chat.message",
    "none": None,
    "bools": [True, False],
    "ints": [0, -1, 2**53],
    "floats": [0.5, -1e300],
    "text": "Grüße, 世界 🌍\n",
    "nested": {"list": [{"deep": [[], {}]}], "": ""},
}
# Names that only this layer takes, on either side; of three hosts each has some.
NAMES = ["Weekly Sync", "a/b", "caf\u00e9", *"abcdef"]


@pytest.fixture(params=[1, 3], ids=["one_host", "three_hosts"])
def servers(
    request: pytest.FixtureRequest, three_redis_servers: list[RedisServer]
) -> list[RedisServer]:
    """One server, and three that share the channels and groups."""
    return three_redis_servers[: request.param]


@pytest.fixture(params=["msgpack", "json"])
def serializer_format(request: pytest.FixtureRequest) -> str:
    """Each of the formats."""
    name: str = request.param
    return name


@pytest.fixture(params=[None, ["secret"]], ids=["plain", "encrypted"])
def options(
    request: pytest.FixtureRequest,
    servers: list[RedisServer],
    serializer_format: str,
    prefix: str,
) -> Options:
    """What both sides are given."""
    return {
        "hosts": [server.url for server in servers],
        "prefix": prefix,
        "serializer_format": serializer_format,
        "symmetric_encryption_keys": request.param,
    }


@pytest.fixture
async def ours(options: Options) -> AsyncIterator[RedisPubSubChannelLayer]:
    """Our layer."""
    async with RedisPubSubChannelLayer(**options) as layer:
        yield layer


@pytest.fixture
async def django(options: Options, django_python: Path) -> AsyncIterator[Django]:
    """Django's layer."""
    async with django_process(django_python, "pubsub", **options) as layer:
        yield layer


def both_ways(ours: RedisPubSubChannelLayer, django: Django) -> list[tuple[Side, Side]]:
    """Return who sends and who receives, and the same in turn."""
    return [(django, ours), (ours, django)]


async def take(side: Side, channel: str, count: int = 1) -> list[Message]:
    """Receive so many messages."""
    async with asyncio.timeout(10):
        return [await side.receive(channel) for _ in range(count)]


async def until_heard(side: Side, channel: str, by: Side) -> None:
    """Wait until a channel is listened to: Django's layer does not wait for that."""
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
    """Wait until two processes have subscribed to each of some Redis channels."""

    def subscriptions() -> int:
        counts = [server.command("PUBSUB", "NUMSUB", *names) for server in servers]
        return sum(
            n
            for each in counts
            if isinstance(each, list)
            for n in each[1::2]
            if isinstance(n, int)
        )

    async with asyncio.timeout(10):
        while subscriptions() < 2 * len(names):  # noqa: ASYNC110 # nobody tells
            await asyncio.sleep(0.01)


async def test_channels(
    ours: RedisPubSubChannelLayer, django: Django, serializer_format: str
) -> None:
    """A channel's messages arrive on the other side as they were, and in order."""
    messages = [MESSAGE, *({"type": "count", "n": n} for n in range(10))]
    if serializer_format == "msgpack":
        messages.append({"type": "bytes", "bytes": bytes(range(256)), "none": b""})
    for sender, receiver in both_ways(ours, django):
        channel = await receiver.new_channel()
        await until_heard(receiver, channel, sender)
        for message in messages:
            await sender.send(channel, message)
        # True equals 1, but is not written as 1.
        assert repr(await take(receiver, channel, len(messages))) == repr(messages)


async def test_groups(
    ours: RedisPubSubChannelLayer, django: Django, servers: list[RedisServer]
) -> None:
    """Members on both sides get what either sends, once, until they leave."""
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
    await until_both_listen(
        servers, [f"{ours.prefix}__group__{each}" for each in NAMES]
    )
    await send_to_all()
    for side, channel in members:
        received = await take(side, channel, 2 * len(NAMES))
        # Two senders have no order.
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


async def test_plain_channels(ours: RedisPubSubChannelLayer, django: Django) -> None:
    """Whoever receives from a plain channel gets what the other side sends there."""
    for sender, receiver in both_ways(ours, django):
        receiving = asyncio.create_task(receiver.receive("Weekly Sync"))
        async with asyncio.timeout(10):
            while not receiving.done():
                await sender.send("Weekly Sync", MESSAGE)
                await asyncio.wait([receiving], timeout=0.05)
            assert await receiving == MESSAGE


@pytest.mark.parametrize(
    ("servers", "serializer_format", "options"), [(3, "msgpack", None)], indirect=True
)
async def test_shards(ours: RedisPubSubChannelLayer, django: Django) -> None:
    """Of many channels on three hosts each gets its message."""
    for sender, receiver in both_ways(ours, django):
        channels = [await receiver.new_channel() for _ in range(30)]
        for channel in channels:
            await until_heard(receiver, channel, sender)
            await sender.send(channel, {"type": "hello", "channel": channel})
        for channel in channels:
            assert await take(receiver, channel) == [
                {"type": "hello", "channel": channel}
            ]


@pytest.mark.parametrize(
    ("servers", "serializer_format", "options"), [(1, "msgpack", None)], indirect=True
)
async def test_key_rotation(options: Options, django_python: Path) -> None:
    """Two sides with the same keys in another order understand each other."""
    by_us: Options = {**options, "symmetric_encryption_keys": ["new", "old"]}
    by_django: Options = {**options, "symmetric_encryption_keys": ["old", "new"]}
    async with (
        RedisPubSubChannelLayer(**by_us) as ours,
        django_process(django_python, "pubsub", **by_django) as django,
    ):
        for sender, receiver in both_ways(ours, django):
            channel = await receiver.new_channel()
            await until_heard(receiver, channel, sender)
            await sender.send(channel, MESSAGE)
            assert await take(receiver, channel) == [MESSAGE]
