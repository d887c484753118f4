"""Receivers that are slower than the senders."""

import asyncio
import threading
import time
from typing import Any

import pytest

from fast_channels.exceptions import ChannelFull
from fast_channels.layers import RedisChannelLayer
from tests.redis_servers.server import RedisServer

from .conftest import MakeLayer
from .traffic import LIMIT, Ledger, Listener, listening, receive_all, to_group

_CAPACITY = 5


def number(number: int) -> dict[str, Any]:
    return {"type": "number", "number": number}


@pytest.mark.parametrize("keys", [[], ["secret"]], ids=["open", "encrypted"])
async def test_a_member_that_does_not_receive_holds_up_no_other(
    redis_server: RedisServer, make_layer: MakeLayer, keys: list[str]
) -> None:
    """A group member whose channel is full misses messages; other members get them."""
    idle, busy, sender = (
        make_layer(
            redis_server, process_capacity=_CAPACITY, symmetric_encryption_keys=keys
        )
        for _ in range(3)
    )
    full, channel = await idle.new_channel(), await busy.new_channel()
    await idle.group_add("crowd", full)
    await busy.group_add("crowd", channel)
    async with asyncio.timeout(LIMIT):
        for each in range(20):
            await sender.group_send("crowd", number(each))
            assert await busy.receive(channel) == number(each)
        with pytest.raises(ChannelFull, match=full):
            await sender.send(full, number(20))
        for each in range(_CAPACITY):
            assert await idle.receive(full) == number(each)
        await sender.send(full, number(20))
        assert await idle.receive(full) == number(20)
    assert sender.statistics()["dropped"] == 20 - _CAPACITY


async def test_a_stalled_process_loses_no_message_of_a_burst(
    redis_server: RedisServer, prefix: str
) -> None:
    """A burst for many channels waits in Redis while their process is blocked."""
    # As many as arrive in 0.3 seconds, at a thousand messages per second.
    total, groups = 300, 100
    async with RedisChannelLayer([redis_server.url], prefix) as stalled:
        channels = [await stalled.new_channel() for _ in range(groups)]
        for each, channel in enumerate(channels):
            await stalled.group_add(f"group{each}", channel)
        ledgers = [Ledger() for _ in channels]
        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as tasks:
            for channel, ledger in zip(channels, ledgers, strict=True):
                tasks.create_task(receive_all(stalled, channel, ledger))

            async def send() -> None:
                async with RedisChannelLayer([redis_server.url], prefix) as sender:
                    for each in range(total):
                        await sender.group_send(f"group{each % groups}", number(each))
                    assert sender.statistics()["dropped"] == 0
                sent.set()

            sent = threading.Event()
            # The sender has its own event loop, as the receivers' loop is blocked.
            sending = asyncio.create_task(asyncio.to_thread(asyncio.run, send()))
            await asyncio.sleep(0)
            started = time.monotonic()
            while time.monotonic() < started + 0.3 or not sent.is_set():
                time.sleep(0.01)  # noqa: ASYNC251 # the stall under test
            await sending
            for each, ledger in enumerate(ledgers):
                await ledger.holds(range(each, total, groups))
            for each in range(groups):
                await stalled.group_send(f"group{each}", {"type": "end"})
        assert not any(ledger.twice for ledger in ledgers)
        assert stalled.statistics()["dropped"] == 0


class Stuck(Listener):
    """Handles one message, and then waits before it handles another."""

    may_go_on = asyncio.Event()

    async def number(self, message: dict[str, Any]) -> None:
        await super().number(message)
        await self.may_go_on.wait()


async def test_messages_for_a_consumer_that_stopped_reading_are_bounded(
    redis_server: RedisServer, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limited number of messages waits for a stalled consumer; others are counted."""
    monkeypatch.setattr(Stuck, "may_go_on", asyncio.Event())
    layer = make_layer(redis_server, capacity=_CAPACITY)
    channel = await layer.new_channel()
    await layer.group_add("crowd", channel)
    beside = Ledger()
    send = to_group(make_layer(redis_server, capacity=_CAPACITY))
    async with (
        listening(layer, consumer=Stuck) as [stuck],
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(receive_all(layer, channel, beside))
        await send(number(0))
        await stuck.holds([0])
        for each in range(1, 30):
            await send(number(each))
            # By then, the reader in the same process has received it.
            await beside.holds([each])
            assert layer.statistics()["waiting"] == min(each, _CAPACITY)
        assert layer.statistics()["dropped"] == 29 - _CAPACITY
        Stuck.may_go_on.set()
        await stuck.holds(range(_CAPACITY + 1))
        await send({"type": "end"})
        await stuck.ended()
        assert stuck.counts.keys() == {*range(_CAPACITY + 1)}
