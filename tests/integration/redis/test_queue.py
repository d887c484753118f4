"""The queue layer with a real server: connections, permissions, addresses, keys."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from fast_channels.layers.redis import RedisChannelLayer
from fast_channels.layers.redis.queue.inbox import Inbox, InboxTiming
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.resp import Connection
from tests.redis_servers.server import RedisServer
from tests.waiting import PAUSE, until

MESSAGE = {"type": "test.message"}
PASSWORD = "sesame"  # noqa: S105 # of a server that ends with the tests

# The permissions that a Redis user needs, on the keys of the prefix.
SENDING = (
    *("evalsha", "eval", "set", "time", "zadd", "zcard", "zcount", "zrange"),
    *("zrangebyscore", "zrem", "zremrangebyscore", "zscore", "pexpire"),
)
RECEIVING = (
    *("del", "zremrangebyrank", "exists", "hdel", "hincrby", "hlen"),
    *("subscribe", "client|id", "client|tracking", "ping"),
)
FLUSHING = ("scan", "unlink")


async def use(layer: RedisChannelLayer) -> None:
    """Use all features of a layer, and expect that they work."""
    async with asyncio.timeout(10):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for name in (channel, "jobs"):
            receiving = asyncio.create_task(layer.receive(name))
            await asyncio.sleep(0)
            await layer.send(name, MESSAGE)
            assert await receiving == MESSAGE
        await layer.group_send("room", MESSAGE)
        assert await layer.receive(channel) == MESSAGE
        await layer.group_discard("room", channel)
        await layer.group_add("room", channel)
        await layer.delete_channel(channel)
        await layer.flush()


# Connections


async def test_many_tasks(own_redis_server: RedisServer) -> None:
    """A layer has three connections, however many tasks send at once."""
    async with RedisChannelLayer([own_redis_server.url], capacity=1000) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        receiving = asyncio.gather(*[layer.receive(channel) for _ in range(500)])
        await asyncio.gather(*[layer.group_send("room", MESSAGE) for _ in range(500)])
        assert await receiving == [MESSAGE] * 500
        assert len(own_redis_server.clients()) == 3
        assert layer.statistics()["dropped"] == 0
    await until(lambda: own_redis_server.clients() == [], pause=PAUSE)


async def test_discard_by_django_outlasts_the_first_reader(
    redis_server: RedisServer, prefix: str
) -> None:
    """A member that another program removes is not restored by the first connect."""
    group = f"{prefix}:group:room"
    async with RedisChannelLayer([redis_server.url], prefix=prefix) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_add("hall", channel)
        assert redis_server.command("ZREM", group, channel) == 1
        await layer.send(channel, MESSAGE)
        # The first reader connects, and would have restored the member before it reads.
        assert await layer.receive(channel) == MESSAGE
        await layer.group_discard("hall", channel)
        assert redis_server.command("EXISTS", group) == 0


async def test_sending_without_an_event_loop(own_redis_server: RedisServer) -> None:
    """Each call of async_to_sync() opens a connection, and leaves none behind."""
    layer = RedisChannelLayer([own_redis_server.url], capacity=1000)
    receiver = RedisChannelLayer([own_redis_server.url])

    def send() -> None:
        for _ in range(100):
            async_to_sync(layer.group_send)("room", MESSAGE)
            async_to_sync(layer.send)(channel, MESSAGE)

    async with receiver:
        channel = await receiver.new_channel()
        await receiver.group_add("room", channel)
        sending = asyncio.create_task(asyncio.to_thread(send))
        async with asyncio.timeout(20):
            for _ in range(200):
                assert await receiver.receive(channel) == MESSAGE
        await sending
        await until(lambda: len(own_redis_server.clients()) == 3, pause=PAUSE)
    assert layer.statistics() == dict.fromkeys(layer.statistics(), 0)


async def test_one_event_loop_after_the_other(
    redis_server: RedisServer, prefix: str
) -> None:
    """A channel that was created in one event loop can be read in later ones."""
    layer = RedisChannelLayer([redis_server.url], prefix)

    def run() -> None:
        channel = asyncio.run(layer.new_channel())
        for number in range(3):
            asyncio.run(layer.send(channel, {"number": number}))
        for number in range(3):
            message = asyncio.run(asyncio.wait_for(layer.receive(channel), 10))
            assert message == {"number": number}

    await asyncio.to_thread(run)


# Permissions


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log of the library, without asyncio's lines about slow callbacks."""
    return [text for name, _, text in caplog.record_tuples if name != "asyncio"]


@contextlib.asynccontextmanager
async def restricted(
    server: RedisServer, prefix: str, *allowed: str
) -> AsyncGenerator[RedisChannelLayer]:
    """Create a layer for a user who is allowed only these commands."""
    rules = [f"~{prefix}*", "&__redis__:invalidate", *(f"+{name}" for name in allowed)]
    server.command("ACL", "SETUSER", prefix, "reset", "on", ">pw", *rules)
    try:
        url = server.url.replace("://", f"://{prefix}:pw@")
        async with RedisChannelLayer([url], prefix) as layer:
            yield layer
        entries = server.command("ACL", "LOG")
        assert isinstance(entries, list)
        # From Redis 7.2 on redis-py sends its name and version, and ignores a refusal.
        denied = [each for each in map(repr, entries) if "client|setinfo" not in each]
        assert not [each for each in denied if prefix in each], denied
    finally:
        server.command("ACL", "DELUSER", prefix)


