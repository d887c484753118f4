"""The rules of the subscriber to a node, on a node that does as a test asks."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from redis.exceptions import ClusterDownError

from fast_channels.layers.redis.pubsub.node_subscriber import NodeSubscriber
from fast_channels.layers.redis.wire import ResponseError, slot_of
from tests.waiting import turn, until

from .fake_cluster import NOT_SERVED, FakeCluster, FakeNode
from .fake_pubsub import ONCE, hear

QUICK = replace(ONCE, backoff=(0.001, 0.01), patience=0.05)
# Two names in one slot, and one in another slot of the same node.
A, B, OTHER = "{1}a", "{1}b", "{2}c"
NODE = "node-1 cannot be listened to"


class Owner:
    """Records what it is asked to decide."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.settlements = 0
        self.suspicions = 0
        # What is called with each refused name.
        self.react: Callable[[str], None] = lambda _: None

    def received(self, node: NodeSubscriber, name: bytes, data: bytes) -> None:
        del node
        self.events.append((name.decode(), data.decode()))

    def lost(self, node: NodeSubscriber) -> None:
        del node
        self.events.append("lost")

    def settled(self, node: NodeSubscriber) -> None:
        del node
        self.settlements += 1

    def dropped(self, name: str) -> None:
        self.events.append(f"dropped {name}")

    def refused(self, name: str, why: ResponseError) -> None:
        self.events.append(f"refused {name}: {why}")
        self.react(name)

    def suspect(self) -> None:
        self.suspicions += 1

    def explain(self, why: ResponseError) -> Exception:
        return ResponseError(f"in other words: {why}")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A cluster whose first node serves all slots."""
    cluster = FakeCluster(monkeypatch, QUICK)
    cluster.owners[:] = [cluster.nodes[0]] * len(cluster.owners)
    return cluster


@pytest.fixture
async def node(cluster: FakeCluster) -> FakeNode:
    return cluster.nodes[0]


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
async def subscriber(node: FakeNode, owner: Owner) -> AsyncIterator[NodeSubscriber]:
    subscriber = NodeSubscriber(
        node.connect, name="node-1", received=owner.received, owner=owner, timeout=10
    )
    yield subscriber
    await subscriber.close()
    assert node.open == []


async def test_names_of_a_command_share_a_slot(
    node: FakeNode, subscriber: NodeSubscriber, owner: Owner
) -> None:
    """All commands of a turn leave in one write."""
    await hear(subscriber, A, OTHER, B)
    node.publish(B, b"x")
    await until(lambda: owner.events)
    assert owner.events == [(B, "x")]
    for name in (A, B, OTHER):
        subscriber.ignore(name)
    await until(lambda: not node.subscribed)
    assert node.told == [
        ["SSUBSCRIBE", A, B],
        ["SSUBSCRIBE", OTHER],
        ["SUNSUBSCRIBE", A, B],
        ["SUNSUBSCRIBE", OTHER],
    ]
    assert len(node.writes) == 2


async def test_dropped_names_are_asked_for_again(
    node: FakeNode, subscriber: NodeSubscriber, owner: Owner
) -> None:
    """Names of other slots are not affected."""
    await hear(subscriber, A, B, OTHER)
    node.told.clear()
    node.drop(slot_of(A))
    await until(lambda: node.told)
    await until(lambda: subscriber.hears(A) and subscriber.hears(B))
    assert owner.events == [f"dropped {A}", f"dropped {B}"]
    assert node.told == [["SSUBSCRIBE", A, B]]
    assert len(node.connections) == 1


async def test_refusal_that_names_another_node_is_passed_on(
    cluster: FakeCluster, node: FakeNode, subscriber: NodeSubscriber, owner: Owner
) -> None:
    """It is about the names of a slot; they are not asked for again once moved."""
    slot = slot_of(A)
    cluster.owners[slot] = cluster.nodes[1]

    def move(name: str) -> None:
        for each in (A, B):
            subscriber.ignore(each)

    owner.react = move
    for name in (A, OTHER, B):
        subscriber.listen(name)
    await until(lambda: owner.events and subscriber.hears(OTHER))
    assert owner.events == [f"refused {A}: MOVED {slot} node:2"]
    told = len(node.told)
    await turn()
    assert len(node.told) == told
    assert [*subscriber.wanted] == [OTHER]


@pytest.mark.parametrize(
    "error",
    [ClusterDownError(NOT_SERVED), ResponseError(f"CLUSTERDOWN {NOT_SERVED}")],
    ids=["class", "text"],
)
async def test_refused_names_are_asked_for_until_they_are_accepted(
    cluster: FakeCluster,
    node: FakeNode,
    subscriber: NodeSubscriber,
    owner: Owner,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """The log has one record of it; waiting for them ends; others are heard."""
    cluster.down = error
    cluster.owners[slot_of(A)] = None
    await hear(subscriber, OTHER)
    subscriber.listen(A)
    pending = subscriber.pending(A)
    assert pending is not None
    await until(lambda: subscriber.pending(A) is None)
    assert not pending.done()
    assert not subscriber.away
    assert [*subscriber.denied] == [A]
    await until(lambda: len(owner.events) > 5)
    cluster.owners[slot_of(A)] = node
    await pending
    assert subscriber.hears(A)
    assert [*subscriber.denied] == []
    assert {*owner.events} == {f"refused {A}: {error}"}
    assert caplog.messages == [
        f"{NODE} in full: {error}; trying again until it can",
        "node-1 can be listened to in full again",
    ]


async def test_name_that_is_not_wanted_any_more_is_not_asked_for(
    cluster: FakeCluster, node: FakeNode, subscriber: NodeSubscriber, owner: Owner
) -> None:
    """It was refused before."""
    cluster.owners[slot_of(A)] = None
    subscriber.listen(A)
    await until(lambda: owner.events)
    subscriber.ignore(A)
    node.told.clear()
    await hear(subscriber, OTHER)
    await turn()
    assert node.told == [["SSUBSCRIBE", OTHER]]


async def test_refusal_to_end_a_subscription_has_no_consequence(
    cluster: FakeCluster, node: FakeNode, subscriber: NodeSubscriber, owner: Owner
) -> None:
    """Messages for the name are dropped, and it can be wanted again."""
    await hear(subscriber, A)
    cluster.owners[slot_of(A)] = None
    subscriber.ignore(A)
    await until(lambda: owner.events)
    # The answer to another command, whose name is known by now.
    node.connection.reply(ResponseError(f"MOVED {slot_of(B)} node:2"))
    cluster.owners[slot_of(A)] = node
    await turn()
    await hear(subscriber, A)
    assert owner.events == [f"refused {A}: {NOT_SERVED}"]
    assert len(node.connections) == 1


async def test_broken_connection_ends_the_pause(
    cluster: FakeCluster, node: FakeNode, subscriber: NodeSubscriber, owner: Owner
) -> None:
    """The next connection subscribes to all names."""
    await hear(subscriber, OTHER)
    cluster.owners[slot_of(A)] = None
    subscriber.listen(A)
    await until(lambda: owner.events)
    cluster.owners[slot_of(A)] = node
    node.cut()
    await until(lambda: subscriber.hears(A))
    assert [*subscriber.denied] == []


async def test_other_refusals_are_outages(
    node: FakeNode, subscriber: NodeSubscriber, caplog: pytest.LogCaptureFixture
) -> None:
    """The owner explains them to the user."""
    node.forbidden[A] = ResponseError("unknown command")
    subscriber.listen(A)
    await until(lambda: caplog.messages)
    assert caplog.messages == [
        f"{NODE}: in other words: unknown command; trying again until it can"
    ]
    node.forbidden.clear()
    await until(lambda: subscriber.hears(A))


async def test_confirmations_are_told_from_dropped_names(
    node: FakeNode, subscriber: NodeSubscriber, owner: Owner
) -> None:
    """A name can be dropped while the node owes confirmations."""
    node.holds = True
    changes = [subscriber.listen, subscriber.ignore, subscriber.listen]
    for count, change in enumerate(changes):
        change(A)
        await until(lambda count=count: len(node.told) > count)  # type: ignore[misc] # a lambda with a default
    node.connection.reply([b"sunsubscribe", A.encode(), 0])
    await until(lambda: owner.events)
    assert owner.events == [f"dropped {A}"]
    # These belong to commands before that.
    node.release(3)
    node.holds = False
    await until(lambda: subscriber.hears(A))
    assert len(node.told) == 4
    # It was dropped again before.
    subscriber.ignore(A)
    node.connection.reply([b"sunsubscribe", A.encode(), 0])
    await until(lambda: not node.subscribed)
    await turn()
    assert owner.events == [f"dropped {A}"]


async def test_broken_connection_is_suspicious(
    node: FakeNode, subscriber: NodeSubscriber, owner: Owner
) -> None:
    """So is each attempt that fails; all names are confirmed again in the end."""
    await hear(subscriber, A, OTHER)
    node.refusals.extend([OSError("refused")] * 3)
    settlements = owner.settlements
    node.cut()
    await until(lambda: owner.settlements > settlements)
    assert owner.events == ["lost"]
    assert owner.suspicions == 4
    assert node.subscribed == [A, OTHER]


async def test_silent_attempt_is_suspicious(
    cluster: FakeCluster, node: FakeNode, owner: Owner
) -> None:
    """Another node may have replaced it meanwhile."""
    node.stalls.add("connect")
    subscriber = NodeSubscriber(
        node.connect,
        name="node-1",
        received=owner.received,
        owner=owner,
        timeout=10,
        timing=replace(QUICK, another=0.001),
    )
    subscriber.listen(A)
    await until(lambda: owner.suspicions > 3)
    await subscriber.close()


@pytest.mark.parametrize("replaced", [True, False])
async def test_end_of_an_outage_is_logged_when_names_have_moved(
    node: FakeNode,
    subscriber: NodeSubscriber,
    caplog: pytest.LogCaptureFixture,
    replaced: bool,
) -> None:
    """The log says how it ended."""
    node.unreachable = True
    subscriber.listen(A)
    await until(lambda: caplog.messages)
    await subscriber.retire(replaced=replaced)
    assert caplog.messages == [
        f"{NODE}: refused; trying again until it can",
        "node-1 has been replaced" if replaced else "node-1 can be listened to again",
    ]
