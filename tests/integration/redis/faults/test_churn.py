"""A storm of receivers and consumers that come and go while others stay."""

import asyncio
import contextlib
import random
from typing import Any

import pytest

from fast_channels.layers import RedisChannelLayer
from fast_channels.type_defs import ChannelMessage, ChannelScope
from tests.redis_servers.server import RedisServer

from .conftest import MakeLayer, Storm
from .traffic import (
    Ledger,
    Listener,
    Traffic,
    listening,
    receive_all,
    settle,
    to_channel,
    to_group,
)


async def receive_impatiently(
    layer: RedisChannelLayer, channel: str, ledger: Ledger
) -> int:
    """Receive until the end, but cancel most calls; return how many were cancelled."""
    given_up = 0
    while True:
        task = asyncio.create_task(layer.receive(channel))
        await asyncio.wait([task], timeout=random.choice((0, 0, 0.001, 0.003)))
        task.cancel()
        try:
            message = await task
        except asyncio.CancelledError:
            given_up += 1
        else:
            if not ledger.note(message):
                return given_up


@pytest.mark.parametrize("own", [True, False], ids=["own channel", "plain channel"])
async def test_cancelled_receives_take_no_messages(
    redis_server: RedisServer, make_layer: MakeLayer, storm: Storm, own: bool
) -> None:
    """Cancelled receives take no message from other receivers of the channel."""
    layer, other = make_layer(redis_server), make_layer(redis_server)
    channel = await layer.new_channel() if own else "tasks"
    ledger = Ledger()
    send = to_channel(other, channel)
    async with asyncio.TaskGroup() as tasks:
        impatient = [
            tasks.create_task(receive_impatiently(layer, channel, ledger))
            for _ in range(3)
        ]
        tasks.create_task(receive_all(layer, channel, ledger))
        async with Traffic(send) as traffic:
            await traffic.reaches(storm(short=2000, full=20_000))
        await settle(ledger, traffic.acknowledged, send, 4)
    assert sum(task.result() for task in impatient) > len(traffic.acknowledged) / 10


async def visit(ledger: Ledger, *, shut_down: bool) -> None:
    """Connect a consumer, and disconnect it once it has joined its group."""
    events = asyncio.Queue[dict[str, Any]]()
    accepted = asyncio.Event()

    async def send(event: ChannelMessage) -> None:
        assert event["type"] == "websocket.accept"
        accepted.set()

    app = Listener.as_asgi(ledger=ledger)
    scope: ChannelScope = {"type": "websocket", "path": "/", "headers": []}
    events.put_nowait({"type": "websocket.connect"})
    task = asyncio.create_task(app(scope, events.get, send))
    await accepted.wait()
    if shut_down:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    else:
        events.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await task


async def test_consumers_that_stay_get_each_message_while_others_come_and_go(
    redis_server: RedisServer, make_layer: MakeLayer, storm: Storm
) -> None:
    """Consumers that stay in a group get each message once while many come and go."""
    first, second = make_layer(redis_server), make_layer(redis_server)
    send = to_group(make_layer(redis_server))
    visits = storm(short=100, full=1500)

    async def visit_again_and_again() -> None:
        for _ in range(visits):
            await visit(Ledger(), shut_down=random.random() < 0.5)

    async with listening(second, second, first, first, first) as ledgers:
        async with Traffic(send) as traffic, asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(visit_again_and_again())
        await send({"type": "end"})
        for ledger in ledgers:
            await ledger.ended()
            await ledger.holds(traffic.acknowledged, 0)
            assert not ledger.twice