async def test_permissions(
    redis_server: RedisServer,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A layer needs only these commands, also for its periodic checks."""
    timing = InboxTiming(check=0.05, idle=0.05, patience=0.1)
    monkeypatch.setattr(Inbox, "timing", timing)
    allowed = [*SENDING, *RECEIVING, *FLUSHING]
    async with restricted(redis_server, prefix, *allowed) as layer:
        await use(layer)
        pings = redis_server.command_counts()["ping"]
        # Each is answered before the next is sent.
        await until(
            lambda: redis_server.command_counts()["ping"] > pings + 1, pause=PAUSE
        )
    assert logged(caplog) == []


async def test_permissions_to_send(
    redis_server: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that only sends needs fewer permissions."""
    async with restricted(redis_server, prefix, *SENDING) as layer:
        await layer.send("jobs", MESSAGE)
        await layer.send("specific.x.1!x", MESSAGE)
        # A channel of a process that is known to be dead.
        key = f"{prefix}:group:room"
        redis_server.command("ZADD", key, "1e10", "specific.x.1!x")
        redis_server.command("ZADD", f"{prefix}:processes", 2, "", 1, "x.1")
        await layer.group_send("room", MESSAGE)
        assert redis_server.command("ZCARD", key) == 0
    assert logged(caplog) == []


# Addresses


@pytest.fixture(scope="module")
def locked_server(redis_binary: ServerBinary) -> Iterator[RedisServer]:
    """A server with a password that also listens on a Unix socket."""
    with RedisServer(redis_binary, password=PASSWORD, unix_socket=True) as server:
        yield server


@pytest.mark.parametrize("kind", ["tcp", "unix", "dict", "pair"])
async def test_addresses(locked_server: RedisServer, kind: str) -> None:
    """A layer uses the database of its host, in every notation."""
    secret = {"password": PASSWORD, "db": 3}
    options: dict[str, dict[str, Any]] = {
        "tcp": {"hosts": [f"{locked_server.url}/3"]},
        "unix": {"hosts": [f"{locked_server.unix_url}?db=3"]},
        "dict": {
            "hosts": [{"host": "127.0.0.1", "port": locked_server.port, **secret}]
        },
        "pair": {
            "hosts": [("127.0.0.1", locked_server.port)],
            "connection_kwargs": secret,
        },
    }
    async with RedisChannelLayer(**options[kind]) as layer:
        await layer.send("jobs", MESSAGE)
        with locked_server.connect() as connection:
            connection.command("SELECT", 3)
            assert connection.command("EXISTS", "asgijobs") == 1
            connection.command("SELECT", 0)
            assert connection.command("DBSIZE") == 0
        await use(layer)
    assert PASSWORD not in repr(layer)


# Keys


def lifetimes(connection: Connection, keys: list[bytes]) -> dict[str, int]:
    """Return the milliseconds that each key has left; -1 means forever."""
    found: dict[str, int] = {}
    for key in keys:
        lifetime = connection.command("PTTL", key)
        assert isinstance(lifetime, int)
        found[key.decode()] = lifetime
    return found


async def test_every_key_expires(redis_server: RedisServer, prefix: str) -> None:
    """Keys expire together with their contents; a closed layer leaves only messages."""
    with redis_server.connect() as connection:
        layer = RedisChannelLayer(
            [redis_server.url], prefix, expiry=50, group_expiry=500
        )
        async with layer, asyncio.timeout(10):
            own, other = await layer.new_channel(), "specific.other.1!x"
            await layer.send("jobs", MESSAGE)
            await layer.send("jobs", MESSAGE)
            await layer.receive("jobs")
            for channel in (own, other):
                await layer.group_add("room", channel)
            await layer.send(own, MESSAGE)
            await layer.group_send("room", MESSAGE)
            await layer.receive(own)
            await layer.send("tasks", MESSAGE)
            await layer.take("tasks")
            while_open = lifetimes(connection, redis_server.keys(prefix))
        name = layer.non_local_name(own)
        kinds = {
            key.replace(prefix, "").replace(name, "own!").partition("}")[0]
            for key in while_open
        }
        assert {":layer", ":group:room", ":receivers:{tasks"} <= kinds
        assert {":inflight:{own!", ":inflight:{tasks"} <= kinds
        for key, lifetime in while_open.items():
            longest = 100
            if ":inflight:" in key or ":receivers:" in key:
                longest = 150
            elif ":group:" in key:
                longest = 500
            elif key.endswith(":processes"):
                longest = 560
            assert 0 < lifetime <= 1000 * longest + 1, key
        after = lifetimes(connection, redis_server.keys(prefix))
        assert all(lifetime > 0 for lifetime in after.values())
        left = {key.removeprefix(prefix) for key in after}
        assert left == {
            *("jobs", "tasks", "specific.other.1!"),
            *(":layer", ":group:room", ":processes"),
        }
        [members] = [connection.command("ZRANGE", f"{prefix}:group:room", 0, -1)]
        assert members == [other.encode()]
