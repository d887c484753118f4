"""Who is in which group: the truth about the channels of one event loop.

Redis holds the members of a group, but it may be restarted, and drops them when they
get too old. So whoever has a channel keeps its memberships here, and has them in Redis:
asserted again after a reconnect, renewed long before they expire, and removed when the
channel leaves, also when it leaves while Redis is away.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from redis.exceptions import ResponseError

from .connections import CommandConnection, RedisUnavailable
from .scripts import GROUP_ADD, run
from .sharding import names_by_shard, shard_of

__all__ = ["Memberships"]

_logger = logging.getLogger(__name__)

# How many members are added by one command, and groups told of at once.
_CHUNK = 1000
# How often in seconds to ask whether waiting for a reply is still of use.
_PATIENCE = 0.1
# Seconds between two attempts to tell Redis what it has missed.
_RETRY = 1.0
# How many members that left while Redis was away are remembered; others expire.
_FORGET = 100_000


class Memberships:
    """The groups that the channels of one event loop are in.

    Args:
        shards: The command connections to the shards.
        prefix: What keys start with.
        group_expiry: After how many seconds Redis drops a member.
        away: Returns whether a shard is known to be unreachable.
    """

    def __init__(
        self,
        shards: Sequence[CommandConnection],
        prefix: str,
        group_expiry: float,
        away: Callable[[int], bool],
    ) -> None:
        self._shards = shards
        self._away = away
        self._prefix = prefix
        self._group_expiry = group_expiry
        self.groups: dict[str, set[str]] = {}
        """The channels in each group."""
        # The same the other way round.
        self._by_channel: dict[str, set[str]] = {}
        # Members that have left and that Redis may still hold.
        self._left: dict[tuple[str, str], None] = {}
        # Shards that have to be told everything again.
        self._behind: set[int] = set()
        # Tells Redis what it has missed, and renews what it holds.
        self._keeper: asyncio.Task[None] | None = None
        # What the keeper sleeps on.
        self._woken = asyncio.Event()
        # Commands to which nobody may wait for the reply any more.
        self._telling: set[asyncio.Task[None]] = set()

    async def add(self, group: str, channel: str) -> None:
        """Add a channel to a group; Redis holds it when this returns, or when it can.

        Cancelling does not take it back.
        """
        self.groups.setdefault(group, set()).add(channel)
        self._by_channel.setdefault(channel, set()).add(group)
        self._left.pop((group, channel), None)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        await self._tell(group, self._insert_own(group, [channel]))

    async def discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; nothing changes if it is not in it."""
        self._forget(group, channel)
        await self._tell(group, self.remove(group, channel))

    async def remove(self, group: str, *channels: str) -> None:
        """Remove channels from a group in Redis, whoever they belong to.

        Raises:
            RedisUnavailable: Nobody knows whether they are removed.
        """
        await self._of(group).execute("ZREM", self._key(group), *channels)
        for channel in channels:
            self._left.pop((group, channel), None)
        if not self.groups:
            self._woken.set()

    async def insert(self, group: str, *channels: str) -> None:
        """Add channels to a group in Redis, whoever they belong to.

        Raises:
            RedisUnavailable: Nobody knows whether they are added.
        """
        milliseconds = int(self._group_expiry * 1000) + 1
        await run(
            self._of(group), GROUP_ADD, [self._key(group)], milliseconds, *channels
        )

    async def delete(self, channel: str) -> None:
        """Remove a channel from all its groups."""
        groups = list(self._by_channel.get(channel, ()))
        for group in groups:
            self._forget(group, channel)
        # At once: the commands to each shard share a round trip.
        await asyncio.gather(
            *[self._tell(group, self.remove(group, channel)) for group in groups]
        )

    def assert_again(self, shard: int) -> None:
        """Have a shard told everything, as it may have lost it."""
        if self.groups or self._left:
            self._behind.add(shard)
            self._woken.set()

    def clear(self) -> None:
        """Forget everything; Redis is not told."""
        self.groups.clear()
        self._by_channel.clear()
        self._left.clear()
        self._woken.set()

    async def close(self) -> None:
        """Remove all channels from all groups.

        Raises:
            RedisUnavailable: Redis was not told of all.
        """
        keeper, self._keeper = self._keeper, None
        tasks = [*self._telling, *([] if keeper is None else [keeper])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        groups = {group: list(channels) for group, channels in self.groups.items()}
        self.clear()
        await asyncio.gather(
            *[self.remove(group, *channels) for group, channels in groups.items()]
        )

    def _forget(self, group: str, channel: str) -> None:
        channels = self.groups.get(group)
        if channels is None or channel not in channels:
            return
        channels.remove(channel)
        if not channels:
            del self.groups[group]
        groups = self._by_channel[channel]
        groups.remove(group)
        if not groups:
            del self._by_channel[channel]
        # Until Redis has confirmed that.
        self._left[group, channel] = None
        if len(self._left) > _FORGET:
            del self._left[next(iter(self._left))]

    async def _tell(self, group: str, change: Coroutine[Any, Any, None]) -> None:
        """Have a change made in Redis, and wait for it unless Redis is away."""
        shard = self._shard(group)
        task = asyncio.create_task(self._change(shard, change))
        self._telling.add(task)
        task.add_done_callback(self._told)
        while not task.done() and not self._away(shard):
            await asyncio.wait([task], timeout=_PATIENCE)
        if task.done():
            await task

    def _told(self, task: asyncio.Task[None]) -> None:
        self._telling.discard(task)
        if not task.cancelled():
            # If nobody waits for it any more, it is logged when the group is renewed.
            task.exception()

    async def _change(self, shard: int, change: Coroutine[Any, Any, None]) -> None:
        try:
            await change
        except RedisUnavailable:
            self._behind.add(shard)
            self._woken.set()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        renew_at = loop.time() + self._group_expiry / 3
        while self.groups or self._left:
            self._woken.clear()
            if not self._behind:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(renew_at):
                        await self._woken.wait()
            if loop.time() >= renew_at:
                renew_at = loop.time() + self._group_expiry / 3
                self._behind.update(range(len(self._shards)))
            for shard in list(self._behind):
                await self._tell_all(shard)
            if self._behind:
                await asyncio.sleep(_RETRY)
        self._keeper = None

    async def _tell_all(self, shard: int) -> None:
        """Tell a shard everything that it should know."""
        self._behind.discard(shard)
        groups = names_by_shard(self.groups, len(self._shards)).get(shard, [])
        left = [pair for pair in self._left if self._shard(pair[0]) == shard]
        changes = [self._insert_all(group) for group in groups]
        changes += [self._remove_again(group, channel) for group, channel in left]
        for start in range(0, len(changes), _CHUNK):
            results = await asyncio.gather(
                *changes[start : start + _CHUNK], return_exceptions=True
            )
            for result in results:
                if isinstance(result, RedisUnavailable):
                    self._behind.add(shard)
                elif isinstance(result, ResponseError):
                    _logger.error("a group cannot be kept: %s", result)

    async def _insert_all(self, group: str) -> None:
        channels = list(self.groups.get(group, ()))
        for start in range(0, len(channels), _CHUNK):
            # By the time that it is its turn, one may have left.
            here = self.groups.get(group, ())
            part = [each for each in channels[start : start + _CHUNK] if each in here]
            if part:
                await self._insert_own(group, part)

    async def _insert_own(self, group: str, channels: Sequence[str]) -> None:
        await self.insert(group, *channels)
        # A server that did not know the script was told twice. Who left between the
        # two has been added again.
        gone = [each for each in channels if each not in self.groups.get(group, ())]
        if gone:
            await self.remove(group, *gone)

    async def _remove_again(self, group: str, channel: str) -> None:
        if (group, channel) in self._left:
            await self.remove(group, channel)

    def _shard(self, group: str) -> int:
        return shard_of(group, len(self._shards))

    def _of(self, group: str) -> CommandConnection:
        return self._shards[self._shard(group)]

    def _key(self, group: str) -> str:
        return f"{self._prefix}:group:{group}"
