"""The queue layer on Redis Clusters of every kind."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers import (
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    SyncChannelLayer,
)
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.cluster import RedisCluster
from tests.redis_servers.server import RedisServer
from tests.redis_servers.tls import TLS_HOST

from .slots import documented_users, move_anywhere, pubsub_slot_of, slot_of

MESSAGE = {"type": "test.message"}
PREFIX = "shop"


@contextlib.asynccontextmanager
async def layers_of(
    cluster: RedisCluster, **options: Any
) -> AsyncGenerator[tuple[RedisChannelLayer, RedisChannelLayer]]:
    """Return the layers of two processes, which know one node each."""
    options.setdefault("prefix", PREFIX)
    first, second, *_ = cluster.urls
    async with (
        RedisChannelLayer(cluster=[first], **options) as one,
        RedisChannelLayer(cluster=[second], **options) as other,
    ):
        yield one, other


async def exchange(one: RedisChannelLayer, other: RedisChannelLayer) -> None:
    """Send messages of every kind, to names in many slots."""
    channel = await one.new_channel()
    for number in range(12):
        await one.group_add(f"room{number}", channel)
    for number in range(12):
        await other.group_send(f"room{number}", {**MESSAGE, "number": number})
        assert await one.receive(channel) == {**MESSAGE, "number": number}
    for number in range(12):
        await other.send(f"jobs{number}", MESSAGE)
        assert await one.receive(f"jobs{number}") == MESSAGE
        await one.group_discard(f"room{number}", channel)
    await other.send(channel, MESSAGE)
    assert await one.receive(channel) == MESSAGE
    await one.delete_channel(channel)


KINDS: dict[str, dict[str, Any]] = {
    "with a password": {"password": "secret"},
    "with hostnames": {"hostname": "localhost", "endpoint": "hostname"},
    "with unknown endpoints": {"endpoint": "unknown-endpoint"},
    "on IPv6": {"host": "::1"},
    "with TLS": {"tls": True},
}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_cluster(redis_binary: ServerBinary, kind: str) -> None:
    """Nodes are found by the names that they announce, also those that redirect."""
    cluster = RedisCluster(redis_binary, **KINDS[kind])
    options: dict[str, Any] = {}
    with cluster:
        if cluster.certificate is not None:
            path = str(cluster.certificate.path)
            options["connection_kwargs"] = {"ssl_ca_certs": path}
            assert all(TLS_HOST in url for url in cluster.urls)
        async with layers_of(cluster, **options) as (one, other):
            await exchange(one, other)
            channel = await one.new_channel()
            for number in range(12):
                await one.group_add(f"room{number}", channel)
            for number in range(12):
                slot = slot_of(one, f"room{number}")
                await asyncio.to_thread(move_anywhere, cluster, slot)
                await other.group_send(f"room{number}", MESSAGE)
                assert await one.receive(channel) == MESSAGE
            await one.delete_channel(channel)
        await check_pubsub(cluster, **options)


async def check_pubsub(cluster: RedisCluster, **options: Any) -> None:
    """Check that messages of the pub/sub layer arrive, also when slots have moved."""
    first, second, *_ = cluster.urls
    options["prefix"] = PREFIX
    async with (
        RedisPubSubChannelLayer(cluster=[first], on_reconnect="back", **options) as one,
        RedisPubSubChannelLayer(cluster=[second], **options) as other,
    ):
        channel = await one.new_channel()
        await other.send(channel, MESSAGE)
        assert await one.receive(channel) == MESSAGE
        for number in range(6):
            await one.group_add(f"room{number}", channel)
            slot = pubsub_slot_of(one, f"room{number}")
            await asyncio.to_thread(move_anywhere, cluster, slot)
            assert await one.receive(channel) == {"type": "back"}
            await other.group_send(f"room{number}", MESSAGE)
            assert await one.receive(channel) == MESSAGE
        await one.delete_channel(channel)


async def test_one_node_is_enough_to_find_the_others(
    redis_cluster: RedisCluster, cluster_prefix: str
) -> None:
    """Nodes that cannot be reached are passed over."""
    urls = ["redis://127.0.0.1:1", redis_cluster.urls[4]]
    async with RedisChannelLayer(cluster=urls, prefix=cluster_prefix) as layer:
        await exchange(layer, layer)


@pytest.fixture
def limited(
    redis_cluster: RedisCluster,
) -> Iterator[Callable[[str], list[str]]]:
    """Make a user who lacks some rights, and return the URLs of the nodes for it."""

    def limit(missing: str) -> list[str]:
        words = [word for word in documented_users()[0] if word != missing]
        redis_cluster.command("ACL", "SETUSER", PREFIX, *words)
        return [
            url.replace("redis://", f"redis://{PREFIX}:secret@")
            for url in redis_cluster.urls
        ]

    yield limit
    redis_cluster.command("ACL", "DELUSER", PREFIX)
    redis_cluster.delete_keys(PREFIX)


@pytest.mark.parametrize(
    ("missing", "logged"),
    [
        ("", ""),
        ("+ssubscribe", "refuses to report that slots move to other nodes"),
        ("+client|tracking", "refuses to report changes of queues"),
    ],
    ids=["all rights", "no SSUBSCRIBE", "no CLIENT TRACKING"],
)
async def test_access_lists(
    limited: Callable[[str], list[str]],
    redis_cluster: RedisCluster,
    caplog: pytest.LogCaptureFixture,
    missing: str,
    logged: str,
) -> None:
    """The documented rights are enough; without some, the layer does with less."""
    urls = limited(missing)
    async with RedisChannelLayer(cluster=urls, prefix=PREFIX) as layer:
        await exchange(layer, layer)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        receiving = asyncio.create_task(layer.receive(channel))
        await layer.group_send("room", MESSAGE)
        assert await receiving == MESSAGE
        # Its queue is empty now, and its slot moves.
        receiving = asyncio.create_task(layer.receive(channel))
        slot = slot_of(layer, channel)
        await asyncio.to_thread(move_anywhere, redis_cluster, slot)
        await layer.group_send("room", MESSAGE)
        async with asyncio.timeout(5):
            assert await receiving == MESSAGE
        await layer.flush()
        await layer.delete_channel(channel)
    assert redis_cluster.keys(f"{PREFIX}{{") == []
    records = [record.getMessage() for record in caplog.records]
    if logged:
        # Once, for all shards of the cluster.
        (record,) = records
        assert logged in record
    else:
        assert records == []


async def test_plain_host_that_is_a_node_says_what_to_write(
    redis_cluster: RedisCluster, cluster_prefix: str
) -> None:
    """A layer for hosts cannot use a cluster, and names the option that can."""
    hosts = redis_cluster.urls[:1]
    async with RedisChannelLayer(hosts=hosts, prefix=cluster_prefix) as layer:
        channel = await layer.new_channel()
        with pytest.raises(RedisUnavailable, match=r"write cluster=\[\.\.\.\]"):
            await layer.group_send("room", MESSAGE)
        await layer.delete_channel(channel)


async def test_server_that_is_no_node_says_what_to_write(
    redis_server: RedisServer,
) -> None:
    """The opposite mistake."""
    async with RedisChannelLayer(cluster=[redis_server.url]) as layer:
        with pytest.raises(RedisUnavailable, match=r"write hosts=\[\.\.\.\]"):
            await layer.send("jobs", MESSAGE)


async def test_slots_without_a_master_affect_no_others(
    redis_binary: ServerBinary,
) -> None:
    """A cluster that does not need all slots goes on with those that it has."""
    timeout = {"connection_kwargs": {"socket_timeout": 1}}
    with RedisCluster(redis_binary, full_coverage=False) as cluster:
        async with layers_of(cluster, **timeout) as (one, other):
            dead = cluster.nodes[0]
            names = [f"jobs{number}" for number in range(40)]
            lost = [each for each in names if cluster.owner(slot_of(one, each)) is dead]
            assert 5 < len(lost) < 25
            for name in names:
                await other.send(name, MESSAGE)
                assert await one.receive(name) == MESSAGE
            cluster.replica(dead).kill()
            dead.kill()
            for name in names[:12]:
                if name not in lost:
                    await other.send(name, MESSAGE)
                    assert await one.receive(name) == MESSAGE
            with pytest.raises(RedisUnavailable):
                await other.send(lost[0], MESSAGE)
            await asyncio.to_thread(cluster.heal)
            await until_sent(other, lost[0])
            assert await one.receive(lost[0]) == MESSAGE


async def until_sent(layer: RedisChannelLayer, channel: str) -> None:
    """Send a message as soon as Redis accepts it."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(RedisUnavailable):
                await layer.send(channel, MESSAGE)
                return


