"""Which Redis channels an event loop listens to, and at which servers."""

import abc
import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from typing_extensions import override

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis.shards import Shard, Shards
from fast_channels.layers.redis.wire import (
    WRITE_CLUSTER,
    Reply,
    is_cluster_node,
    starting_with,
)

from .subscriber import Pattern, Subscriber

__all__ = ["HostSubscriptions", "Subscriptions"]


class Subscriptions(abc.ABC):
    """The subscriptions of an endpoint, and the way to those of others.

    A name is that of a plain channel, of a group, or what the channels of a process
    have in common.

    Args:
        shards: The shards of the layer.
        patience: Seconds between two checks, during a wait for Redis to confirm, that
            Redis is there.
    """

    def __init__(self, shards: Shards, patience: float) -> None:
        self._shards = shards
        self._patience = patience
        self.own: set[str] = set()
        """What the names of channels made here begin with."""

    @abc.abstractmethod
    def publish(self, name: str, message: bytes) -> Coroutine[Any, Any, Any]:
        """Publish a message for a group."""

    @abc.abstractmethod
    def send(self, channel: str, message: bytes) -> Coroutine[Any, Any, Any]:
        """Publish a message for a channel."""

    @abc.abstractmethod
    async def listen_to_own(self, name: str) -> None:
        """Listen to all channels made here whose names begin with this one."""

    @abc.abstractmethod
    def name_of(self, channel: str) -> str:
        """Return the name to listen to for a channel that was not made here."""

    def listen(self, name: str) -> None:
        """Add a listener to a name."""
        self._shards.watch()
        subscriber, redis_name = self._find(name)
        subscriber.listen(redis_name)

    def ignore(self, name: str) -> None:
        """Remove a listener from a name."""
        subscriber, redis_name = self._find(name)
        subscriber.ignore(redis_name)

    async def heard(self, name: str) -> None:
        """Wait until Redis has confirmed a subscription, unless Redis is away."""
        before = None
        while (found := self._find(name)) != before:
            await self._heard(*found)
            # It can have another place now.
            before = found

    @abc.abstractmethod
    def switched(self, shard: Shard) -> None:
        """Listen to the names of a shard at the server that is its master now."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Disconnect, and listen to nothing any more."""

    @abc.abstractmethod
    def _find(self, name: str) -> tuple[Subscriber, str]:
        """Return the place of a name, and its Redis channel."""

    async def _heard(self, subscriber: Subscriber, redis_name: str) -> None:
        while (pending := subscriber.pending(redis_name)) is not None:
            if subscriber.away:
                # Others get a turn, even if a task joins groups in an endless loop.
                await asyncio.sleep(0)
                return
            await asyncio.wait([pending], timeout=self._patience)


class HostSubscriptions(Subscriptions):
    """The subscriptions where each shard is a host.

    Args:
        shards: The shards of the layer.
        received: Called with each message: the name of the Redis channel, and the data.
        lost: Called when a connection has broken.
        restored: Called when a later connection has all subscriptions.
        patience: See ``Subscriptions``.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        received: Callable[[bytes, bytes], None],
        lost: Callable[[], None],
        restored: Callable[[], None],
        patience: float,
    ) -> None:
        super().__init__(shards, patience)
        self._subscribers = {
            shard: Subscriber(
                shard.connect,
                name=shard.name,
                received=received,
                lost=lost,
                restored=restored,
                timeout=shard.timeout,
            )
            for shard in shards
        }
        # Hosts that can turn out to be nodes of a cluster.
        self._unchecked = {*shards}

    @override
    def publish(self, name: str, message: bytes) -> Coroutine[Any, Any, Any]:
        # A process that sends once and ends does not need to watch Sentinels.
        self._shards.watch_if_settled()
        shard = self._shards.of(name)
        if shard in self._unchecked:
            return self._publish_first(shard, name, message)
        return shard.commands.execute("PUBLISH", name, message)

    @override
    def send(self, channel: str, message: bytes) -> Coroutine[Any, Any, Any]:
        return self.publish(channel, message)

    async def _publish_first(self, shard: Shard, name: str, message: bytes) -> None:
        """Publish, and check in the same round trip what the server is.

        Raises:
            RedisUnavailable: It is a node of a cluster.
        """
        # Any user can send HELLO; only proxies and servers before Redis 6 refuse it.
        hello: Reply
        published: Reply
        hello, published = await asyncio.gather(
            shard.commands.execute("HELLO"),
            shard.commands.execute("PUBLISH", name, message),
            return_exceptions=True,
        )
        if is_cluster_node(hello):
            raise RedisUnavailable(f"{shard.name} is not available: {WRITE_CLUSTER}")
        if isinstance(published, BaseException):
            raise published
        self._unchecked.discard(shard)

    @override
    async def listen_to_own(self, name: str) -> None:
        pattern = Pattern(starting_with(name))
        if name not in self.own:
            self.own.add(name)
            self._shards.watch()
            for subscriber in self._subscribers.values():
                subscriber.listen(pattern)
        for subscriber in self._subscribers.values():
            await self._heard(subscriber, pattern)

    @override
    def name_of(self, channel: str) -> str:
        return channel

    @override
    def switched(self, shard: Shard) -> None:
        self._subscribers[shard].reconnect()

    @override
    async def close(self) -> None:
        self.own.clear()
        await asyncio.gather(*[each.close() for each in self._subscribers.values()])

    @override
    def _find(self, name: str) -> tuple[Subscriber, str]:
        return self._subscribers[self._shards.of(name)], name
