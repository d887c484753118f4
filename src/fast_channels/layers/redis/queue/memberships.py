"""Who is in which group: the truth about the channels of one event loop.

Redis holds the members of a group, but it can lose them: in a restart, in a failover,
or when they get too old. So a process keeps the memberships of its channels here, and
writes them to Redis: when they change, again after a reconnect, and long before they
expire. What Redis lost without a sign of it is put back within a minute, and the lease
of the process is renewed, so that groups forget the channels of one that was killed.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from redis.exceptions import ResponseError

from fast_channels.layers.redis.commands import CommandConnection
from fast_channels.layers.redis.keys import group_key, processes_key
from fast_channels.layers.redis.scripts import GROUP_ADD, run
from fast_channels.layers.redis.sharding import names_by_shard, shard_of

from .group_writer import GroupWriter, Pair, Timing

__all__ = ["Memberships", "Timing"]

# Groups that are left in one step; the event loop goes on between two of them.
_STEP = 1000


class Memberships:
    """The groups that the channels of one event loop are in.

    Args:
        shards: The command connections to the shards.
        prefix: What keys start with.
        group_expiry: Seconds after which Redis drops a member that is not renewed.
        process: The name of the process, as the names of its channels have it.
        away: Returns whether a shard is known to be unreachable.
        timing: When Redis is written to.
    """

    def __init__(
        self,
        shards: Sequence[CommandConnection],
        prefix: str,
        group_expiry: float,
        *,
        process: str,
        away: Callable[[int], bool],
        timing: Timing,
    ) -> None:
        self._shards = shards
        self._prefix = prefix
        self._group_expiry = group_expiry
        # A beat is the time to renew, too.
        self._pause = min(timing.beat, group_expiry / 3)
        self._beats_per_check = timing.beats_per_check
        self._beats = 0
        self._renew_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.groups: dict[str, set[str]] = {}
        """The channels in each group."""
        # The same the other way round.
        self._by_channel: dict[str, set[str]] = {}
        self._writers = [
            GroupWriter(
                connection,
                prefix,
                group_expiry,
                process,
                members=partial(self._pairs, shard),
                is_member=self._is_member,
                away=partial(away, shard),
                timing=timing,
            )
            for shard, connection in enumerate(shards)
        ]

    async def add(self, group: str, channel: str) -> None:
        """Add a channel to a group; Redis holds it when this returns, or when it can.

        Cancelling does not take it back.

        Raises:
            ResponseError: The key of the group holds something else.
        """
        self.groups.setdefault(group, set()).add(channel)
        self._by_channel.setdefault(channel, set()).add(group)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._renew_at = loop.time() + self._group_expiry / 3
            self._timer = loop.call_later(self._pause, self._beat)
        await self._change(group, channel)

    async def discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; nothing changes if it is not in it.

        Cancelling does not take it back.

        Raises:
            ResponseError: The key of the group holds something else.
        """
        groups = self._by_channel.get(channel, set())
        groups.discard(group)
        if not groups:
            self._by_channel.pop(channel, None)
        self._drop(group, channel)
        await self._change(group, channel)

    async def delete(self, channel: str) -> None:
        """Remove a channel from all its groups. Cancelling does not take it back."""
        left = self._by_channel.pop(channel, set())
        writers = {self._writer(group) for group in left}
        try:
            while len(left) > _STEP:
                for _ in range(_STEP):
                    self._leave(left.pop(), channel)
                await asyncio.sleep(0)
        finally:
            while left:
                self._leave(left.pop(), channel)
        for writer in writers:
            await writer.written()

    async def insert(self, group: str, *channels: str) -> None:
        """Add channels to a group in Redis, whatever process they belong to.

        Raises:
            ResponseError: The key of the group holds something else.
            RedisUnavailable: Redis does not reply, or refuses to.
        """
        _, *wrong = await run(
            self._of(group),
            GROUP_ADD,
            [processes_key(self._prefix), self._key(group)],
            self._group_expiry,
            "",
            0,
            "CH",
            len(channels),
            *channels,
        )
        if wrong:
            raise ResponseError(f"WRONGTYPE {self._key(group)!r} holds something else")

    async def remove(self, group: str, *channels: str) -> None:
        """Remove channels from a group in Redis, whatever process they belong to.

        Raises:
            ResponseError: The key of the group holds something else.
            RedisUnavailable: Redis does not reply, or refuses to.
        """
        await self._of(group).execute("ZREM", self._key(group), *channels)

    def assert_again(self, shard: int) -> None:
        """Write everything to a shard that may have lost it."""
        writer = self._writers[shard]
        if self.groups or writer.remembers:
            writer.write_again()

    def clear(self) -> None:
        """Forget everything; Redis is not told."""
        self.groups.clear()
        self._by_channel.clear()
        self._rest()
        for writer in self._writers:
            writer.forget()

    async def close(self) -> None:
        """Remove all channels from all groups, and this process from Redis.

        Raises:
            RedisUnavailable: Redis does not reply, or refuses to.
        """
        await asyncio.gather(*[writer.stop() for writer in self._writers])
        groups = dict(self.groups)
        self.clear()
        by_shard = names_by_shard(groups, len(self._shards))
        results = await asyncio.gather(
            *[
                writer.say_goodbye(
                    (group, channel)
                    for group in by_shard.get(shard, ())
                    for channel in groups[group]
                )
                for shard, writer in enumerate(self._writers)
            ],
            return_exceptions=True,
        )
        for result in results:
            if result is not None:
                raise result

    async def _change(self, group: str, channel: str) -> None:
        writer = self._writer(group)
        writer.note((group, channel))
        await writer.written(group)

    def _leave(self, group: str, channel: str) -> None:
        self._drop(group, channel)
        self._writer(group).note((group, channel))

    def _drop(self, group: str, channel: str) -> None:
        channels = self.groups.get(group, set())
        channels.discard(channel)
        if not channels:
            self.groups.pop(group, None)
        if not self.groups:
            self._rest()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        """Renew the leases and, when it is time, what they are for."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._pause, self._beat)
        self._beats += 1
        renews = loop.time() >= self._renew_at
        if renews:
            self._renew_at = loop.time() + self._group_expiry / 3
        for writer in self._writers:
            if not writer.registered:
                continue
            if renews:
                writer.write_again()
            writer.beat(compare=self._beats % self._beats_per_check == 0)

    def _is_member(self, pair: Pair) -> bool:
        group, channel = pair
        return channel in self.groups.get(group, ())

    def _pairs(self, shard: int) -> Iterator[Pair]:
        """Return the pairs of a shard, while groups come and go."""
        for group in list(self.groups):
            if self._shard(group) == shard:
                for channel in list(self.groups.get(group, ())):
                    yield group, channel

    def _shard(self, group: str) -> int:
        return shard_of(group, len(self._shards))

    def _writer(self, group: str) -> GroupWriter:
        return self._writers[self._shard(group)]

    def _of(self, group: str) -> CommandConnection:
        return self._shards[self._shard(group)]

    def _key(self, group: str) -> str:
        return group_key(self._prefix, group)
