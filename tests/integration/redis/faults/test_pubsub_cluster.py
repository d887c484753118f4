"""The pub/sub layer on a Redis Cluster while slots move and nodes fail.

All the while, messages go to 24 groups with a member in each of three processes. As no
message is stored, some are lost. These tests show for how long, and in which groups.
"""

import asyncio
import contextlib
import functools
import itertools
import random
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from dataclasses import dataclass, field

import pytest

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers import RedisPubSubChannelLayer
from tests.integration.redis.slots import move_anywhere, pubsub_slot_of
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.cluster import RedisCluster
from tests.redis_servers.cluster_node import ClusterNode
from tests.redis_servers.resp import Reply
from tests.waiting import PAUSE, until

from .conftest import Storm

GROUPS = [f"room{number}" for number in range(24)]
# Seconds between two messages to a group.
PACE = 0.02
# Maximum seconds without messages: for a slot that moves, and after a failover.
SILENCE, AFTER_FAILOVER, AFTER_ELECTION = 0.3, 0.5, 3.0
LIMIT = 15


@dataclass
class Member:
    """A channel in a group, and what has reached it."""

    layer: RedisPubSubChannelLayer
    group: str
    channel: str
    arrivals: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    """When messages came, and their numbers."""
    notices: list[str] = field(default_factory=list[str])

    async def receive(self) -> None:
        """Receive until cancelled."""
        while True:
            message = await self.layer.receive(self.channel)
            if message["type"] == "number":
                self.arrivals.append((time.monotonic(), message["number"]))
            else:
                self.notices.append(message["type"])

    def lost(self) -> int:
        """Return how many messages are missing between the first and the last one."""
        numbers = [number for _, number in self.arrivals]
        return numbers[-1] - numbers[0] + 1 - len(numbers)

    def silence(self, since: float) -> float:
        """Return the longest time without a message, from the last one before."""
        times = [when for when, _ in self.arrivals]
        start = max([when for when in times if when < since], default=since)
        times = [start, *(when for when in times if when >= since), time.monotonic()]
        return max(after - before for before, after in itertools.pairwise(times))


