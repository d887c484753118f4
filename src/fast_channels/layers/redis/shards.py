"""The servers of a layer in one event loop, and which of them a name leads to.

A layer distributes its groups and queues over shards. A shard is one of several hosts,
which is a server or whichever server Sentinels currently name as the master. In a Redis
Cluster, a shard is one of 64 slots, which the cluster distributes over its masters:
the prefix of the shard's keys ends with a hash tag, ``asgi{17}``, so that all keys of
a shard share a slot and scripts can use them together.
"""

import asyncio
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from typing_extensions import override

from .cluster import Cluster, SlotCommands
from .commands import CommandConnection, Commands
from .hosts import Host
from .master_watch import MasterWatch
from .sentinel import Master, make_connection
from .sharding import shard_of
from .wire import Connection, slot_of, starting_with

__all__ = ["Shard", "Shards", "open_shards"]

# Seconds to wait for a reply, by default.
_TIMEOUT = 5.0
# Seconds after which an event loop that only sends opens more than one connection.
_SHORT = 1.0
# Number of keys to scan with one command.
_STEP = 1000
# All slots of a cluster, and how many of them a layer uses: enough to load up to twenty
# masters evenly, and few enough that each process can write to all of them regularly.
_SLOTS, _SHARDS = 16_384, 64


@dataclass(frozen=True, eq=False, slots=True)
class Shard:
    """One of the servers of a layer, or one of the slots of a cluster."""

    name: str
    """Its name in error messages."""
    prefix: str
    """The prefix of its keys."""
    connect: Callable[[], Connection]
    """Returns a new connection to it, not open yet."""
    commands: Commands
    """Where its commands are sent."""
    timeout: float
    """Seconds to wait for a reply."""
    tripwire: str | None = None
    """The name of a shard channel in its slot; None for a server.

    Redis ends a subscription to it when the slot moves to another node.
    """
    broken: Callable[[Exception], bool] = lambda _: False
    """Called with the reason when a connection has broken.

    Returns whether the reason is that another server has the shard now.
    """


class Shards:
    """The shards of a layer. Belongs to one event loop.

    Args:
        shards: The shards.
        watches: The watches of those servers that Sentinels name.
    """

    def __init__(
        self, shards: Sequence[Shard], watches: Sequence[MasterWatch] = ()
    ) -> None:
        self._shards = shards
        self._watches = watches
        self._loop = asyncio.get_running_loop()
        self.settled_at: float = self._loop.time() + _SHORT
        """When sending begins to start the watches, on the event loop's clock."""

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards)

    def of(self, name: str) -> Shard:
        """Return the shard of a group, of a queue, or of a Redis channel.

        See ``shard_of()`` for the part of a channel's name to pass.
        """
        return self._shards[shard_of(name, len(self._shards))]

    def in_turn(self, channel: str, number: int) -> Shard:
        """Return the shard of the message with this number to a plain channel.

        Hosts take turns, because channels_redis polls one host after the other.
        """
        del channel
        return self._shards[number % len(self._shards)]

    def holding(self, queue: str) -> Sequence[Shard]:
        """Return the shards that messages of a queue can be in."""
        del queue
        return self._shards

    async def find(self) -> list[tuple[Shard, list[bytes]]]:
        """Return all keys that begin with the prefix, by shard.

        Raises:
            RedisUnavailable: A server cannot be reached, or did not reply.
        """
        found = [_scan(shard.commands, shard.prefix) for shard in self]
        return list(zip(self, await asyncio.gather(*found), strict=True))

    def watch(self) -> None:
        """Notice from now on when another server becomes the master."""
        for watch in self._watches:
            watch.start()

    def watch_if_settled(self) -> None:
        """Do so, unless this event loop has used the layer for only a moment.

        A process that sends once and ends does not need to watch Sentinels.
        """
        if self._watches and self._loop.time() > self.settled_at:
            self.watch()

    async def close(self) -> None:
        """Close the watches and the connections for commands."""
        await asyncio.gather(
            *[watch.close() for watch in self._watches],
            *[cast("CommandConnection", each.commands).close() for each in self],
        )


