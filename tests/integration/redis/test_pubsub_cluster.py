"""The pub/sub layer on a Redis Cluster: what it asks of the nodes, and what it says."""

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fast_channels
from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers import RedisPubSubChannelLayer, SyncChannelLayer
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.cluster import RedisCluster
from tests.redis_servers.cluster_node import ClusterNode
from tests.waiting import PAUSE, until

from .peer import PeerProcess
from .slots import documented_users

MESSAGE = {"type": "test.message"}
GROUPS = [f"room{number}" for number in range(40)]


@contextlib.asynccontextmanager
async def layer_in(
    cluster: RedisCluster | list[str], prefix: str, **options: Any
) -> AsyncGenerator[RedisPubSubChannelLayer]:
    """Open the layer of one process, which must be empty in the end."""
    urls = cluster if isinstance(cluster, list) else cluster.urls[:2]
    async with RedisPubSubChannelLayer(cluster=urls, prefix=prefix, **options) as layer:
        yield layer
        held = layer.statistics()
        assert (held["channels"], held["groups"], held["waiting"]) == (0, 0, 0)


async def exchange(
    one: RedisPubSubChannelLayer, other: RedisPubSubChannelLayer
) -> None:
    """Send messages of every kind, to names in many slots."""
    channel = await one.new_channel()
    await asyncio.gather(*[one.group_add(group, channel) for group in GROUPS])
    for group in GROUPS:
        await other.group_send(group, {**MESSAGE, "group": group})
        assert await one.receive(channel) == {**MESSAGE, "group": group}
    for own in (channel, await one.new_channel("an!other")):
        await other.send(own, MESSAGE)
        assert await one.receive(own) == MESSAGE
        await one.delete_channel(own)
    for plain in ("jobs", "jobs!fast"):
        receiving = asyncio.create_task(one.receive(plain))
        while not receiving.done():
            await other.send(plain, MESSAGE)
            await asyncio.wait([receiving], timeout=PAUSE)
        assert await receiving == MESSAGE
        await one.delete_channel(plain)


def shard_channels(node: ClusterNode, prefix: str) -> list[str]:
    """Return the shard channels of a layer that are listened to at a node."""
    reply = node.command("PUBSUB", "SHARDCHANNELS", f"{prefix}{{*")
    assert isinstance(reply, list)
    return [name.decode() for name in reply if isinstance(name, bytes)]


def listeners(node: ClusterNode) -> int:
    """Return the number of connections that listen at a node."""
    reply = node.command("CLIENT", "LIST", "TYPE", "PUBSUB")
    assert isinstance(reply, bytes)
    return len(reply.splitlines())


async def test_each_node_has_one_connection_of_each_process(
    redis_cluster: RedisCluster, cluster_prefix: str
) -> None:
    """It serves all names, and ends with the last node's name; nothing is left."""
    before = [listeners(node) for node in redis_cluster.nodes]
    async with layer_in(redis_cluster, cluster_prefix) as layer:
        channel = await layer.new_channel()
        await asyncio.gather(*[layer.group_add(group, channel) for group in GROUPS])
        heard: list[str] = []
        for node in redis_cluster.masters():
            heard += shard_channels(node, cluster_prefix)
        after = [listeners(node) for node in redis_cluster.nodes]
        assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 0, 0, 0]
        assert len(heard) == len(GROUPS) + 1
        names = {name[name.index("}") + 1 :] for name in heard}
        own, _, _ = channel.rpartition("!")
        groups = {f"{cluster_prefix}__group__{group}" for group in GROUPS}
        assert names == {f"{own}!", *groups}
        await layer.delete_channel(channel)
        await until(
            lambda: (
                sum(
                    len(shard_channels(node, cluster_prefix))
                    for node in redis_cluster.masters()
                )
                == 1
            ),
            pause=PAUSE,
        )


@pytest.mark.parametrize("options", [{}, {"symmetric_encryption_keys": ["secret"]}])
async def test_processes(
    redis_cluster: RedisCluster, cluster_prefix: str, options: dict[str, Any]
) -> None:
    """Messages reach other processes, encrypted or not."""
    folder = Path(fast_channels.__file__).parents[1]
    python = Path(sys.executable)
    shared = {"prefix": cluster_prefix, "cluster": redis_cluster.urls, **options}
    with contextlib.closing(PeerProcess(python, folder)) as process:
        async with (
            layer_in(redis_cluster, **{"prefix": cluster_prefix, **options}) as layer,
            process.layer("our pubsub", **shared) as peer,
        ):
            channel = await layer.new_channel()
            theirs = await peer.new_channel()
            for group in GROUPS[:5]:
                await layer.group_add(group, channel)
                await peer.group_add(group, theirs)
                for sender in (layer.group_send, peer.group_send):
                    await sender(group, {**MESSAGE, "group": group})
                    for receive, own in (
                        (layer.receive, channel),
                        (peer.receive, theirs),
                    ):
                        assert await receive(own) == {**MESSAGE, "group": group}
            await layer.send(theirs, MESSAGE)
            assert await peer.receive(theirs) == MESSAGE
            await peer.send(channel, MESSAGE)
            assert await layer.receive(channel) == MESSAGE
            await layer.delete_channel(channel)


