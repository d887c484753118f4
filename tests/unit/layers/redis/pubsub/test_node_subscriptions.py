"""Where the pub/sub layer listens in a Redis Cluster, and what its channels learn."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers import History
from fast_channels.layers.redis import RedisPubSubChannelLayer
from fast_channels.layers.redis.pubsub.endpoint import PubSubEndpoint
from fast_channels.layers.redis.shards import Shard
from fast_channels.layers.redis.wire import NoPermissionError, ResponseError, slot_of
from tests.waiting import turn, until

from .fake_cluster import FakeCluster, FakeNode
from .fake_pubsub import ONCE

QUICK = replace(ONCE, backoff=(0.001, 0.01), patience=0.05)
OWN = "asgispecific.me.1!"
GONE, BACK = "on.disconnect", "on.reconnect"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    return FakeCluster(monkeypatch, QUICK)


@pytest.fixture
def layer(cluster: FakeCluster) -> RedisPubSubChannelLayer:
    return RedisPubSubChannelLayer(cluster=cluster.urls, serializer_format="json")


@pytest.fixture
def types() -> tuple[str | None, str | None]:
    return GONE, BACK


@pytest.fixture
async def endpoint(
    cluster: FakeCluster,
    layer: RedisPubSubChannelLayer,
    types: tuple[str | None, str | None],
) -> AsyncIterator[PubSubEndpoint]:
    """An endpoint that leaves no connection when it is closed."""
    endpoint = PubSubEndpoint(layer, "me.1", *types, patience=0.01)
    yield endpoint
    await endpoint.close()
    assert [node.open for node in cluster.nodes] == [[], [], []]


def shard(endpoint: PubSubEndpoint, name: str) -> Shard:
    return endpoint.shards.of(name)


def slot(endpoint: PubSubEndpoint, name: str) -> int:
    return slot_of(shard(endpoint, name).prefix)


def groups_at(
    endpoint: PubSubEndpoint, cluster: FakeCluster, node: FakeNode, count: int = 2
) -> list[str]:
    """Return groups of different slots that a node serves."""
    found: dict[int, str] = {}
    for number in range(500):
        name = f"asgi__group__room{number}"
        if cluster.owners[slot(endpoint, name)] is node:
            found.setdefault(slot(endpoint, name), name)
    return [*found.values()][:count]


def notices(layer: RedisPubSubChannelLayer, *channels: str) -> list[list[str]]:
    """Take the messages that wait for channels; return their types."""
    found: list[list[str]] = []
    for channel in channels:
        mailbox = layer.mailboxes.open(channel)
        found.append([])
        while (message := mailbox.take()) is not None:
            found[-1].append(message["type"])
    return found


def packed(**message: object) -> bytes:
    return (str(message).replace("'", '"')).encode()


async def until_heard(endpoint: PubSubEndpoint, node: FakeNode, *names: str) -> None:
    expected = {shard(endpoint, name).prefix + name for name in names}
    await until(lambda: expected <= {*node.subscribed})


# Names and messages


async def test_each_node_has_one_connection(
    endpoint: PubSubEndpoint, cluster: FakeCluster
) -> None:
    """It serves all names whose slots the node has; names of a shard go together."""
    names = [f"asgi__group__room{number}" for number in range(50)]
    for name in names:
        await endpoint.join(name, f"{OWN}a")
    for node in cluster.nodes:
        expected = [
            shard(endpoint, name).prefix + name
            for name in names
            if cluster.owners[slot(endpoint, name)] is node
        ]
        assert node.subscribed == sorted(expected)
        [_] = [each for each in node.open if each.names]
    for name in names:
        await endpoint.leave(name, f"{OWN}a")
    await until(lambda: not any(node.subscribed for node in cluster.nodes))
    # A slot without names moves: connections without names are closed then.
    [name, another] = groups_at(endpoint, cluster, cluster.nodes[0])
    cluster.move(slot(endpoint, name), cluster.nodes[1])
    await endpoint.publish(name, b"")
    await until(lambda: len(cluster.nodes[2].open) == 0)
    await endpoint.join(another, f"{OWN}a")
    assert len(cluster.nodes[0].subscribed) == 1


@pytest.mark.parametrize(
    ("channel", "name"),
    [
        ("jobs", "jobs"),
        ("jobs!fast", "jobs!"),
        ("jobs!", "jobs!"),
        (f"{OWN}x", OWN),
        ("a}b{c!é", "a}b{c!"),
    ],
)
async def test_channels_with_a_common_part_share_a_redis_channel(
    layer: RedisPubSubChannelLayer,
    endpoint: PubSubEndpoint,
    cluster: FakeCluster,
    channel: str,
    name: str,
) -> None:
    """Messages reach the channel that they are for, and no other."""
    redis_name = shard(endpoint, name).prefix + name
    if channel.startswith(OWN):
        for _ in range(2):
            await endpoint.listen_to_own(OWN)
    else:
        endpoint.listen_for_reader(channel)
    await until(lambda: redis_name in cluster.owner(redis_name).subscribed)
    mailboxes = layer.mailboxes if channel.startswith(OWN) else endpoint.plain
    mailbox = mailboxes.open(channel)
    if channel != name:
        await endpoint.send(f"{name}other", packed(number=1))
    await endpoint.send(channel, packed(number=2))
    await until(lambda: mailbox)
    assert mailbox.take() == {"number": 2}
    mailboxes.close(channel, mailbox)


async def test_names_of_groups_are_whole(
    layer: RedisPubSubChannelLayer, endpoint: PubSubEndpoint
) -> None:
    """A group can be named like a channel."""
    group = "asgi__group__a!b"
    await endpoint.join(group, f"{OWN}a")
    mailbox = layer.mailboxes.open(f"{OWN}a")
    await endpoint.publish(group, packed(text="x!y"))
    await until(lambda: mailbox)
    assert mailbox.take() == {"text": "x!y"}


@pytest.mark.parametrize("prefix", ["{asgi}", "a}b", "a{b"])
async def test_prefix_can_have_braces(cluster: FakeCluster, prefix: str) -> None:
    """Even if all names share a slot then."""
    async with RedisPubSubChannelLayer(prefix=prefix, cluster=cluster.urls) as layer:
        channel = await layer.new_channel()
        for number in range(3):
            await layer.group_add(f"room{number}", channel)
            await layer.group_send(f"room{number}", {"type": "test"})
            assert await layer.receive(channel) == {"type": "test"}
        await layer.send(channel, {"type": "test"})
        assert await layer.receive(channel) == {"type": "test"}
        await layer.delete_channel(channel)


# Slots that move


async def test_gap_of_a_moved_slot_is_noticed_by_its_channels(
    layer: RedisPubSubChannelLayer, endpoint: PubSubEndpoint, cluster: FakeCluster
) -> None:
    """Members of its groups are notified, and other channels are not."""
    first, second = groups_at(endpoint, cluster, cluster.nodes[0])
    await endpoint.join(first, f"{OWN}a")
    await endpoint.join(second, f"{OWN}b")
    cluster.move(slot(endpoint, first), cluster.nodes[1])
    await until_heard(endpoint, cluster.nodes[1], first)
    await until(lambda: layer.mailboxes.waiting() == 2)
    assert notices(layer, f"{OWN}a", f"{OWN}b") == [[GONE, BACK], []]
    assert layer.counters.reconnects == 1
    assert cluster.nodes[0].subscribed == [shard(endpoint, second).prefix + second]
    # It is published where it is listened to, and arrives once.
    await endpoint.publish(first, packed(type="test"))
    await until(layer.mailboxes.waiting)
    assert notices(layer, f"{OWN}a") == [["test"]]


async def test_gap_of_the_process_is_noticed_by_all_its_channels(
    layer: RedisPubSubChannelLayer, endpoint: PubSubEndpoint, cluster: FakeCluster
) -> None:
    """A plain channel is notified of its own gaps."""
    await endpoint.listen_to_own(OWN)
    endpoint.listen_for_reader("jobs")
    endpoint.attach(f"{OWN}a", lambda: None)
    jobs = endpoint.plain.open("jobs")
    await until_heard(endpoint, cluster.owner(shard(endpoint, "jobs").prefix), "jobs")
    for name, node in ((OWN, 0), ("jobs", 1)):
        before = cluster.owners[slot(endpoint, name)]
        target = next(each for each in cluster.nodes if each is not before)
        cluster.move(slot(endpoint, name), target)
        await until_heard(endpoint, target, name)
        await until(lambda: layer.mailboxes.waiting() + endpoint.plain.waiting() == 2)
        if node:
            assert [jobs.take(), jobs.take()] == [{"type": GONE}, {"type": BACK}]
        else:
            assert notices(layer, f"{OWN}a") == [[GONE, BACK]]
    endpoint.plain.close("jobs", jobs)


async def test_overlapping_gaps_are_one_for_a_channel(
    layer: RedisPubSubChannelLayer, endpoint: PubSubEndpoint, cluster: FakeCluster
) -> None:
    """It is notified when the first one begins, and when the last one ends."""
    node, other, _ = cluster.nodes
    first, second = groups_at(endpoint, cluster, node)
    for name in (first, second):
        await endpoint.join(name, f"{OWN}a")
    await endpoint.join(first, f"{OWN}b")
    await endpoint.join(first, f"{OWN}left")
    slots = [slot(endpoint, name) for name in (first, second)]
    for each in slots:
        cluster.move(each, None)
        await until(lambda: layer.mailboxes.waiting() == 3)
    await endpoint.leave(first, f"{OWN}left")
    cluster.move(slots[0], other)
    await until(lambda: layer.mailboxes.waiting() == 5)
    channels = [f"{OWN}a", f"{OWN}b", f"{OWN}left"]
    assert notices(layer, *channels) == [[GONE], [GONE, BACK], [GONE, BACK]]
    cluster.move(slots[1], other)
    await until(layer.mailboxes.waiting)
    await turn()
    assert notices(layer, *channels) == [[BACK], [], []]
    assert layer.counters.reconnects == 2


@pytest.mark.parametrize("types", [(None, None)])
async def test_gaps_are_counted_without_notices(
    layer: RedisPubSubChannelLayer, endpoint: PubSubEndpoint, cluster: FakeCluster
) -> None:
    """As connections that broke are."""
    [name] = groups_at(endpoint, cluster, cluster.nodes[0], 1)
    await endpoint.join(name, f"{OWN}a")
    cluster.move(slot(endpoint, name), cluster.nodes[1])
    await until_heard(endpoint, cluster.nodes[1], name)
    assert layer.counters.reconnects == 1
    assert layer.mailboxes.waiting() == 0


async def test_names_move_together_when_a_node_is_replaced(
    layer: RedisPubSubChannelLayer,
    endpoint: PubSubEndpoint,
    cluster: FakeCluster,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is one gap, and the log says that the node has been replaced."""
    node, other, _ = cluster.nodes
    names = groups_at(endpoint, cluster, node, 5)
    for name in names:
        await endpoint.join(name, f"{OWN}a")
    node.unreachable = True
    node.cut()
    await until(lambda: caplog.messages)
    cluster.replace(node, by=other)
    await until_heard(endpoint, other, *names)
    await until(lambda: layer.mailboxes.waiting() == 2)
    assert notices(layer, f"{OWN}a") == [[GONE, BACK]]
    assert layer.counters.reconnects == 1
    await until(lambda: len(caplog.messages) == 2)
    began, ended = caplog.messages
    assert began.startswith("redis://node:1/0 cannot be listened to: ")
    assert ended == "redis://node:1/0 has been replaced"


