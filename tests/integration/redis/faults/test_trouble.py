"""Damage from outside: unreadable messages, wrong clocks, and flushes."""

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
    """Put bytes into a channel's mailbox, as a sender with a wrong clock does."""
    key = layer.prefix + layer.non_local_name(channel)
    server.command("ZADD", key, str(time.time() + clock), value)
    server.command("EXPIRE", key, 60)


def damaged(layer: RedisChannelLayer, others: RedisChannelLayer) -> list[bytes]:
    """Return what a layer cannot read: no message, another key, part of a message."""
    value = layer.serializer.serialize(_NUMBER)
    values = [b"not what a layer has written", b"", value[: len(value) // 2]]
    return [*values, others.serializer.serialize(_NUMBER)]


@pytest.mark.parametrize("keys", [[], _SECRETS], ids=["open", "encrypted"])
async def test_unreadable_messages_harm_no_consumer(
    redis_server: RedisServer,
    make_layer: MakeLayer,
    caplog: pytest.LogCaptureFixture,
    keys: list[str],
) -> None:
    """Unreadable messages are counted and logged, and harm no consumer."""
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
async def test_messages_of_senders_with_wrong_clocks_arrive(
    redis_server: RedisServer, make_layer: MakeLayer, own: bool
) -> None:
    """Messages arrive from senders whose clocks are a minute off."""
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
async def test_a_process_with_a_wrong_clock_sends_and_receives(
    redis_server: RedisServer,
    make_layer: MakeLayer,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
) -> None:
    """A process whose clock is a minute off sends and receives like any other."""
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


async def test_flushing_scripts_harms_no_message(
    redis_server: RedisServer, make_layer: MakeLayer, storm: Storm
) -> None:
    """A server that repeatedly forgets all scripts loses and repeats no message."""
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


async def test_receivers_get_new_messages_after_all_keys_were_deleted(
    own_redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """After all keys were deleted, receivers get the messages sent from then on."""
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


async def test_a_member_stays_for_longer_than_group_expiry(
    redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """A consumer remains a member for longer than members last in Redis."""
    layers = [make_layer(redis_server, group_expiry=1) for _ in range(2)]
    key = f"{layers[0].prefix}:group:{GROUP}"

    def joined() -> float:
        """Return when the consumer joined, according to Redis."""
        match redis_server.command("ZRANGE", key, 0, -1, "WITHSCORES"):
            case [bytes(), bytes(score)]:
                return float(score)
            case other:
                pytest.fail(f"the consumer is not the one member: {other!r}")

    async with listening(layers[0]) as [ledger]:
        first = joined()
        async with asyncio.timeout(LIMIT):
            while await asyncio.to_thread(joined) < first + 2:  # noqa: ASYNC110 # a server has no events
                await asyncio.sleep(0.05)
        await settle(ledger, [], to_group(layers[1]))


async def test_messages_arrive_from_a_server_without_tracking(
    redis_server: RedisServer,
    url_without_tracking: str,
    make_layer: MakeLayer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Messages arrive from a Redis without client tracking, which is logged once."""
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
        # The next connection does not log it again.
        kill(redis_server, lambda client: client["user"] == "untold")
    assert caplog.text.count("refuses to report changes of queues") == 1
    assert layer.statistics()["reconnects"] == 1


# A script that occupies a server, which then answers other clients with BUSY.
_BUSY = """
local start = redis.call('TIME')
repeat
  local now = redis.call('TIME')
until now[1] - start[1] + (now[2] - start[2]) / 1000000 > 1
"""


async def test_tracking_works_after_the_server_was_busy(
    own_redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """After a reconnect during a long script, Redis reports changes again."""
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
async def test_joining_while_redis_is_away_does_not_block_the_event_loop(
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
