"""The servers of a layer, and the server that a name leads to."""

import asyncio
from typing import Any

import pytest

from fast_channels.layers.redis.hosts import parse_hosts
from fast_channels.layers.redis.sharding import shard_of
from fast_channels.layers.redis.shards import (
    ClusterShards,
    Shard,
    Shards,
    open_shards,
)
from fast_channels.layers.redis.wire import slot_of
from tests.waiting import until

from .fake_cluster import A, B, FakeCluster
from .fake_hosts import FakeHosts
from .pubsub.fake_pubsub import FakePubSub

HOSTS = ["redis://one", {"host": "two", "socket_timeout": 0.5}, "redis://three"]
SENTINELS = [
    {"sentinels": [("127.0.0.1", 26379)], "master_name": name} for name in ("a", "b")
]


@pytest.fixture(autouse=True)
def hosts(monkeypatch: pytest.MonkeyPatch) -> FakeHosts[FakePubSub]:
    """Give every shard that is opened from now on a fake server."""
    return FakeHosts(monkeypatch, FakePubSub)


def never(shard: Shard) -> None:
    pytest.fail(f"{shard.name} has another master")


def opened(*spellings: Any) -> Shards:
    return open_shards(parse_hosts(spellings), "asgi", never, never)


async def test_hosts_become_shards_in_their_order() -> None:
    """Each has a name for error messages, and its own timeout if the host has one."""
    assert [(shard.name, shard.timeout) for shard in opened(*HOSTS)] == [
        ("redis://one:6379/0", 5),
        ("redis://two:6379/0", 0.5),
        ("redis://three:6379/0", 5),
    ]


async def test_a_name_leads_to_the_same_shard_in_every_process() -> None:
    """It is the shard that shard_of() returns."""
    shards = opened(*HOSTS)
    in_order = [*shards]
    names = [f"room{number}" for number in range(100)]
    assert {*map(shards.of, names)} == {*in_order}
    for name in names:
        assert shards.of(name) is in_order[shard_of(name, 3)]


async def test_plain_channels_use_the_shards_in_turn() -> None:
    """The first message goes to the first host, and the fourth again."""
    shards = opened(*HOSTS)
    assert [shards.in_turn("jobs", number) for number in range(6)] == [*shards, *shards]


async def test_shards_connect_when_they_are_used(hosts: FakeHosts[FakePubSub]) -> None:
    """close() closes the connections; the shards can be used again."""
    shards = opened(*HOSTS)
    assert not hosts.servers
    for _ in range(2):
        for shard in shards:
            assert await shard.commands.execute("PUBLISH", "room", b"") == 0
        assert [len(server.open) for server in hosts.servers.values()] == [1, 1, 1]
        await shards.close()
        assert [server.open for server in hosts.servers.values()] == [[], [], []]


async def test_plain_hosts_are_not_watched(hosts: FakeHosts[FakePubSub]) -> None:
    """Only Sentinels report that another server has become the master."""
    shards = opened(*HOSTS)
    shards.settled_at = -1
    shards.watch_if_settled()
    shards.watch()
    assert hosts.watches == []


async def test_masters_are_watched_until_the_shards_are_closed(
    hosts: FakeHosts[FakePubSub],
) -> None:
    """watch() starts the watches of all shards."""
    shards = opened(*SENTINELS)
    assert [watch.started for watch in hosts.watches] == [False, False]
    shards.watch()
    assert [watch.started for watch in hosts.watches] == [True, True]
    await shards.close()
    assert [watch.closed for watch in hosts.watches] == [True, True]


async def test_masters_are_not_watched_for_a_process_that_only_sends_once(
    hosts: FakeHosts[FakePubSub],
) -> None:
    """watch_if_settled() starts the watches a second after the shards were opened."""
    shards = opened(*SENTINELS)
    assert 0 < shards.settled_at - asyncio.get_running_loop().time() <= 1
    shards.watch_if_settled()
    assert [watch.started for watch in hosts.watches] == [False, False]
    shards.settled_at = -1
    shards.watch_if_settled()
    assert [watch.started for watch in hosts.watches] == [True, True]


async def test_new_master_gets_a_new_connection(hosts: FakeHosts[FakePubSub]) -> None:
    """The command connection is dropped, and the layer drops its own connections."""
    switched: list[Shard] = []
    shards = open_shards(parse_hosts(SENTINELS), "asgi", switched.append, never)
    for shard in shards:
        await shard.commands.execute("PUBLISH", "room", b"")
    first, second = hosts.servers.values()
    hosts.watches[1].switched()
    _, other = shards
    assert switched == [other]
    await until(lambda: not second.open)
    assert len(first.open) == 1
    await other.commands.execute("PUBLISH", "room", b"")
    assert len(second.open) == 1
    await shards.close()


