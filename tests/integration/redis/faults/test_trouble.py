"""What others do to a server: rubbish in mailboxes, clocks that differ, and flushes."""

import asyncio
import logging
import time

import pytest

from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.type_defs import ChannelMessage
from tests.redis_servers.server import RedisServer, free_port
from tests.waiting import counting_turns

from .conftest import MakeLayer, Storm
from .killer import kill
from .traffic import (
    GROUP,
    LIMIT,
    Ledger,
    Send,
    Traffic,
    listening,
    receive_all,
    settle,
    to_channel,
    to_group,
)

_NUMBER = {"type": "number", "number": 0}
_SECRETS = ["secret"]


def put(
    server: RedisServer,
    layer: RedisChannelLayer,
    channel: str,
    value: bytes,
    clock: float = 0,
) -> None:
    """Put bytes into the mailbox of a channel, as one does whose clock is off."""
    key = layer.prefix + layer.non_local_name(channel)
    server.command("ZADD", key, str(time.time() + clock), value)
    server.command("EXPIRE", key, 60)


def damaged(layer: RedisChannelLayer, others: RedisChannelLayer) -> list[bytes]:
    """Return what a layer cannot read: no message, of another key, not all of one."""
    value = layer.serializer.serialize(_NUMBER)
    values = [b"not what a layer has written", b"", value[: len(value) // 2]]
    return [*values, others.serializer.serialize(_NUMBER)]


@pytest.mark.parametrize("keys", [[], _SECRETS], ids=["open", "encrypted"])
async def test_unreadable_messages(
    redis_server: RedisServer,
    make_layer: MakeLayer,
    caplog: pytest.LogCaptureFixture,
    keys: list[str],
) -> None:
    """What cannot be read is counted and logged, and harms no consumer."""
    layer = make_layer(redis_server, symmetric_encryption_keys=keys)
    others = make_layer(redis_server, symmetric_encryption_keys=["another"])
    async with listening(layer, layer) as ledgers:
        own = await layer.new_channel()
        for number, channel in enumerate((own, "tasks")):
            values = damaged(layer, others)
            for value in values:
                put(redis_server, layer, channel, value)
            message = {"type": "number", "number": number}
            await layer.send(channel, message)
            await layer.group_send(GROUP, message)
            async with asyncio.timeout(LIMIT):
                assert await layer.receive(channel) == message
            for ledger in ledgers:
                await ledger.holds([number])
            assert layer.statistics()["undecodable"] == (number + 1) * len(values)
        for channel in (own, "tasks"):
            assert repr(layer.non_local_name(channel)) in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


@pytest.mark.parametrize("own", [True, False], ids=["own channel", "plain channel"])
async def test_clocks_that_differ(
    redis_server: RedisServer, make_layer: MakeLayer, own: bool
) -> None:
    """Whoever receives gets messages of senders whose clocks are a minute off."""
    layer = make_layer(redis_server)
    channel = await layer.new_channel() if own else "tasks"
    send = to_channel(make_layer(redis_server), channel)
    ledger = Ledger()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(receive_all(layer, channel, ledger))
        await send({"type": "number", "number": 0})
        for number in range(1, 20):
            await ledger.holds([number - 1])
            message = {"type": "number", "number": number}
            match number % 3:
                case 0:
                    await send(message)
                case sign:
                    if own:
                        message["__asgi_channel__"] = channel
                    value = layer.serializer.serialize(message)
                    put(redis_server, layer, channel, value, 70 * (2 * sign - 3))
        await settle(ledger, range(20), send)


@pytest.mark.parametrize("seconds", [-70, 70])
async def test_own_clock_is_off(
    redis_server: RedisServer,
    make_layer: MakeLayer,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
) -> None:
    """A process whose clock is a minute off sends and receives as others do."""
    right = time.time
    ledger = Ledger()
    layer, other = make_layer(redis_server), make_layer(redis_server)
    monkeypatch.setattr(time, "time", lambda: right() + seconds)
    channel = await layer.new_channel()
    sends: list[Send] = [to_channel(each, channel) for each in (layer, other)]
    async with listening(layer) as ledgers, asyncio.TaskGroup() as tasks:
        tasks.create_task(receive_all(layer, channel, ledger))
        async with Traffic(*sends) as traffic:
            await traffic.reaches(100)
        await settle(ledger, traffic.acknowledged, sends[0])
        await settle(ledgers[0], [], to_group(other))


async def test_scripts_are_flushed(
    redis_server: RedisServer, make_layer: MakeLayer, storm: Storm
) -> None:
    """A server that forgets all scripts again and again harms no message."""
    layer = make_layer(redis_server)
    channel = await layer.new_channel()
    channels = [channel, "tasks"]
    ledgers = [Ledger(), Ledger()]
    sends = [to_channel(layer, channel) for channel in channels]

    async def send(message: ChannelMessage) -> None:
        await asyncio.gather(*[send(message) for send in (*sends, to_group(layer))])

    async with listening(layer) as [crowd], asyncio.TaskGroup() as tasks:
        for channel, ledger in zip(channels, ledgers, strict=True):
            tasks.create_task(receive_all(layer, channel, ledger))
        async with Traffic(send) as traffic:
            for _ in range(storm(short=100, full=2000)):
                await asyncio.to_thread(redis_server.command, "SCRIPT", "FLUSH")
        await send({"type": "end"})
        for ledger in (*ledgers, crowd):
            await ledger.ended()
            await ledger.holds(traffic.acknowledged, 0)
            assert not ledger.twice
    assert layer.statistics()["reconnects"] == 0


async def test_everything_is_flushed(
    own_redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """Who receives when somebody deletes all keys gets what is sent from then on."""
    layer = make_layer(own_redis_server)
    channels = [await layer.new_channel(), "tasks"]
    other = make_layer(own_redis_server)
    ledgers = [Ledger(), Ledger()]
    async with asyncio.TaskGroup() as tasks:
        for channel, ledger in zip(channels, ledgers, strict=True):
            tasks.create_task(receive_all(layer, channel, ledger))
            await other.send(channel, _NUMBER)
            await ledger.holds([0])
        own_redis_server.command("FLUSHALL")
        for channel, ledger in zip(channels, ledgers, strict=True):
            await other.send(channel, {"type": "number", "number": 1})
            await settle(ledger, [0, 1], to_channel(other, channel))


async def test_members_older_than_group_expiry(
    redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """A consumer that has been in a group for longer than members stay is in it."""
    layers = [make_layer(redis_server, group_expiry=1) for _ in range(2)]
    key = f"{layers[0].prefix}:group:{GROUP}"

    def joined() -> float:
        """Return when the consumer joined, as far as Redis knows."""
        match redis_server.command("ZRANGE", key, 0, -1, "WITHSCORES"):
            case [bytes(), bytes(score)]:
                return float(score)
            case other:
                pytest.fail(f"the consumer is not the one member: {other!r}")

    async with listening(layers[0]) as [ledger]:
        first = joined()
        async with asyncio.timeout(LIMIT):
            while await asyncio.to_thread(joined) < first + 2:  # noqa: ASYNC110 # nobody tells
                await asyncio.sleep(0.05)
        await settle(ledger, [], to_group(layers[1]))


async def test_server_that_tells_of_no_changes(
    redis_server: RedisServer,
    url_without_tracking: str,
    make_layer: MakeLayer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Messages come where Redis may not tell of changes, which is logged once."""
    layer, other = make_layer(url_without_tracking), make_layer(redis_server)
    channels = [await layer.new_channel(), "tasks"]
    for _ in range(2):
        ledgers = [Ledger(), Ledger()]
        async with listening(layer) as [crowd], asyncio.TaskGroup() as tasks:
            for channel, ledger in zip(channels, ledgers, strict=True):
                tasks.create_task(receive_all(layer, channel, ledger))
                send = to_channel(other, channel)
                async with Traffic(send) as traffic:
                    await traffic.reaches(100)
                await settle(ledger, traffic.acknowledged, send)
            await settle(crowd, [], to_group(other))
        # It is not told again of the next connection.
        kill(redis_server, lambda client: client["user"] == "untold")
    assert caplog.text.count("refuses to report changes of queues") == 1
    assert layer.statistics()["reconnects"] == 1


# A script that keeps a server busy, and then says so to all others.
_BUSY = """
local start = redis.call('TIME')
repeat
  local now = redis.call('TIME')
until now[1] - start[1] + (now[2] - start[2]) / 1000000 > 1
"""


async def test_a_server_that_was_busy(
    own_redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """After a reconnect while a script ran, Redis tells of changes again."""
    layer, sender = make_layer(own_redis_server), make_layer(own_redis_server)
    own_redis_server.command("CONFIG", "SET", "busy-reply-threshold", 50)
    channel = await layer.new_channel()
    ledger = Ledger()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(receive_all(layer, channel, ledger))
        await sender.send(channel, _NUMBER)
        await ledger.holds([0])

        def be_busy() -> None:
            with own_redis_server.connect() as connection:
                connection.pipeline(
                    ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
                    ("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"),
                    ("EVAL", _BUSY, 0),
                )

        await asyncio.to_thread(be_busy)
        await sender.send(channel, {"type": "number", "number": 1})
        await settle(ledger, range(2), to_channel(sender, channel))
        async with asyncio.timeout(LIMIT):
            while not any("t" in c["flags"] for c in own_redis_server.clients()):  # noqa: ASYNC110 # a server has no events
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", [RedisChannelLayer, RedisPubSubChannelLayer])
async def test_joining_while_redis_is_away_gives_others_a_turn(
    kind: type[RedisChannelLayer | RedisPubSubChannelLayer],
) -> None:
    """A task that joins one group after the other doesn't block the event loop."""
    layer = kind([f"redis://127.0.0.1:{free_port()}"])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    async with counting_turns() as turns:
        for number in range(100):
            await layer.group_add(f"room{number}", channel)
    assert len(turns) >= 90
    await layer.close()