class ClusterShards(Shards):
    """The shards of a layer on a Redis Cluster. Belongs to one event loop.

    Args:
        host: The host that stands for the cluster.
        prefix: The prefix of all keys.
        switched: See ``open_shards()``.
        lost: See ``open_shards()``.
    """

    def __init__(
        self,
        host: Host,
        prefix: str,
        switched: Callable[[Shard], None],
        lost: Callable[[Shard], None],
    ) -> None:
        self._prefix = prefix
        self._by_slot: dict[int, list[Shard]] = {}
        timeout = host.command_timeout or _TIMEOUT
        prefixes = [f"{prefix}{{{tag}}}" for tag in _tags()]
        slots = [*map(slot_of, prefixes)]
        self.cluster: Cluster = Cluster(
            host,
            {*slots},
            timeout=timeout,
            switched=functools.partial(self._tell, switched),
            lost=functools.partial(self._tell, lost),
        )
        """The connections to its nodes."""
        for slot, own in zip(slots, prefixes, strict=True):
            shard = Shard(
                f"slot {slot} of {host}",
                own,
                functools.partial(self.cluster.connect, slot),
                SlotCommands(self.cluster, slot),
                timeout,
                tripwire=own,
                broken=functools.partial(self.cluster.broken, slot),
            )
            # More than one if the prefix has a hash tag of its own.
            self._by_slot.setdefault(slot, []).append(shard)
        super().__init__([*itertools.chain(*self._by_slot.values())])

    @override
    def in_turn(self, channel: str, number: int) -> Shard:
        return self.of(channel)

    @override
    def holding(self, queue: str) -> Sequence[Shard]:
        return (self.of(queue),)

    @override
    async def find(self) -> list[tuple[Shard, list[bytes]]]:
        by_prefix = {shard.prefix.encode(): (shard, list[bytes]()) for shard in self}
        masters = await self.cluster.masters()
        pages = [_scan(master, self._prefix + "{") for master in masters]
        for key in itertools.chain(*await asyncio.gather(*pages)):
            start, end, _ = key[len(self._prefix) :].partition(b"}")
            found = by_prefix.get(self._prefix.encode() + start + end)
            if found is not None:
                found[1].append(key)
        return list(by_prefix.values())

    @override
    async def close(self) -> None:
        await self.cluster.close()

    def _tell(self, notice: Callable[[Shard], None], slot: int) -> None:
        for shard in self._by_slot[slot]:
            notice(shard)


def open_shards(
    hosts: Sequence[Host],
    prefix: str,
    switched: Callable[[Shard], None],
    lost: Callable[[Shard], None],
) -> Shards:
    """Return the shards of a layer; they connect when they are used.

    Args:
        hosts: The hosts of the layer, in the same order in every process.
        prefix: The prefix of all keys.
        switched: Called when another server has become the master of a shard; must drop
            all connections to the shard but the one for commands.
        lost: Called when a shard of a cluster may have lost its latest data, while its
            master has stayed the same.
    """
    if hosts[0].kind == "cluster":
        return ClusterShards(hosts[0], prefix, switched, lost)
    shards: list[Shard] = []
    watches: list[MasterWatch] = []
    for host in hosts:
        place = Master(host) if host.kind == "sentinel" else host
        connect = functools.partial(make_connection, place)
        name = str(host)
        timeout = host.command_timeout or _TIMEOUT
        commands = CommandConnection(connect, name, timeout=timeout)
        shard = Shard(name, prefix, connect, commands, timeout)
        shards.append(shard)
        if isinstance(place, Master):
            notice = functools.partial(_reconnect, commands, switched, shard)
            watches.append(MasterWatch(place, notice))
    return Shards(shards, watches)


def _reconnect(
    commands: CommandConnection, switched: Callable[[Shard], None], shard: Shard
) -> None:
    commands.reconnect()
    switched(shard)


async def _scan(commands: Commands, prefix: str) -> list[bytes]:
    """Return the keys of a server that begin with a prefix, step by step."""
    pattern = starting_with(prefix)
    found: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, page = cast(
            "tuple[bytes, list[bytes]]",
            await commands.execute("SCAN", cursor, "MATCH", pattern, "COUNT", _STEP),
        )
        found.update(page)
        if cursor == b"0":
            return list(found)


@functools.cache
def _tags() -> tuple[str, ...]:
    """Return the hash tags of the shards of a cluster.

    The slots are divided into equal ranges, and the tag of a range is the smallest
    number whose slot is in it. Clusters usually give each master such a range too.
    """
    tags: dict[int, str] = {}
    numbers = map(str, itertools.count())
    while len(tags) < _SHARDS:
        number = next(numbers)
        tags.setdefault(slot_of(number) * _SHARDS // _SLOTS, number)
    return tuple(tags[index] for index in range(_SHARDS))
