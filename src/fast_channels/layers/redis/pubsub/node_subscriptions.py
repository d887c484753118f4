"""The subscriptions in a Redis Cluster: one connection to each node with a wanted name.

What is wanted is recorded once, in the subscriber to the node where it is listened to.
The rules:

1. The names of a shard share a slot. They are listened to at the node that serves the
   slot, as far as is known, and move together.
2. There are no patterns for shard channels. A process listens to one of them for all
   its own channels, so each message carries the end of the channel's name.
3. A shard has a *gap* from the moment when messages can be missed until all its names
   are confirmed.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from typing_extensions import override

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis.shards import ClusterShards, Shard
from fast_channels.layers.redis.wire import (
    Address,
    Connection,
    NoPermissionError,
    RedisConnectionError,
    ResponseError,
    plain_connection,
    slot_of,
    starting_with,
)

from .node_subscriber import NodeSubscriber, Owner
from .subscriptions import Subscriptions

__all__ = ["NodeSubscriptions"]

# Ends the name of a channel in a message, as it ends the common part of names.
_MARK = b"!"


class NodeSubscriptions(Subscriptions, Owner):
    """The subscriptions in a cluster.

    Args:
        shards: The shards of the layer.
        prefix: The prefix of the layer.
        received: Called with each message: the name that it is for, and the data.
        lost: Called when shards have a new gap.
        restored: Called when gaps have ended.
        patience: See ``Subscriptions``.
    """

    def __init__(
        self,
        shards: ClusterShards,
        *,
        prefix: str,
        received: Callable[[bytes, bytes], None],
        lost: Callable[[], None],
        restored: Callable[[], None],
        patience: float,
    ) -> None:
        super().__init__(shards, patience)
        self._cluster = shards.cluster
        self._topology = shards.cluster.topology
        self._prefix = prefix
        # Where the hash tag begins in the name of a Redis channel.
        self._tag = len(prefix.encode()) + 1
        self._slots = {shard: slot_of(shard.prefix) for shard in shards}
        self._by_prefix = {shard.prefix: shard for shard in shards}
        self._received = received
        self._lost = lost
        self._restored = restored
        # The subscribers by address; None for names of slots whose node is unknown.
        self._nodes: dict[Address | None, NodeSubscriber] = {}
        # Where the names of a shard are listened to.
        self._places: dict[Shard, NodeSubscriber] = {}
        # Shards whose names were all confirmed, and those of them that have a gap.
        self._whole: set[Shard] = set()
        self._gaps: set[Shard] = set()
        # Whether new gaps will be reported.
        self._reports = False
        self._retiring: set[asyncio.Task[None]] = set()

    def has_gap(self, name: str) -> bool:
        """Return whether messages for a name can be missed at the moment."""
        return self._shards.of(name) in self._gaps

    # Publishing

    @override
    def publish(self, name: str, message: bytes) -> Coroutine[Any, Any, Any]:
        return self._publish(name, _MARK + message)

    @override
    def send(self, channel: str, message: bytes) -> Coroutine[Any, Any, Any]:
        name = self.name_of(channel)
        end = channel[len(name) :].encode()
        return self._publish(name, b"%b%b%b" % (end, _MARK, message))

    async def _publish(self, name: str, message: bytes) -> None:
        shard = self._shards.of(name)
        try:
            await shard.commands.execute("SPUBLISH", shard.prefix + name, message)
        except ResponseError as exc:
            problem = f"{shard.name} is not available: {self.explain(exc)}"
            raise RedisUnavailable(problem) from exc

    def _unpack(self, node: NodeSubscriber, redis_name: bytes, message: bytes) -> None:
        """Pass on a message with the name of the channel or group that it is for."""
        # After a failover, the old master passes on what the new one publishes: names
        # that have moved would get it twice.
        if node.hears(redis_name.decode()):
            end, _, message = message.partition(_MARK)
            name = redis_name[redis_name.index(b"}", self._tag) + 1 :]
            self._received(name + end, message)

    # Listening

    @override
    async def listen_to_own(self, name: str) -> None:
        if name not in self.own:
            self.own.add(name)
            self.listen(name)
        await self.heard(name)

    @override
    def name_of(self, channel: str) -> str:
        return channel[: channel.rfind("!") + 1] or channel

    @override
    def switched(self, shard: Shard) -> None:
        before = self._places.pop(shard, None)
        if before is not None and before is not self._place(shard):
            self._move(shard, before, self._places[shard])
        self._retire_idle()

    @override
    async def close(self) -> None:
        nodes = [*self._nodes.values()]
        for record in (self.own, self._nodes, self._places, self._whole, self._gaps):
            record.clear()
        await asyncio.gather(*[node.close() for node in nodes], *self._retiring)

    @override
    def _find(self, name: str) -> tuple[NodeSubscriber, str]:
        shard = self._shards.of(name)
        return self._places.get(shard) or self._place(shard), shard.prefix + name

    # Places

    def _place(self, shard: Shard) -> NodeSubscriber:
        """Choose where the names of a shard are listened to."""
        address = self._topology.masters.get(self._slots[shard])
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = self._open(address, shard)
        self._places[shard] = node
        return node

    def _open(self, address: Address | None, shard: Shard) -> NodeSubscriber:
        cluster = self._topology.cluster
        if address is None:
            host = cluster
            connect = functools.partial(self._connect_to_any, shard)
        else:
            host = cluster.at(address)
            connect = functools.partial(plain_connection, host)
        return NodeSubscriber(
            connect,
            name=str(host),
            received=self._unpack,
            owner=self,
            timeout=self._cluster.timeout,
        )

    def _connect_to_any(self, shard: Shard) -> Connection:
        """Return a connection that waits until masters are known."""
        self._topology.refresh().add_done_callback(self._place_all)
        return shard.connect()

    def _place_all(self, _: object) -> None:
        for shard, node in list(self._places.items()):
            if node is self._nodes.get(None):
                self.switched(shard)

    def _move(self, shard: Shard, before: NodeSubscriber, now: NodeSubscriber) -> None:
        self._note_gaps([shard])
        for name, listeners in list(before.wanted.items()):
            if name.startswith(shard.prefix):
                before.ignore(name, listeners)
                now.listen(name, listeners)

    def _retire_idle(self) -> None:
        """Disconnect from nodes where no name is listened to."""
        for address, node in list(self._nodes.items()):
            if not node.wanted:
                del self._nodes[address]
                for shard in [key for key, at in self._places.items() if at is node]:
                    del self._places[shard]
                replaced = address is not None
                retiring = asyncio.create_task(node.retire(replaced=replaced))
                self._retiring.add(retiring)
                retiring.add_done_callback(self._retiring.discard)

    # Gaps

    def _note_gaps(self, shards: Iterable[Shard]) -> None:
        gaps = self._whole.intersection(shards)
        self._whole -= gaps
        self._gaps |= gaps
        if gaps and not self._reports:
            self._reports = True
            # Slots often move together.
            asyncio.get_running_loop().call_soon(self._report)

    def _report(self) -> None:
        self._reports = False
        self._lost()

    # The owner of the subscribers

    @override
    def lost(self, node: NodeSubscriber) -> None:
        self._note_gaps([shard for shard, at in self._places.items() if at is node])

    @override
    def settled(self, node: NodeSubscriber) -> None:
        heard = {shard for shard, at in self._places.items() if at is node}
        heard -= self._whole
        heard.difference_update(map(self._shard_of, node.denied))
        self._whole |= heard
        if self._gaps & heard:
            self._gaps -= heard
            self._restored()

    @override
    def dropped(self, name: str) -> None:
        shard = self._shard_of(name)
        self._note_gaps([shard])
        # The node itself knows which one serves the slot now.
        self._topology.refresh(self._topology.masters.get(self._slots[shard]))

    @override
    def refused(self, name: str, why: ResponseError) -> None:
        shard = self._shard_of(name)
        shard.broken(why)
        # It may have been known already, but not when the name was placed.
        self.switched(shard)

    @override
    def suspect(self) -> None:
        self._topology.refresh()

    @override
    def explain(self, why: ResponseError) -> Exception:
        text = str(why)
        if isinstance(why, NoPermissionError):
            channels = starting_with(f"{self._prefix}{{")
            hint = f"allow +ssubscribe, +sunsubscribe, +spublish and &{channels}"
        elif "unknown command" in text.lower():
            hint = (
                "in a cluster, the pub/sub layer needs Redis 7 or Valkey; upgrade it, "
                "or use RedisChannelLayer"
            )
        else:
            return why
        return RedisConnectionError(f"{hint} ({text})")

    def _shard_of(self, redis_name: str) -> Shard:
        end = redis_name.index("}", len(self._prefix) + 1) + 1
        return self._by_prefix[redis_name[:end]]
