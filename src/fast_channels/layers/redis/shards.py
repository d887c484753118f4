"""The servers of a layer in one event loop, and which of them a name leads to.

Several hosts share the channels and groups of a layer. Each is a shard: one server, or
whichever server Sentinels currently name as the master.
"""

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .commands import CommandConnection
from .hosts import Host
from .master_watch import MasterWatch
from .sentinel import Master, make_connection
from .sharding import shard_of
from .wire import Connection

__all__ = ["Shard", "Shards", "open_shards"]

# Seconds to wait for a reply, by default.
_TIMEOUT = 5.0
# Seconds after which an event loop that only sends opens more than one connection.
_SHORT = 1.0


@dataclass(frozen=True, eq=False, slots=True)
class Shard:
    """One of the servers of a layer."""

    name: str
    """Its name in error messages."""
    connect: Callable[[], Connection]
    """Returns a new connection to it, not open yet."""
    commands: CommandConnection
    """The connection for commands."""
    timeout: float
    """Seconds to wait for a reply."""


class Shards:
    """The servers of a layer. Belongs to one event loop.

    Args:
        shards: The servers.
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

    def in_turn(self, number: int) -> Shard:
        """Return the shard of the message with this number to a plain channel.

        The shards take turns, because channels_redis polls one host after the other.
        """
        return self._shards[number % len(self._shards)]

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
            *[shard.commands.close() for shard in self._shards],
        )


def open_shards(hosts: Sequence[Host], switched: Callable[[Shard], None]) -> Shards:
    """Return the shards of a layer; they connect when they are used.

    Args:
        hosts: The hosts of the layer, in the same order in every process.
        switched: Called when another server has become the master of a shard; must drop
            all connections to the shard but the one for commands.
    """
    shards: list[Shard] = []
    watches: list[MasterWatch] = []
    for host in hosts:
        place = Master(host) if host.kind == "sentinel" else host
        connect = functools.partial(make_connection, place)
        name = str(host)
        timeout = host.command_timeout or _TIMEOUT
        commands = CommandConnection(connect, name, timeout=timeout)
        shard = Shard(name, connect, commands, timeout)
        shards.append(shard)
        if isinstance(place, Master):
            notice = functools.partial(_reconnect, shard, switched)
            watches.append(MasterWatch(place, notice))
    return Shards(shards, watches)


def _reconnect(shard: Shard, switched: Callable[[Shard], None]) -> None:
    shard.commands.reconnect()
    switched(shard)
