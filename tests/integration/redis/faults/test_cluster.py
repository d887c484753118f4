"""A Redis Cluster while its slots move, its nodes fail, and connections break.

All the while, messages go to a group, to a channel of a process and to a plain channel.
"""

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import AsyncGenerator

import pytest

from fast_channels.layers import RedisChannelLayer
from tests.integration.redis.slots import move_anywhere, slot_of
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.cluster import RedisCluster
from tests.redis_servers.cluster_node import ClusterNode
from tests.waiting import PAUSE, until

from .conftest import MakeLayer, Storm
from .traffic import (
    GROUP,
    Ledger,
    Traffic,
    reached_again,
    receive_all,
    settle,
    to_channel,
    to_group,
)

PLAIN = "jobs"
# Less than the time that a command waits for a reply, and enough for a busy machine.
_SOON = 3


class Fleet:
    """Processes that share a group and a plain channel, and what reaches them."""

    def __init__(self, cluster: RedisCluster, make_layer: MakeLayer) -> None:
        self.cluster = cluster
        self.layers = [make_layer(cluster) for _ in range(3)]
        self.sender = make_layer(cluster)
        self.crowd = [Ledger() for _ in self.layers]
        self.direct, self.plain = Ledger(), Ledger()
        self.channels: list[str] = []
        self.traffic: list[Traffic] = []
        self._receivers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Join the group, and receive."""
        for layer, ledger in zip(self.layers, self.crowd, strict=True):
            channel = await layer.new_channel()
            self.channels.append(channel)
            await layer.group_add(GROUP, channel)
            self._receive(layer, channel, ledger)
            self._receive(layer, PLAIN, self.plain)
        layer = self.layers[0]
        self.channels.insert(0, await layer.new_channel())
        self._receive(layer, self.channels[0], self.direct)
        self.traffic = [
            Traffic(to_group(self.sender)),
            Traffic(to_channel(self.sender, self.channels[0])),
            Traffic(to_channel(self.sender, PLAIN)),
        ]

    def slots(self) -> list[int]:
        """Return the slots that messages pass."""
        names = [GROUP, PLAIN, *self.channels]
        return sorted({slot_of(self.sender, name) for name in names})

    def _receive(self, layer: RedisChannelLayer, channel: str, ledger: Ledger) -> None:
        receiving = receive_all(layer, channel, ledger)
        self._receivers.append(asyncio.create_task(receiving))

    async def reached_again(self, limit: float) -> None:
        """Check that in time everything arrives that is sent from now on."""
        groups = self.crowd, [self.direct], [self.plain]
        for traffic, ledgers in zip(self.traffic, groups, strict=True):
            await reached_again(ledgers, traffic, limit)

    async def end(self) -> None:
        """Check that all that was acknowledged has come once."""
        to_crowd, to_one, to_plain = self.traffic
        send = to_group(self.sender)
        for ledger in self.crowd:
            await ledger.holds(to_crowd.acknowledged)
        await send({"type": "end"})
        for ledger in self.crowd:
            await ledger.ended()
            assert not ledger.twice
        channel = self.channels[0]
        await settle(self.direct, to_one.acknowledged, to_channel(self.sender, channel))
        send = to_channel(self.sender, PLAIN)
        await settle(self.plain, to_plain.acknowledged, send, ends=len(self.layers))
        await asyncio.gather(*self._receivers)

    async def stop(self) -> None:
        for receiver in self._receivers:
            receiver.cancel()
        await asyncio.gather(*self._receivers, return_exceptions=True)


@contextlib.asynccontextmanager
async def busy(cluster: RedisCluster, make_layer: MakeLayer) -> AsyncGenerator[Fleet]:
    """Send messages in the block; after it, none may be lost or have come twice."""
    fleet = Fleet(cluster, make_layer)
    try:
        await fleet.start()
        async with contextlib.AsyncExitStack() as stack:
            for traffic in fleet.traffic:
                await stack.enter_async_context(traffic)
            await fleet.traffic[0].reaches(20)
            yield fleet
            await fleet.traffic[0].reaches(20)
        await fleet.end()
    finally:
        await fleet.stop()


async def test_connections_are_cut(
    redis_cluster: RedisCluster, make_layer: MakeLayer, storm: Storm
) -> None:
    """Nothing is lost or comes twice while all connections break every 0.2 s."""
    async with busy(redis_cluster, make_layer):
        for _ in range(storm(short=10, full=300)):
            await asyncio.sleep(0.2)
            await asyncio.to_thread(redis_cluster.kill_clients)


async def test_slots_move(
    redis_cluster: RedisCluster, make_layer: MakeLayer, storm: Storm
) -> None:
    """Nothing is lost or comes twice while the slots of live queues move."""
    async with busy(redis_cluster, make_layer) as fleet:
        for slot in fleet.slots() * storm(short=2, full=30):
            await asyncio.to_thread(move_anywhere, redis_cluster, slot)


async def test_slots_move_slowly(
    redis_cluster: RedisCluster, make_layer: MakeLayer, storm: Storm
) -> None:
    """While a move is open, messages go to both nodes, and none is lost."""
    async with busy(redis_cluster, make_layer) as fleet:
        move = functools.partial(move_anywhere, redis_cluster, hold_open=0.3)
        for slot in fleet.slots() * storm(short=1, full=10):
            await asyncio.to_thread(move, slot)


async def test_empty_queue_moves(
    redis_cluster: RedisCluster, make_layer: MakeLayer, storm: Storm
) -> None:
    """A receiver notices that its slot moves although its queue does not exist."""
    layer, sender = make_layer(redis_cluster), make_layer(redis_cluster)
    channel = await layer.new_channel()
    slot = slot_of(layer, channel)
    await sender.send(channel, {"type": "before"})
    assert await layer.receive(channel) == {"type": "before"}
    receiving = asyncio.create_task(layer.receive(channel))
    for number in range(storm(short=6, full=60)):
        await asyncio.to_thread(move_anywhere, redis_cluster, slot)
        await asyncio.sleep(random.uniform(0, 0.05))
        began = time.monotonic()
        await sender.send(channel, {"type": "after", "number": number})
        assert await receiving == {"type": "after", "number": number}
        assert time.monotonic() - began < 2
        receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    receiving.cancel()
    await asyncio.wait([receiving])
    await layer.delete_channel(channel)


async def test_slots_move_atomically(
    valkey_binary: ServerBinary, make_layer: MakeLayer, storm: Storm
) -> None:
    """Valkey moves whole slots at once."""
    with RedisCluster(valkey_binary) as cluster:
        async with busy(cluster, make_layer) as fleet:
            for slot in fleet.slots() * storm(short=1, full=9):
                source = cluster.owner(slot)
                others = [node for node in cluster.masters() if node is not source]
                slots = range(slot, slot + 1)
                target = random.choice(others)
                await asyncio.to_thread(cluster.migrate_slots, slots, target)


async def test_planned_failover(
    own_redis_cluster: RedisCluster, make_layer: MakeLayer, storm: Storm
) -> None:
    """Nothing is lost or comes twice, and messages soon arrive again."""
    cluster = own_redis_cluster
    async with busy(cluster, make_layer) as fleet:
        for _ in range(storm(short=2, full=20)):
            for slot in fleet.slots()[::2]:
                replica = cluster.replica(cluster.owner(slot))
                await asyncio.to_thread(cluster.fail_over, replica)
                await fleet.reached_again(_SOON)
                await asyncio.to_thread(cluster.wait_until_whole)


def is_replicated(master: ClusterNode) -> bool:
    """Return whether the replica has confirmed all that its master has written."""
    state = master.info("replication")
    return f"offset={state['master_repl_offset']}," in state["slave0"]


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_master_is_gone(
    own_redis_cluster: RedisCluster, make_layer: MakeLayer, how: str
) -> None:
    """What was acknowledged arrives; all works soon after a replica has taken over."""
    cluster = own_redis_cluster
    async with busy(cluster, make_layer) as fleet:
        master = cluster.owner(fleet.slots()[0])
        # Redis replicates after it has acknowledged.
        for traffic in fleet.traffic:
            await traffic.pause()
        await until(lambda: is_replicated(master), pause=PAUSE)
        (master.kill if how == "killed" else master.pause)()
        for traffic in fleet.traffic:
            traffic.go_on()
        await asyncio.to_thread(cluster.wait_for_new_master, master)
        await fleet.reached_again(_SOON)
        await asyncio.to_thread(cluster.heal)
        await fleet.traffic[0].reaches(50)