class Crowd:
    """Processes with members in all groups."""

    def __init__(self, cluster: RedisCluster, prefix: str) -> None:
        self.cluster = cluster
        make = functools.partial(
            RedisPubSubChannelLayer, cluster=cluster.urls, prefix=prefix, capacity=1000
        )
        self.layers = [
            make(on_disconnect="gone", on_reconnect="back") for _ in range(3)
        ]
        self.sender = make()
        self.members: list[Member] = []
        self._sends = True
        self._next = dict.fromkeys(GROUPS, 0)
        self._acknowledged: set[tuple[str, int]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def slots(self) -> dict[int, list[str]]:
        """Return the groups of each slot."""
        found: defaultdict[int, list[str]] = defaultdict(list)
        for group in GROUPS:
            found[pubsub_slot_of(self.sender, group)].append(group)
        return found

    def groups_at(self, node: ClusterNode) -> list[str]:
        """Return the groups that a node serves."""
        return [
            group
            for slot, groups in self.slots().items()
            if self.cluster.owner(slot) is node
            for group in groups
        ]

    def of(self, groups: Collection[str]) -> list[Member]:
        """Return the members of groups."""
        return [member for member in self.members if member.group in groups]

    async def start(self) -> None:
        for layer in self.layers:
            for group in GROUPS:
                member = Member(layer, group, await layer.new_channel())
                self.members.append(member)
                await layer.group_add(group, member.channel)
                self._tasks.append(asyncio.create_task(member.receive()))
        for group in GROUPS:
            self._tasks.append(asyncio.create_task(self._send(group)))

    async def _send(self, group: str) -> None:
        await asyncio.sleep(random.uniform(0, PACE))
        while self._sends:
            number = self._next[group]
            self._next[group] += 1
            with contextlib.suppress(RedisUnavailable):
                message = {"type": "number", "number": number}
                await self.sender.group_send(group, message)
                self._acknowledged.add((group, number))
            await asyncio.sleep(PACE)

    async def reached(
        self, groups: Iterable[str] = GROUPS, limit: float = LIMIT
    ) -> None:
        """Check that messages sent from now on reach the members of groups in time."""
        sent = {group: self._next[group] for group in groups}

        def all_reached() -> bool:
            return all(
                member.arrivals and member.arrivals[-1][1] >= sent[member.group]
                for member in self.of(sent)
            )

        await until(all_reached, limit, PAUSE)

    async def noticed(self, groups: Collection[str], *, pairs: int = 1) -> None:
        """Wait until all members of groups got so many pairs of notices, at least."""

        def all_noticed() -> bool:
            return all(len(each.notices) >= 2 * pairs for each in self.of(groups))

        await until(all_noticed, LIMIT, PAUSE)

    async def send_until_received(
        self, group: str, member: Member, number: int
    ) -> None:
        """Send a number to a group until it has reached a member."""
        while all(received != number for _, received in member.arrivals):
            with contextlib.suppress(RedisUnavailable):
                message = {"type": "number", "number": number}
                await self.sender.group_send(group, message)
            await asyncio.sleep(PACE)
        member.arrivals = [each for each in member.arrivals if each[1] >= 0]

    def check(self) -> None:
        """Check that messages came in order and once, and notices in turn."""
        for member in self.members:
            # A node that was frozen publishes the others later.
            numbers = [
                number
                for _, number in member.arrivals
                if (member.group, number) in self._acknowledged
            ]
            assert numbers == sorted({*numbers})
            pairs = len(member.notices) // 2
            assert member.notices == ["gone", "back"] * pairs

    async def stop(self) -> None:
        self._sends = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for member in self.members:
            await member.layer.delete_channel(member.channel)
        for layer in (*self.layers, self.sender):
            await layer.close()
            held = layer.statistics()
            left = {name: held[name] for name in ("channels", "groups", "waiting")}
            assert not any(left.values()), f"{layer!r} still holds {left}"


@contextlib.asynccontextmanager
async def crowd_in(cluster: RedisCluster, prefix: str) -> AsyncGenerator[Crowd]:
    """Send and receive in the block, and check what came."""
    crowd = Crowd(cluster, prefix)
    try:
        await crowd.start()
        await crowd.reached()
        yield crowd
        await crowd.reached()
        crowd.check()
    finally:
        await crowd.stop()


def stall(members: Collection[Member], since: float) -> float:
    """Return the longest silence of members who are not affected.

    What a busy machine delays, it delays for all.
    """
    return max(member.silence(since) for member in members)


async def check_moves(
    crowd: Crowd, move: Callable[[int], None], times: int = 1
) -> None:
    """Move the slots of all groups, and check what each move interrupts."""
    moves = dict.fromkeys(GROUPS, 0)
    for slot, groups in [*crowd.slots().items()] * times:
        others = crowd.of({*GROUPS}.difference(groups))
        lost = [*map(Member.lost, others)]
        began = time.monotonic()
        await asyncio.to_thread(move, slot)
        for group in groups:
            moves[group] += 1
        await crowd.noticed(groups, pairs=moves[groups[0]])
        await crowd.reached(groups)
        limit = SILENCE + stall(others, began)
        assert all(member.silence(began) < limit for member in crowd.of(groups))
        assert [*map(Member.lost, others)] == lost


async def test_slots_move(
    redis_cluster: RedisCluster, cluster_prefix: str, storm: Storm
) -> None:
    """A slot that moves is silent for a moment, and no other slot of its node is."""
    async with crowd_in(redis_cluster, cluster_prefix) as crowd:
        move = functools.partial(move_anywhere, redis_cluster)
        await check_moves(crowd, move, storm(short=1, full=20))


async def test_slots_move_atomically(
    valkey_binary: ServerBinary, cluster_prefix: str, storm: Storm
) -> None:
    """Valkey moves whole slots at once; nothing differs."""
    with RedisCluster(valkey_binary) as cluster:

        def move(slot: int) -> None:
            source = cluster.owner(slot)
            others = [node for node in cluster.masters() if node is not source]
            cluster.migrate_slots(range(slot, slot + 1), random.choice(others))

        async with crowd_in(cluster, cluster_prefix) as crowd:
            await check_moves(crowd, move, storm(short=1, full=10))


async def test_planned_failover(own_redis_cluster: RedisCluster, storm: Storm) -> None:
    """Messages arrive again within 0.5 s, none twice; other nodes are not affected."""
    cluster = own_redis_cluster
    async with crowd_in(cluster, "shop") as crowd:
        for _ in range(storm(short=2, full=20)):
            master = random.choice(cluster.masters())
            groups = crowd.groups_at(master)
            others = crowd.of({*GROUPS}.difference(groups))
            lost = [*map(Member.lost, others)]
            await asyncio.to_thread(cluster.fail_over, cluster.replica(master))
            began = time.monotonic()
            await crowd.reached(groups)
            took = time.monotonic() - began
            await crowd.noticed(groups)
            assert took < AFTER_FAILOVER + stall(others, began)
            assert [*map(Member.lost, others)] == lost
            await asyncio.to_thread(cluster.wait_until_whole)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_master_is_gone(
    own_redis_cluster: RedisCluster, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages arrive again soon after the election; other nodes are not affected."""
    cluster = own_redis_cluster
    async with crowd_in(cluster, "shop") as crowd:
        master = cluster.masters()[0]
        groups = crowd.groups_at(master)
        others = crowd.of({*GROUPS}.difference(groups))
        lost = [*map(Member.lost, others)]
        (master.kill if how == "killed" else master.pause)()
        await asyncio.to_thread(cluster.wait_for_new_master, master)
        await crowd.reached(groups, AFTER_ELECTION)
        await crowd.noticed(groups)
        assert [*map(Member.lost, others)] == lost
        await asyncio.to_thread(cluster.heal)
    listened = [text for text in caplog.messages if "reached" not in text]
    began = [text for text in listened if "cannot be listened to: " in text]
    # A frozen node can be replaced before a layer has noticed its silence.
    assert len(began) == 3 or how == "frozen"
    assert listened == began + [f"{master.url}/0 has been replaced"] * len(began)


async def test_connections_are_killed(
    redis_cluster: RedisCluster, cluster_prefix: str, storm: Storm
) -> None:
    """However often they are, all groups are heard in the end."""
    async with crowd_in(redis_cluster, cluster_prefix) as crowd:
        for _ in range(storm(short=8, full=300)):
            await asyncio.to_thread(redis_cluster.kill_clients)
            await asyncio.sleep(random.uniform(0, 0.2))
        # Connections that had worked were killed.
        assert all(layer.statistics()["reconnects"] for layer in crowd.layers)


async def test_node_and_its_replica_are_gone(redis_binary: ServerBinary) -> None:
    """Names of other nodes are heard; joining does not wait for the others for long."""
    with RedisCluster(redis_binary, node_timeout=1, full_coverage=False) as cluster:
        async with crowd_in(cluster, "shop") as crowd:
            dead = cluster.masters()[0]
            groups = crowd.groups_at(dead)
            others = {*GROUPS}.difference(groups)
            lost = [*map(Member.lost, crowd.of(others))]
            cluster.replica(dead).kill()
            dead.kill()
            await crowd.reached(others)
            member = crowd.members[0]
            new = [f"new{number}" for number in range(12)]
            for group in new:
                async with asyncio.timeout(3):
                    await member.layer.group_add(group, member.channel)
            await crowd.reached(others)
            assert [*map(Member.lost, crowd.of(others))] == lost
            await asyncio.to_thread(cluster.heal)
            await crowd.noticed(groups)
            for number, group in enumerate(new):
                await crowd.send_until_received(group, member, -1 - number)


async def test_whole_cluster_is_down(redis_binary: ServerBinary) -> None:
    """All names are heard again when it is back."""
    with RedisCluster(redis_binary, node_timeout=1) as cluster:
        async with crowd_in(cluster, "shop") as crowd:
            for node in cluster.nodes:
                node.kill()
            member = crowd.members[0]
            async with asyncio.timeout(3):
                await member.layer.group_add("new", member.channel)
            await asyncio.to_thread(cluster.heal)
            await crowd.noticed(GROUPS)
            await crowd.send_until_received("new", member, -1)


async def test_members_come_and_go_while_slots_move(
    redis_cluster: RedisCluster, cluster_prefix: str, storm: Storm
) -> None:
    """Every member gets messages in the end, and no subscription is left behind."""
    async with crowd_in(redis_cluster, cluster_prefix) as crowd:
        layer = crowd.layers[0]
        going = True

        async def come_and_go() -> None:
            while going:
                member = Member(layer, random.choice(GROUPS), await layer.new_channel())
                receiving = asyncio.create_task(member.receive())
                await layer.group_add(member.group, member.channel)
                await until(lambda: member.arrivals, LIMIT, PAUSE)  # noqa: B023 # at once
                receiving.cancel()
                await asyncio.wait([receiving])
                await layer.delete_channel(member.channel)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(come_and_go())
            for slot in [*crowd.slots()] * storm(short=1, full=20):
                await asyncio.to_thread(move_anywhere, redis_cluster, slot)
            going = False
    await until(lambda: not shard_channels(redis_cluster, cluster_prefix), pause=PAUSE)


def shard_channels(cluster: RedisCluster, prefix: str) -> list[Reply]:
    """Return the shard channels of a layer that are listened to."""
    replies = cluster.command("PUBSUB", "SHARDCHANNELS", f"{prefix}{{*")
    return [name for reply in replies if isinstance(reply, list) for name in reply]