def test_event_loops_one_after_the_other(
    redis_cluster: RedisCluster, cluster_prefix: str
) -> None:
    """A script sends from many event loops, and leaves nothing open."""
    layer = RedisPubSubChannelLayer(cluster=redis_cluster.urls, prefix=cluster_prefix)

    async def receive_own() -> None:
        channel = await layer.new_channel()
        await layer.send(channel, MESSAGE)
        assert await layer.receive(channel) == MESSAGE
        await layer.delete_channel(channel)

    for _ in range(3):
        asyncio.run(layer.group_send("room", MESSAGE))
        asyncio.run(receive_own())
    with SyncChannelLayer(layer) as blocking:
        blocking.send("jobs", MESSAGE)
    asyncio.run(layer.close())


# What the layer is not allowed


@pytest.fixture
def limited(
    redis_cluster: RedisCluster, cluster_prefix: str
) -> Iterator[Callable[[str], list[str]]]:
    """Make a user who lacks a right, and return the URLs of the nodes for it."""

    def limit(missing: str) -> list[str]:
        words = [
            word.replace("shop", cluster_prefix)
            for word in documented_users()[1]
            if word != missing
        ]
        redis_cluster.command("ACL", "SETUSER", cluster_prefix, *words)
        return [
            url.replace("redis://", f"redis://{cluster_prefix}:secret@")
            for url in redis_cluster.urls
        ]

    yield limit
    redis_cluster.command("ACL", "DELUSER", cluster_prefix)


async def test_documented_rights_are_enough(
    limited: Callable[[str], list[str]],
    cluster_prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is logged."""
    async with layer_in(limited(""), cluster_prefix) as layer:
        await exchange(layer, layer)
    assert caplog.messages == []


async def test_refused_subscriptions_say_what_to_allow(
    limited: Callable[[str], list[str]],
    cluster_prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says so once for each node, and joining does not wait for it."""
    async with layer_in(limited("+ssubscribe"), cluster_prefix) as layer:
        async with asyncio.timeout(5):
            channel = await layer.new_channel()
            await layer.group_add("room", channel)
        await layer.delete_channel(channel)
    allow = (
        f"allow +ssubscribe, +sunsubscribe, +spublish and &{cluster_prefix}".replace(
            "-", r"\-"
        )
    )
    assert 1 <= len(caplog.messages) <= 2
    for message in caplog.messages:
        assert f"cannot be listened to: {allow}{{* (" in message


async def test_servers_without_shard_channels_say_what_to_use(
    redis_binary: ServerBinary, caplog: pytest.LogCaptureFixture
) -> None:
    """The log and the exceptions name the versions that have them."""
    hidden = [
        word
        for command in ("SSUBSCRIBE", "SPUBLISH")
        for word in ("--rename-command", command, "")
    ]
    needs = "in a cluster, the pub/sub layer needs Redis 7 or Valkey"
    with RedisCluster(redis_binary, options=hidden) as cluster:
        async with layer_in(cluster, "shop") as layer:
            async with asyncio.timeout(5):
                channel = await layer.new_channel()
            with pytest.raises(RedisUnavailable, match=needs):
                await layer.send(channel, MESSAGE)
            await layer.delete_channel(channel)
    [message] = caplog.messages
    assert f"cannot be listened to: {needs}" in message


async def test_plain_host_that_is_a_node_says_what_to_write(
    redis_cluster: RedisCluster,
    cluster_prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log does for listening, and an exception for sending."""
    hosts = redis_cluster.urls[:1]
    async with RedisPubSubChannelLayer(hosts, cluster_prefix) as layer:
        channel = await layer.new_channel()
        for sending in (layer.send(channel, MESSAGE), layer.group_send("a", MESSAGE)):
            with pytest.raises(RedisUnavailable, match=r"write cluster=\[\.\.\.\]"):
                await sending
        await layer.delete_channel(channel)
    [message] = caplog.messages
    assert re.search(r"cannot be listened to: .*write cluster=\[\.\.\.\]", message)
