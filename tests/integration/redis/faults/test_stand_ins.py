"""A storm of joins and leaves: a group lists names, a stand-in, and names again.

Members come in waves around the ninth, which replaces their names with one stand-in;
the last to leave removes it. Connections are cut throughout.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator

import pytest

from fast_channels.layers import RedisChannelLayer
from fast_channels.layers.redis.queue.stand_ins import NAMED
from tests.redis_servers.cluster import RedisCluster
from tests.redis_servers.server import RedisServer

from .conftest import MakeLayer, Storm
from .killer import any_client, kill_again_and_again
from .traffic import GROUP, Ledger, Traffic, receive_all, settle, to_group


async def visit(layer: RedisChannelLayer, traffic: Traffic) -> None:
    """Be a member for a while, and check that it gets each message of that time once.

    That time begins with the first message: while Redis is away, group_add() returns
    before Redis lists the member.
    """
    channel, ledger = await layer.new_channel(), Ledger()
    await layer.group_add(GROUP, channel)
    reading = asyncio.create_task(receive_all(layer, channel, ledger))
    try:
        assert await ledger.until(lambda: bool(ledger.counts)), "it never joined"
        first = traffic.next_number
        await traffic.reaches(random.randint(1, 40))
        await ledger.holds({each for each in traffic.acknowledged if each >= first})
    finally:
        reading.cancel()
        await asyncio.wait([reading])
    if random.random() < 0.5:
        await layer.group_discard(GROUP, channel)
    await layer.delete_channel(channel)
    assert not ledger.twice


@contextlib.asynccontextmanager
async def cut_connections(server: RedisServer | RedisCluster) -> AsyncGenerator[None]:
    """Cut all connections again and again, as long as the context lasts."""
    over = False

    async def cut() -> None:
        while not over:
            if isinstance(server, RedisCluster):
                await asyncio.to_thread(server.kill_clients)
                # Each layer has connections to three masters to open again.
                await asyncio.sleep(0.2)
            else:
                await kill_again_and_again(server, 1, any_client)
            await asyncio.sleep(random.uniform(0, 0.2))

    cutting = asyncio.create_task(cut())
    try:
        yield
    finally:
        over = True
        await cutting


@pytest.fixture(params=["server", "cluster"])
def where(request: pytest.FixtureRequest) -> RedisServer | RedisCluster:
    name = "redis_server" if request.param == "server" else "redis_cluster"
    found = request.getfixturevalue(name)
    assert isinstance(found, RedisServer | RedisCluster)
    return found


@pytest.mark.parametrize("keys", [[], ["secret"]], ids=["open", "encrypted"])
async def test_members_that_come_and_go_around_the_ninth_lose_nothing(
    where: RedisServer | RedisCluster,
    make_layer: MakeLayer,
    storm: Storm,
    keys: list[str],
) -> None:
    """No member loses a message or gets one twice, in this process or in others."""
    here, few, many, sender = (
        make_layer(where, symmetric_encryption_keys=keys) for _ in range(4)
    )
    # For each member that stays: its messages, and the task that receives them.
    staying: list[tuple[Ledger, asyncio.Task[None]]] = []
    for layer, count in [(few, 2), (many, NAMED + 4)]:
        for _ in range(count):
            channel, ledger = await layer.new_channel(), Ledger()
            await layer.group_add(GROUP, channel)
            receiving = asyncio.create_task(receive_all(layer, channel, ledger))
            staying.append((ledger, receiving))
    send = to_group(sender)
    async with Traffic(send) as traffic, cut_connections(where):
        for _ in range(storm(short=15, full=400)):
            async with asyncio.TaskGroup() as visits:
                for _ in range(random.randint(NAMED - 2, NAMED + 4)):
                    visits.create_task(visit(here, traffic))
                    await asyncio.sleep(random.choice((0, 0.01)))
    for number, (ledger, _) in enumerate(staying):
        if number:
            await ledger.holds(traffic.acknowledged)
        else:
            await settle(ledger, traffic.acknowledged, send)
    for ledger, receiving in staying:
        await receiving
        assert not ledger.twice