async def test_message_of_the_old_master_comes_once(
    layer: RedisPubSubChannelLayer, endpoint: PubSubEndpoint, cluster: FakeCluster
) -> None:
    """As a replica, it passes on what the new master publishes."""
    node, other, _ = cluster.nodes
    first, second = groups_at(endpoint, cluster, node)
    for name in (first, second):
        await endpoint.join(name, f"{OWN}a")
    node.accepts_all = True
    node.silent.add("SUNSUBSCRIBE")
    connection = next(each for each in node.open if each.names)
    # Another reason to ask for the masters.
    cluster.owners[slot(endpoint, first)] = other
    await endpoint.publish(second, packed(type="test"))
    endpoint.shards.of(first).broken(ResponseError("any"))
    await until_heard(endpoint, other, first)
    redis_name = shard(endpoint, first).prefix + first
    connection.reply([b"smessage", redis_name.encode(), b"!" + packed(type="old")])
    await endpoint.publish(first, packed(type="new"))
    await until(lambda: layer.mailboxes.waiting() == 4)
    await turn()
    assert sorted(notices(layer, f"{OWN}a")[0]) == ["new", GONE, BACK, "test"]


async def test_node_that_has_dropped_a_name_is_asked_where_it_is(
    layer: RedisPubSubChannelLayer, endpoint: PubSubEndpoint, cluster: FakeCluster
) -> None:
    """After a failover, other nodes can know less, and the old master accepts names."""
    *nodes, other = cluster.nodes
    names = [
        name for node in nodes for name in groups_at(endpoint, cluster, node, count=2)
    ]
    for name in names:
        await endpoint.join(name, f"{OWN}a")
    other.outdated = [*cluster.owners]
    for node in nodes:
        node.accepts_all = True
        node.told.clear()
        cluster.replace(node, by=other)
    for node in nodes:
        for name in names:
            node.drop(slot(endpoint, name))
    await until_heard(endpoint, other, *names)
    # One gap, or one after the other if the first one ends before the second begins.
    await until(lambda: layer.mailboxes.waiting() in {2, 4})
    await until(lambda: all(node.asked("CLUSTER") for node in nodes))
    [noticed] = notices(layer, f"{OWN}a")
    assert noticed in ([GONE, BACK], [GONE, BACK, GONE, BACK])
    assert not any(node.subscribed for node in nodes)