async def test_flush_deletes_its_prefix_and_no_other(
    redis_cluster: RedisCluster, cluster_prefix: str
) -> None:
    """Keys of other prefixes are kept, even of those that begin with this one."""
    cluster = redis_cluster.urls
    async with (
        RedisChannelLayer(cluster=cluster, prefix=cluster_prefix) as layer,
        RedisChannelLayer(cluster=cluster, prefix=f"{cluster_prefix}2") as longer,
    ):
        for each in (layer, longer):
            for number in range(10):
                await each.send(f"jobs{number}", MESSAGE)
        await layer.flush()
        assert redis_cluster.keys(cluster_prefix + "{") == []
        for number in range(10):
            assert await longer.receive(f"jobs{number}") == MESSAGE
        await longer.flush()


async def test_work_survives_its_worker(
    redis_cluster: RedisCluster, cluster_prefix: str
) -> None:
    """Messages of a plain channel that were not handled go back when a layer closes."""
    cluster = redis_cluster.urls
    async with RedisChannelLayer(cluster=cluster, prefix=cluster_prefix) as other:
        async with RedisChannelLayer(cluster=cluster, prefix=cluster_prefix) as layer:
            await other.send("jobs", MESSAGE)
            delivery = await layer.take("jobs")
            assert delivery.message == MESSAGE
        delivery = await other.take("jobs")
        assert delivery.message == MESSAGE
        delivery.acknowledge()
        assert await other.dead_letters("jobs") == []
        assert await other.requeue_dead_letters("jobs") == 0


def test_event_loops_one_after_the_other(
    redis_cluster: RedisCluster, cluster_prefix: str
) -> None:
    """A script sends from many event loops, and leaves nothing open."""
    layer = RedisChannelLayer(cluster=redis_cluster.urls, prefix=cluster_prefix)
    for number in range(3):
        asyncio.run(layer.send("jobs", {**MESSAGE, "number": number}))
    for number in range(3):
        received = asyncio.run(layer.receive("jobs"))
        assert received == {**MESSAGE, "number": number}
    with SyncChannelLayer(layer) as blocking:
        blocking.send("jobs", MESSAGE)
    assert asyncio.run(layer.receive("jobs")) == MESSAGE
    asyncio.run(layer.close())
