"""The queue layer beside channels_redis, which Django processes use, on one Redis."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pytest

from fast_channels.layers.redis import RedisChannelLayer
from tests.integration.redis.peer import Django, Message, django_process
from tests.redis_servers.server import RedisServer

# Before the first test Django Channels is installed, which takes its time.
pytestmark = pytest.mark.timeout(30, func_only=True)

Options: TypeAlias = dict[str, Any]

MESSAGE: Message = {
    "type": "chat.message",
    "none": None,
    "bools": [True, False],
    "ints": [0, -1, 2**53],
    "floats": [0.5, -1e300],
    "text": "Grüße, 世界 🌍\n",
    "nested": {"list": [{"deep": [[], {}]}], "": ""},
}


class Side(Protocol):
    """What both layers have."""

    async def new_channel(self) -> str: ...
    async def send(self, channel: str, message: Message) -> None: ...
    async def receive(self, channel: str) -> Message: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_discard(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: Message) -> None: ...


@pytest.fixture(params=[1, 3], ids=["one_host", "three_hosts"])
def servers(
    request: pytest.FixtureRequest, three_redis_servers: list[RedisServer], prefix: str
) -> Iterator[list[RedisServer]]:
    """One server, and three that share the keys."""
    servers = three_redis_servers[: request.param]
    yield servers
    for server in servers:
        server.delete_keys(prefix)


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
async def ours(options: Options) -> AsyncIterator[RedisChannelLayer]:
    """Our layer."""
    async with RedisChannelLayer(**options) as layer:
        yield layer


@pytest.fixture
async def django(options: Options, django_python: Path) -> AsyncIterator[Django]:
    """Django's layer."""
    async with django_process(django_python, **options) as layer:
        yield layer


def both_ways(ours: Side, django: Side) -> list[tuple[Side, Side]]:
    """Return who sends and who receives, and the same in turn."""
    return [(django, ours), (ours, django)]


async def take(side: Side, channel: str, count: int = 1) -> list[Message]:
    """Receive so many messages."""
    async with asyncio.timeout(10):
        return [await side.receive(channel) for _ in range(count)]


async def test_messages(
    ours: RedisChannelLayer, django: Django, serializer_format: str
) -> None:
    """A channel's messages arrive on the other side as they were, and in order."""
    messages = [MESSAGE, *({"type": "count", "n": n} for n in range(10))]
    if serializer_format == "msgpack":
        messages.append({"type": "bytes", "bytes": bytes(range(256)), "none": b""})
    for sender, receiver in both_ways(ours, django):
        channel = await receiver.new_channel()
        for message in messages:
            await sender.send(channel, message)
        # True equals 1, but is not written as 1.
        assert repr(await take(receiver, channel, len(messages))) == repr(messages)


async def test_groups(ours: RedisChannelLayer, django: Django) -> None:
    """Members on both sides get what either sends, once, until either discards them."""
    sides: list[Side] = [ours, django]
    members = [(side, await side.new_channel()) for side in sides for _ in sides]
    by_either = [{"type": "by.us"}, {"type": "by.django"}]
    # What Django sends to a single channel may overtake what it sends to a group.
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


async def test_plain_channels(ours: RedisChannelLayer, django: Django) -> None:
    """A plain channel carries messages both ways, and as the member of a group too."""
    # Django's receiver waits at one host until something comes there, and then at the
    # next: each has to get as much, and "mails" belongs to the first of three.
    jobs = [{"type": "job", "n": n} for n in range(6)]
    for sender, receiver in both_ways(ours, django):
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
async def test_shards(ours: RedisChannelLayer, django: Django) -> None:
    """No message is lost between shards, though Django sends many to a wrong one."""
    for sender, receiver in both_ways(ours, django):
        channels = [await receiver.new_channel() for _ in range(30)]
        for channel in channels:
            await sender.send(channel, {"type": "hello", "channel": channel})
        for channel in channels:
            (message,) = await take(receiver, channel)
            assert message == {"type": "hello", "channel": channel}


@pytest.mark.parametrize(
    ("servers", "serializer_format", "options"), [(1, "msgpack", None)], indirect=True
)
async def test_key_rotation(options: Options, django_python: Path) -> None:
    """Two sides with the same keys in another order understand each other."""
    by_us: Options = {**options, "symmetric_encryption_keys": ["new", "old"]}
    by_django: Options = {**options, "symmetric_encryption_keys": ["old", "new"]}
    async with (
        RedisChannelLayer(**by_us) as ours,
        django_process(django_python, **by_django) as django,
    ):
        for sender, receiver in both_ways(ours, django):
            channel = await receiver.new_channel()
            await sender.send(channel, MESSAGE)
            assert await take(receiver, channel) == [MESSAGE]