async def test_replicas_are_not_listened_to(
    endpoint: PubSubEndpoint, cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """An outdated node can name one; the layer goes on asking."""
    node, other, _ = cluster.nodes
    [name] = groups_at(endpoint, cluster, node, 1)
    outdated = [*cluster.owners]
    for each in cluster.nodes:
        each.outdated = outdated
    cluster.replace(node, by=other)
    node.accepts_all = True
    node.hello = [b"mode", b"cluster", b"role", b"replica"]
    await endpoint.join(name, f"{OWN}a")
    await until(lambda: len(node.connections) > 20)
    assert caplog.messages == []
    for each in cluster.nodes:
        each.outdated = None
    await until_heard(endpoint, other, name)


# A cluster that is away


async def test_cluster_that_is_away_is_waited_for_once(
    endpoint: PubSubEndpoint,
    cluster: FakeCluster,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Joining returns; names are listened to when it is there."""
    for node in cluster.nodes:
        node.unreachable = True
    names = [f"asgi__group__room{number}" for number in range(9)]
    for name in names:
        await endpoint.join(name, f"{OWN}a")
    [message] = caplog.messages
    assert "node:1,node:2,node:3 cannot be listened to: " in message
    assert "no node answers (redis://node:1/0: refused; " in message
    for node in cluster.nodes:
        node.unreachable = False
    await until(lambda: sum(len(node.subscribed) for node in cluster.nodes) == 9)
    await until(lambda: len(caplog.messages) == 2)
    assert "node:1,node:2,node:3 can be listened to again" in caplog.messages[1]


async def test_slots_without_a_master_do_not_affect_others(
    layer: RedisPubSubChannelLayer, endpoint: PubSubEndpoint, cluster: FakeCluster
) -> None:
    """Their names are listened to as soon as they have one."""
    first, second = groups_at(endpoint, cluster, cluster.nodes[0])
    cluster.owners[slot(endpoint, first)] = None
    await endpoint.join(second, f"{OWN}a")
    await endpoint.join(first, f"{OWN}a")
    await endpoint.publish(second, packed(type="test"))
    await until(layer.mailboxes.waiting)
    cluster.owners[slot(endpoint, first)] = cluster.nodes[2]
    await until_heard(endpoint, cluster.nodes[2], first)
    assert notices(layer, f"{OWN}a") == [["test"]]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ResponseError("unknown command 'S'"), "the pub/sub layer needs Redis 7 or V"),
        (NoPermissionError("no permission"), r"and &asgi{* (no permission)"),
        (ResponseError("other"), ": other"),
    ],
)
async def test_refusals_say_what_to_do(
    endpoint: PubSubEndpoint,
    cluster: FakeCluster,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    hint: str,
) -> None:
    """The log does when names are refused, and the exception when a message is."""
    for node in cluster.nodes:
        node.refuses = {"SSUBSCRIBE": error, "SPUBLISH": error}
    await endpoint.join("room", f"{OWN}a")
    [message] = caplog.messages
    assert hint in message
    with pytest.raises(RedisUnavailable) as caught:
        await endpoint.publish("room", b"")
    if not isinstance(error, NoPermissionError):
        assert hint in str(caught.value)


async def test_closed_endpoint_can_be_used_again(
    endpoint: PubSubEndpoint, cluster: FakeCluster
) -> None:
    """It has no gaps, even if it was closed during one."""
    [name] = groups_at(endpoint, cluster, cluster.nodes[0], 1)
    await endpoint.join(name, f"{OWN}a")
    for node in cluster.nodes:
        node.cut()
    await until(lambda: not any(node.open for node in cluster.nodes))
    await endpoint.close()
    await endpoint.join(name, f"{OWN}a")
    await until_heard(endpoint, cluster.nodes[0], name)


async def test_numbered_messages_go_to_the_shard_channel_of_their_group(
    endpoint: PubSubEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script that stores a message also publishes it, as all others are."""
    published: list[tuple[str, str, bytes]] = []

    async def run(
        commands: object, script: object, keys: object, *words: Any
    ) -> list[bytes]:
        published.append(words[:3])
        return [b"0f6b9ad2", b"1"]

    monkeypatch.setattr("fast_channels.layers.redis.pubsub.endpoint.run", run)
    name = "asgi__group__room"
    position = await endpoint.publish_numbered(name, History(), {"type": "test"}, None)
    assert position == "0f6b9ad2.1"
    channel = shard(endpoint, name).prefix + name
    assert published == [("SPUBLISH", channel, b"!")]
