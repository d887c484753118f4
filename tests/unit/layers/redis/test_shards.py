"""The servers of a layer, and the server that a name leads to."""

import asyncio
from typing import Any

import pytest

from fast_channels.layers.redis.hosts import parse_hosts
from fast_channels.layers.redis.sharding import shard_of
from fast_channels.layers.redis.shards import Shard, Shards, open_shards
from tests.waiting import until

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
