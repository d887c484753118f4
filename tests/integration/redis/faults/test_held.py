"""Messages of plain channels that are held for long, or next to damaged keys."""

import asyncio

import pytest

from fast_channels.layers import RedisChannelLayer
from fast_channels.layers.redis.keys import private_key
from fast_channels.layers.redis.queue.inbox import Inbox, InboxTiming
from tests.redis_servers.server import RedisServer

from .conftest import MakeLayer
from .traffic import LIMIT

CHANNEL = "jobs"
# Seconds after which messages expire in these tests.
_EXPIRY = 1.0


def numbered(number: int) -> dict[str, object]:
    return {"type": "job", "number": number}


def time_of(server: RedisServer) -> int:
    """Return the server's time, in seconds."""
    reply = server.command("TIME")
    assert isinstance(reply, list)
    seconds = reply[0]
    assert isinstance(seconds, bytes)
    return int(seconds)


async def grow_old(server: RedisServer) -> None:
    """Wait until every message sent so far has expired."""
    end = time_of(server) + _EXPIRY + 1
    while time_of(server) <= end:  # noqa: ASYNC110 # a clock has no events
        await asyncio.sleep(0.1)


async def next_message(layer: RedisChannelLayer) -> dict[str, object]:
    async with asyncio.timeout(LIMIT):
        return await layer.receive(CHANNEL)


@pytest.mark.parametrize("closes", [False, True])
async def test_work_that_was_held_for_long_is_given_back(
    redis_server: RedisServer, make_layer: MakeLayer, closes: bool
) -> None:
    """A message that is given back can be received, even after its expiry."""
    worker, other = (make_layer(redis_server, expiry=_EXPIRY) for _ in range(2))
    await other.send(CHANNEL, numbered(0))
    async with asyncio.timeout(LIMIT):
        delivery = await worker.take(CHANNEL)
    await grow_old(redis_server)
    if closes:
        await worker.close()
    else:
        delivery.give_back()
        while not redis_server.command("ZCARD", other.prefix + CHANNEL):  # noqa: ASYNC110 # dead letters have no event
            await asyncio.sleep(0.01)
    await other.send(CHANNEL, numbered(1))
    assert await next_message(other) == numbered(0)
    assert await next_message(other) == numbered(1)


async def test_a_suspect_waits_while_another_is_being_handled(
    redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """A message whose receivers died waits while another such message is handled."""
    layer = make_layer(redis_server, expiry=_EXPIRY)
    queue = layer.prefix + CHANNEL
    suspects = private_key(layer.prefix, "suspects", CHANNEL)
    for number in range(2):
        await layer.send(CHANNEL, numbered(number))
    redis_server.command("RENAME", queue, suspects)
    async with asyncio.timeout(LIMIT):
        first = await layer.take(CHANNEL)
    await grow_old(redis_server)
    first.acknowledge()
    async with asyncio.timeout(LIMIT):
        second = await layer.take(CHANNEL)
    second.acknowledge()
    assert [first.message, second.message] == [numbered(0), numbered(1)]


@pytest.mark.parametrize("ago", [100, -3600], ids=["outage", "clock set back"])
async def test_no_lease_ends_while_redis_is_away(
    redis_server: RedisServer, make_layer: MakeLayer, ago: int
) -> None:
    """After an outage, receivers get time to renew their leases, but only once."""
    layer = make_layer(redis_server, expiry=600)
    receivers = private_key(layer.prefix, "receivers", CHANNEL)
    heard = time_of(redis_server) - ago
    for number, (receiver, left) in enumerate([("alive", 30), ("dead", 17)]):
        await layer.send(CHANNEL, numbered(number))
        held = f"{private_key(layer.prefix, 'inflight', CHANNEL)}:{receiver}"
        redis_server.command("RENAME", layer.prefix + CHANNEL, held)
        redis_server.command("ZADD", receivers, heard + left, receiver)
    redis_server.command("ZADD", receivers, heard, "")
    assert await next_message(layer) == numbered(1)
    lease = redis_server.command("ZSCORE", receivers, "alive")
    assert isinstance(lease, bytes)
    assert 0 < float(lease) - time_of(redis_server) < 60


@pytest.mark.parametrize("kind", ["receivers", "suspects", "deaths", "deadletters"])
async def test_a_failed_recovery_loses_nothing_of_a_dead_receiver(
    redis_server: RedisServer,
    make_layer: MakeLayer,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """A dead receiver's messages survive a recovery that fails half-way."""
    monkeypatch.setattr(Inbox, "timing", InboxTiming(check=0.2))
    layer = make_layer(redis_server, expiry=600)
    queue = layer.prefix + CHANNEL
    count = 5
    for number in range(count):
        await layer.send(CHANNEL, numbered(number))
    key = private_key(layer.prefix, kind, CHANNEL)
    receivers = private_key(layer.prefix, "receivers", CHANNEL)
    deaths = private_key(layer.prefix, "deaths", CHANNEL)
    # The first message has been delivered as often as it can be.
    values = redis_server.command("ZRANGE", queue, 0, 0)
    assert isinstance(values, list)
    assert isinstance(values[0], bytes)
    redis_server.command("HSET", deaths, values[0], 4)
    held = f"{private_key(layer.prefix, 'inflight', CHANNEL)}:dead"
    redis_server.command("RENAME", queue, held)
    if kind == "receivers":
        redis_server.command("SET", key, "")
    else:
        redis_server.command("ZADD", receivers, 1, "dead")
        redis_server.command("DEL", key)
        redis_server.command("SET", key, "")
    receiving = asyncio.create_task(next_message(layer))
    calls = redis_server.command_counts()["evalsha"]
    async with asyncio.timeout(LIMIT):
        # Several attempts, none of which succeeds.
        while redis_server.command_counts()["evalsha"] < calls + 8:  # noqa: ASYNC110 # a server has no events
            await asyncio.sleep(0.05)
    assert not receiving.done()
    redis_server.command("DEL", key)
    if kind == "receivers":
        redis_server.command("ZADD", receivers, 1, "dead")
    received = [await receiving]
    last = count - 2 if kind != "deaths" else count - 1
    received += [await next_message(layer) for _ in range(last)]
    left = await layer.dead_letters(CHANNEL)
    numbers = sorted(str(message["number"]) for message in (*received, *left))
    assert numbers == [str(number) for number in range(count)]


async def test_dead_letters_survive_a_failed_requeue(
    redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """Dead letters that cannot be put back remain dead letters."""
    layer = make_layer(redis_server)
    await layer.send(CHANNEL, numbered(0))
    queue = layer.prefix + CHANNEL
    letters = private_key(layer.prefix, "deadletters", CHANNEL)
    redis_server.command("RENAME", queue, letters)
    redis_server.command("SET", queue, "")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await layer.requeue_dead_letters(CHANNEL)
    assert await layer.dead_letters(CHANNEL) == [numbered(0)]