# A cluster


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    return FakeCluster(monkeypatch)


class Noticed:
    """The shards of a cluster with two nodes, and the notices about them."""

    def __init__(self, fake: FakeCluster, prefix: str = "asgi") -> None:
        self.switched: list[Shard] = []
        self.lost: list[Shard] = []
        hosts = parse_hosts(
            None,
            cluster=["redis://a:7000", "redis://b:7000"],
            connection_kwargs={"socket_timeout": 3},
        )
        shards = open_shards(hosts, prefix, self.switched.append, self.lost.append)
        assert isinstance(shards, ClusterShards)
        self.shards = shards
        slots = [slot_of(shard.prefix) for shard in shards]
        fake.owners = {slot: A if slot < 8192 else B for slot in slots}


async def test_a_cluster_has_a_shard_in_each_64th_of_its_slots(
    fake: FakeCluster,
) -> None:
    """Their prefixes are the same in every process, and in every version."""
    noticed = Noticed(fake)
    shards = [*noticed.shards]
    slots = [slot_of(shard.prefix) for shard in shards]
    assert len(shards) == len({*slots}) == 64
    prefixes = [f"asgi{{{tag}}}" for tag in (10, 18, 113, 342)]
    assert [shard.prefix for shard in shards[:4]] == prefixes
    for shard, slot in zip(shards, slots, strict=True):
        assert shard.name == (f"slot {slot} of cluster redis://a:7000,b:7000")
        assert shard.tripwire == shard.prefix
        assert shard.timeout == 3
    # Not in the order of slots, but the same.
    assert sorted(slot // 256 for slot in slots) == [*range(64)]


async def test_all_keys_for_a_name_are_in_one_slot(fake: FakeCluster) -> None:
    """Groups and queues are spread over all slots."""
    shards = Noticed(fake).shards
    names = [f"room{number}" for number in range(1000)]
    assert {*map(shards.of, names)} == {*shards}
    for name in names[:100]:
        shard = shards.of(name)
        assert shards.in_turn(name, 1) is shards.in_turn(name, 2) is shard
        assert shards.holding(name) == (shard,)
        assert shard.prefix == f"asgi{{{shard.prefix[5:-1]}}}"


async def test_a_hash_tag_in_the_prefix_keeps_a_layer_in_one_slot(
    fake: FakeCluster,
) -> None:
    noticed = Noticed(fake, "{app}")
    shards = [*noticed.shards]
    assert {slot_of(shard.prefix) for shard in shards} == {slot_of("{app}")}
    assert len({shard.prefix for shard in shards}) == 64
    noticed.shards.cluster.topology.moved(slot_of("{app}"), B)
    noticed.shards.cluster.topology.moved(slot_of("{app}"), A)
    assert noticed.switched == shards
    await noticed.shards.close()


async def test_commands_and_connections_lead_to_the_master_of_a_slot(
    fake: FakeCluster,
) -> None:
    noticed = Noticed(fake)
    low, high = (
        next(
            shard
            for shard in noticed.shards
            if fake.owners[slot_of(shard.prefix)] == to
        )
        for to in (A, B)
    )
    slot = slot_of(high.prefix)
    assert await low.commands.execute("GET", slot_of(low.prefix)) == (
        f"a: GET {slot_of(low.prefix)}"
    )
    connection = high.connect()
    await connection.connect()
    assert sorted(fake.open) == [A, B]
    fake.owners[slot] = A
    assert high.broken(fake.redirection("MOVED", slot, A))
    assert noticed.switched == [high]
    fake[A].cut()
    await until(lambda: noticed.lost)
    assert high in noticed.lost
    assert low in noticed.lost
    await connection.disconnect(nowait=True)
    await noticed.shards.close()
    assert fake.open == []


async def test_all_keys_of_a_prefix_are_found_on_all_masters(
    fake: FakeCluster,
) -> None:
    """Keys that only look similar are left out."""
    noticed = Noticed(fake)
    first, second, *_ = noticed.shards
    keys = {
        A: [first.prefix + ":group:x", first.prefix + "jobs", "asgi{nonsense}jobs"],
        B: [second.prefix + "jobs", "asgi{", second.prefix],
    }
    for address, held in keys.items():
        fake[address].keys = held
    found = {shard: names for shard, names in await noticed.shards.find() if names}
    assert {shard: sorted(names) for shard, names in found.items()} == {
        first: [f"{first.prefix}:group:x".encode(), f"{first.prefix}jobs".encode()],
        second: [second.prefix.encode(), f"{second.prefix}jobs".encode()],
    }
    patterns = {words[3] for words in fake[A].asked("SCAN")}
    assert patterns == {"asgi{*"}
    await noticed.shards.close()
