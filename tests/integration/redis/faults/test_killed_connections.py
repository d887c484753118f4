"""Connections that break repeatedly while messages arrive."""

import asyncio
from collections.abc import Callable

import pytest

from tests.redis_servers.server import RedisServer

from .conftest import MakeLayer, Storm
from .killer import Client, any_client, kill_again_and_again, reads
from .traffic import (
    Ledger,
    Traffic,
    listening,
    receive_all,
    settle,
    to_channel,
    to_group,
)

each_kind = pytest.mark.parametrize(
    "chosen", [reads, any_client], ids=["reader's", "all"]
)


@each_kind
@pytest.mark.parametrize("own", [True, False], ids=["own channel", "plain channel"])
async def test_no_message_of_a_channel_is_lost_or_repeated(
    own_redis_server: RedisServer,
    make_layer: MakeLayer,
    storm: Storm,
    own: bool,
    chosen: Callable[[Client], bool],
) -> None:
    """Breaking connections neither lose nor repeat messages of a channel."""
    layer, other = make_layer(own_redis_server), make_layer(own_redis_server)
    channel = await layer.new_channel() if own else "tasks"
    ledger = Ledger()
    send = to_channel(other, channel)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(receive_all(layer, channel, ledger))
        async with Traffic(send) as traffic:
            await kill_again_and_again(
                own_redis_server, storm(short=30, full=200), chosen
            )
        await settle(ledger, traffic.acknowledged, send)
    assert layer.statistics()["reconnects"] > 5


@each_kind
async def test_no_message_of_a_group_is_lost_or_repeated(
    own_redis_server: RedisServer,
    make_layer: MakeLayer,
    storm: Storm,
    chosen: Callable[[Client], bool],
) -> None:
    """Breaking connections neither lose nor repeat messages of a group."""
    layers = [make_layer(own_redis_server) for _ in range(2)]
    send = to_group(make_layer(own_redis_server))
    async with listening(*layers, *layers) as ledgers:
        async with Traffic(send) as traffic:
            await kill_again_and_again(
                own_redis_server, storm(short=30, full=200), chosen
            )
        await send({"type": "end"})
        for ledger in ledgers:
            await ledger.ended()
            await ledger.holds(traffic.acknowledged, 0)
            assert not ledger.twice


async def test_a_process_can_send_while_its_reader_reconnects(
    own_redis_server: RedisServer, make_layer: MakeLayer, storm: Storm
) -> None:
    """A process can send while its reader reconnects."""
    layer = make_layer(own_redis_server)
    channel = await layer.new_channel()
    ledger = Ledger()
    send = to_channel(layer, channel)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(receive_all(layer, channel, ledger))
        async with Traffic(send) as traffic:
            await kill_again_and_again(own_redis_server, storm(short=5, full=100))
        assert traffic.acknowledged == {*range(len(traffic.acknowledged))}
        await settle(ledger, traffic.acknowledged, send)
