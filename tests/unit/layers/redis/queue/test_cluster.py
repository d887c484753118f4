"""A queue layer on a Redis Cluster."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import MovedError

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.layers.redis.cluster import Cluster
from fast_channels.layers.redis.queue.endpoint import QueueEndpoint
from fast_channels.layers.redis.queue.group_writer import Timing
from fast_channels.layers.redis.scripts import GROUP_ADD, SEND
from fast_channels.layers.redis.shards import ClusterShards, Shard
from fast_channels.layers.redis.wire import ResponseError, slot_of
from tests.unit.layers.redis.fake_cluster import TIMING, FakeCluster, lead_to
from tests.unit.layers.redis.fake_hosts import FakeHosts
from tests.waiting import until

from .fake_redis import FakeRedis


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> FakeRedis:
    """Return the only node of the cluster."""
    server = FakeRedis()
    lead_to(lambda _: server.connect(), monkeypatch)
    monkeypatch.setattr(Cluster, "timing", TIMING)
    return server


@pytest.fixture
def layer() -> RedisChannelLayer:
    return RedisChannelLayer(cluster=["redis://a:7000"])


@pytest.fixture
async def endpoint(
    layer: RedisChannelLayer, server: FakeRedis
) -> AsyncIterator[QueueEndpoint]:
    endpoint = QueueEndpoint(layer, "me.1", group_expiry=60, max_deliveries=0)
    yield endpoint
    await endpoint.close()
    assert server.open == []


def shard_of(endpoint: QueueEndpoint, name: str) -> tuple[Shard, int]:
    shard = endpoint.shards.of(name)
    return shard, slot_of(shard.prefix)


def cluster_of(endpoint: QueueEndpoint) -> Cluster:
    assert isinstance(endpoint.shards, ClusterShards)
    return endpoint.shards.cluster


async def test_a_queue_is_read_from_its_slot_alone(
    endpoint: QueueEndpoint, server: FakeRedis
) -> None:
    """Its key has the hash tag of the slot, and no key marks the prefix as in use."""
    endpoint.want("jobs")
    shard, _ = shard_of(endpoint, "jobs")
    await until(lambda: server.takes)
    assert server.asked("SSUBSCRIBE") == [["SSUBSCRIBE", shard.prefix]]
    assert server.takes[0].keys[0] == f"{shard.prefix}jobs"
    await endpoint.run(shard, SEND, [f"{shard.prefix}jobs"], b"{}", 1, 60)
    assert not server.asked("SET")
    endpoint.unwant("jobs")


async def test_groups_are_written_to_the_new_master_of_their_slot(
    endpoint: QueueEndpoint, server: FakeRedis
) -> None:
    """A replica that has taken over may lack what was written last."""
    await endpoint.memberships.add("room", "x")
    _, slot = shard_of(endpoint, "room")
    adds = [script for script, _ in server.changes]
    assert adds == [GROUP_ADD]
    cluster_of(endpoint).topology.moved(slot, ("b", 7000))
    await until(lambda: len(server.changes) == 2)


async def test_a_slot_that_is_read_is_read_from_its_new_master(
    endpoint: QueueEndpoint, layer: RedisChannelLayer, server: FakeRedis
) -> None:
    """Its groups are written there too."""
    endpoint.want("room")
    await endpoint.memberships.add("room", "x")
    await until(lambda: server.takes)
    _, slot = shard_of(endpoint, "room")
    cluster_of(endpoint).topology.moved(slot, ("b", 7000))
    await until(lambda: layer.counters.reconnects)
    await until(lambda: len(server.changes) == 2)


async def test_groups_are_written_again_to_a_node_that_may_have_restarted(
    endpoint: QueueEndpoint, server: FakeRedis
) -> None:
    await endpoint.memberships.add("room", "x")
    server.cut()
    await until(lambda: len(server.changes) >= 2)


@pytest.mark.parametrize("how", ["unreachable", "silent"])
@pytest.mark.parametrize("first", [False, True])
async def test_a_layer_closes_soon_while_the_cluster_is_away(
    layer: RedisChannelLayer,
    server: FakeRedis,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    first: bool,
) -> None:
    """It leaves no task and no connection."""
    monkeypatch.setattr(QueueEndpoint, "timing", Timing(farewell=0.02, patience=0.001))
    before = asyncio.all_tasks()
    channel = await layer.new_channel()
    if not first:
        await layer.group_add("room", channel)
    server.unreachable, server.answers = how == "unreachable", how != "silent"
    server.cut()
    receiving = asyncio.create_task(layer.receive(channel))
    joining = asyncio.create_task(layer.group_add("lobby", channel))
    sending = asyncio.create_task(layer.send("jobs", {"type": "x"}))
    await asyncio.sleep(0.01)
    receiving.cancel()
    async with asyncio.timeout(3):
        await layer.close()
    results = await asyncio.gather(receiving, joining, sending, return_exceptions=True)
    assert isinstance(results[2], RedisUnavailable)
    assert results[1] is None
    await until(lambda: asyncio.all_tasks() == before)
    assert server.open == []


@pytest.mark.parametrize("layer_class", [RedisChannelLayer, RedisPubSubChannelLayer])
async def test_a_single_server_is_no_cluster(
    monkeypatch: pytest.MonkeyPatch, layer_class: Any
) -> None:
    """The first message says what to write instead, at once."""
    fake = FakeCluster(monkeypatch)
    for node in fake.nodes.values():
        node.refuses["CLUSTER"] = ResponseError(
            "This instance has cluster support disabled"
        )
    layer = layer_class(cluster=["redis://:hunter2@a:7000"])
    for _ in range(2):
        with pytest.raises(RedisUnavailable) as caught:
            await layer.group_send("room", {"type": "x"})
        assert str(caught.value) == (
            "cluster redis://:***@a:7000 is not available: no node answers "
            "(redis://:***@a:7000/0: it is not a node of a Redis Cluster; write "
            "hosts=[...] instead of cluster=[...])"
        )
    await layer.close()


async def test_a_node_of_a_cluster_is_no_single_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts = FakeHosts(monkeypatch, FakeRedis)
    layer = RedisChannelLayer(["redis://a"])
    for error in (MovedError("5 b:7000"), ResponseError("MOVED 5 b:7000")):
        hosts.of(layer)[0].refuses["EVALSHA"] = error
        with pytest.raises(
            RedisUnavailable,
            match=re.escape(
                "redis://a:6379/0 is not available: it is a node of a Redis Cluster; "
                "write cluster=[...] instead of hosts=[...] ("
            ),
        ):
            await layer.group_send("room", {"type": "x"})
    await layer.close()


@pytest.mark.parametrize("layer_class", [RedisChannelLayer, RedisPubSubChannelLayer])
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"hosts": ["redis://a"]}, "cluster= and hosts= cannot be given both; write c"),
        ({"sentinels": [("a", 1)]}, "cluster= and sentinels= cannot be given both"),
        ({"service_name": "m"}, "cluster= and service_name= cannot be given both"),
        ({"sentinel_kwargs": {}}, "cluster= and sentinel_kwargs= cannot be given both"),
        ({"cluster": []}, 'cluster must not be empty; write ["redis://host:6379"], or'),
        (
            {"cluster": "redis://:hunter2@a"},
            "cluster must be a list, not 'redis://:***",
        ),
        (
            {"cluster": ["redis://a/1"]},
            "redis://a:6379/1 has a db, but a Redis Cluster",
        ),
        ({"connection_kwargs": {"db": 1}}, "has only db 0; leave it out"),
        (
            {"cluster": ["unix:///a"]},
            "unix:///a?db=0 is not a node of a cluster; write",
        ),
        (
            {"cluster": [{"sentinels": [("a", 1)], "master_name": "m"}]},
            "is not a node of a cluster; write redis://node:6379",
        ),
        ({"prefix": "{}asgi"}, "prefix '{}asgi' begins with an empty hash tag, with w"),
        ({"prefix": "a{}{b}"}, "that belong together; leave out {}"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_a_cluster_are_refused(
    layer_class: Any, arguments: dict[str, Any], error: str
) -> None:
    """The error says what to write."""
    with pytest.raises((TypeError, ValueError), match=re.escape(error)):
        layer_class(**{"cluster": ["redis://a"], **arguments})


@pytest.mark.parametrize("prefix", ["{app}", "a{b}{}", "a{", "a}{", "{a"])
def test_other_braces_of_a_prefix_do_no_harm(prefix: str) -> None:
    """All keys of a shard have the slot of its prefix."""
    layer = RedisChannelLayer(cluster=["redis://a"], prefix=prefix)
    tagged = layer.prefix + "{17}"
    assert slot_of(tagged) == slot_of(tagged + ":group:{room}")
    # On a single server, a prefix is a str like any other.
    assert RedisChannelLayer(prefix="{}").prefix == "{}"
