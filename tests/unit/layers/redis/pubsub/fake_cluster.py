"""A Redis Cluster whose slots move and whose nodes refuse, as a test asks."""

from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import ClusterDownError

from fast_channels.layers.redis.cluster import Cluster
from fast_channels.layers.redis.hosts import Host
from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.pubsub import node_subscriptions
from fast_channels.layers.redis.pubsub.subscriber import Subscriber
from fast_channels.layers.redis.wire import ResponseError, slot_of
from tests.unit.layers.redis.fake_cluster import TIMING, lead_to

from .fake_pubsub import FakePubSub, PubSubConnection

SLOTS = 16_384
NOT_SERVED = "Hash slot not served"


class FakeNode(FakePubSub):
    """A node, which serves the slots that the cluster assigns to it."""

    def __init__(self, cluster: "FakeCluster", port: int) -> None:
        super().__init__()
        self.cluster = cluster
        self.port = port
        # Whether it accepts shard channels of any slot, as a replica would.
        self.accepts_all = False
        # The owners of slots, as far as it knows, if that is not up to date.
        self.outdated: list[FakeNode | None] | None = None
        self.hello = [b"mode", b"cluster", b"role", b"master"]

    def answer(self, connection: PubSubConnection, words: list[bytes]) -> list[Any]:
        verb, *names = [word.decode(errors="replace") for word in words]
        if verb == "CLUSTER":
            return [self.slots()]
        if verb.startswith("S") and not self.accepts_all:
            assert len({*map(slot_of, names[: 1 if verb == "SPUBLISH" else None])}) == 1
            slot = slot_of(names[0])
            owner = self.cluster.owners[slot]
            if owner is None:
                return [self.cluster.down]
            if owner is not self:
                return [ResponseError(f"MOVED {slot} node:{owner.port}")]
        return super().answer(connection, words)

    def slots(self) -> list[Any]:
        """Return the reply to CLUSTER SLOTS."""
        ranges: list[Any] = []
        for slot, owner in enumerate(self.outdated or self.cluster.owners):
            if ranges and ranges[-1][2] is owner:
                ranges[-1][1] = slot
            else:
                ranges.append([slot, slot, owner])
        return [
            [first, last, [b"node", owner.port, b"id"]]
            for first, last, owner in ranges
            if owner is not None
        ]

    def drop(self, slot: int) -> None:
        """End the subscriptions to shard channels of a slot."""
        for connection in self.open:
            for name in [each for each in connection.names if slot_of(each) == slot]:
                del connection.names[name]
                count = len(connection.names)
                connection.reply([b"sunsubscribe", name.encode(), count])

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://node:{self.port}"


class FakeCluster:
    """Three nodes, which divide the slots among them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, timing: Timing) -> None:
        self.nodes = [FakeNode(self, port) for port in (1, 2, 3)]
        self.owners: list[FakeNode | None] = [
            self.nodes[slot * len(self.nodes) // SLOTS] for slot in range(SLOTS)
        ]
        # How a slot without an owner is refused.
        self.down: Exception = ClusterDownError(NOT_SERVED)
        monkeypatch.setattr(Subscriber, "timing", timing)
        # A question is for one node at a time.
        monkeypatch.setattr(Cluster, "timing", replace(TIMING, another=1000))
        monkeypatch.setattr(node_subscriptions, "plain_connection", self._connect)
        lead_to(self._connect, monkeypatch)

    @property
    def urls(self) -> list[str]:
        """The URLs of all nodes."""
        return [node.url for node in self.nodes]

    def owner(self, name: str) -> FakeNode:
        """Return the node that serves a shard channel."""
        owner = self.owners[slot_of(name)]
        assert owner is not None
        return owner

    def move(self, slot: int, target: FakeNode | None) -> None:
        """Make another node the owner of a slot; the previous one drops its names."""
        before, self.owners[slot] = self.owners[slot], target
        if before is not None:
            before.drop(slot)

    def replace(self, node: FakeNode, by: FakeNode) -> None:
        """Give all slots of a node to another one."""
        for slot, owner in enumerate(self.owners):
            if owner is node:
                self.owners[slot] = by

    def _connect(self, host: Host) -> PubSubConnection:
        [node] = [each for each in self.nodes if each.port == host.options["port"]]
        return node.connect()
