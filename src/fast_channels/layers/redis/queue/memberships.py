"""The group memberships of the channels of one event loop, as the source of truth.

Redis holds the members of a group, but it can lose them: in a restart, in a failover,
or when they expire. So a process keeps the memberships of its channels here, and writes
them to Redis: when they change, again after a reconnect, and long before they expire.
Memberships that Redis has silently lost are restored within a minute, and the lease of
the process is renewed, so that groups drop the channels of a process that was killed.
Of a group with many members here, Redis holds stand-ins instead of the channels.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from fast_channels.layers.groups import Groups
from fast_channels.layers.redis.keys import group_key, processes_key
from fast_channels.layers.redis.scripts import GROUP_ADD, run
from fast_channels.layers.redis.shards import Shard, Shards
from fast_channels.layers.redis.wire import ResponseError

from .group_writer import GroupWriter, Pair, Timing
from .stand_ins import NAMED, StandIn, StandIns, queue_of

__all__ = ["Memberships", "Timing"]


class Memberships:
    """The groups that the channels of one event loop are in.

    Args:
        shards: The shards.
        group_expiry: Seconds after which Redis drops a member that is not renewed.
        process: Name of the process, as in the names of its channels.
        away: Returns whether a shard is known to be unreachable.
        timing: When to write to Redis.
        represented: Returns whether a stand-in represents all members of a group, even
            a single one: a message lists its position with a stand-in.
        relisted: Called with each group whose stand-in Redis lists again.
    """

    def __init__(
        self,
        shards: Shards,
        group_expiry: float,
        *,
        process: str,
        away: Callable[[Shard], bool],
        timing: Timing,
        represented: Callable[[str], bool] = lambda _: False,
        relisted: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.shards: Shards = shards
        """The shards."""
        self._group_expiry = group_expiry
        self._represented = represented
        self._relisted = relisted
        # Memberships are renewed on a beat, too.
        self._pause = min(timing.beat, group_expiry / 3)
        self._step = timing.step
        self._beats_per_check = timing.beats_per_check
        self._beats = 0
        self._renew_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.groups: Groups = Groups()
        """The groups of the channels."""
        self.stand_ins: StandIns = StandIns()
        """The names that stand for many channels."""
        # The groups of each shard, for a turn of the event loop.
        self._by_shard: dict[Shard, list[str]] | None = None
        self._writers = {
            shard: GroupWriter(
                shard,
                group_expiry,
                process,
                members=partial(self._pairs, shard),
                is_member=self._is_listed,
                listed=self._note_listed,
                away=partial(away, shard),
                timing=timing,
            )
            for shard in shards
        }

    async def add(self, group: str, channel: str) -> None:
        """Add a channel to a group; while Redis is away, it is written later.

        Cancelling does not undo it.

        Raises:
            ResponseError: The key of the group has another type.
        """
        if self.note_joined(group, channel):
            await self._writer(group).written(group)
        else:
            # Others get a turn, even if a task joins groups in an endless loop.
            await asyncio.sleep(0)

    def note_joined(self, group: str, channel: str, *, by_name: bool = False) -> bool:
        """Add a channel to a group, to be written soon.

        Args:
            group: The group.
            channel: The channel.
            by_name: Whether Redis lists its name, even if it has a stand-in.

        Returns:
            Whether Redis lists neither the channel nor its stand-in yet.
        """
        is_new = self.groups.add(group, channel)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._renew_at = loop.time() + self._group_expiry / 3
            self._timer = loop.call_later(self._pause, self._beat)
        members = self.groups.by_group[group]
        writer = self._writer(group)
        if (
            len(members) <= NAMED
            and group not in self.stand_ins.by_group
            and not self._represented(group)
        ):
            writer.note((group, channel))
            return True
        if is_new:
            self.stand_ins.join(group, channel, members)
        if by_name:
            writer.note((group, channel))
        unlisted = [
            stand_in
            for stand_in in self.stand_ins.by_group[group].values()
            if stand_in.listed != writer.epoch
        ]
        for stand_in in unlisted:
            writer.note((group, stand_in.name))
        return bool(unlisted)

    async def discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; no effect if it is not in the group.

        Cancelling does not undo it.

        Raises:
            ResponseError: The key of the group has another type.
        """
        self.note_left(group, channel)
        await self._writer(group).written(group)

    def note_left(self, group: str, channel: str) -> None:
        """Remove a channel from a group, to be written soon."""
        stand_in = self.stand_ins.of(group, channel)
        if self.groups.discard(group, channel):
            self._rest_if_empty()
            if stand_in is not None:
                self._note_gone(stand_in, channel)
        # By name in any case, since another process may have added it.
        self._writer(group).note((group, channel))

    async def delete(self, channel: str) -> None:
        """Remove a channel from all its groups. Cancelling does not undo it."""
        writers: set[GroupWriter] = set()
        try:
            while channel in self.groups.by_channel:
                writers |= self._leave(channel, self._step)
                if channel in self.groups.by_channel:
                    await asyncio.sleep(0)
        finally:
            self._leave(channel, sys.maxsize)
        for writer in writers:
            await writer.written()

    async def insert(self, group: str, *channels: str) -> None:
        """Add channels of any process to a group in Redis, by name.

        Raises:
            ResponseError: The key of the group has another type.
            RedisUnavailable: Redis does not reply, or refuses the command.
        """
        shard = self.shards.of(group)
        key = group_key(shard.prefix, group)
        _, *wrong = await run(
            shard.commands,
            GROUP_ADD,
            [processes_key(shard.prefix), key],
            self._group_expiry,
            "",
            0,
            "CH",
            len(channels),
            *channels,
        )
        if wrong:
            raise ResponseError(f"WRONGTYPE {key!r} holds something else")

    async def remove(self, group: str, *channels: str) -> None:
        """Remove channels of any process from a group in Redis.

        Raises:
            ResponseError: The key of the group has another type.
            RedisUnavailable: Redis does not reply, or refuses the command.
        """
        shard = self.shards.of(group)
        await shard.commands.execute("ZREM", group_key(shard.prefix, group), *channels)

    def assert_again(self, shard: Shard) -> None:
        """Write everything again to a shard that may have lost it."""
        writer = self._writers[shard]
        if self.groups.by_group or writer.remembers:
            writer.write_again()

    def clear(self) -> None:
        """Forget everything, without writing to Redis."""
        self.groups.clear()
        self.stand_ins.clear()
        self._rest_if_empty()
        for writer in self._writers.values():
            writer.forget()

    async def close(self) -> None:
        """Remove all channels from all groups, and this process from Redis.

        Raises:
            RedisUnavailable: Redis does not reply, or refuses the command.
        """
        await asyncio.gather(*[writer.stop() for writer in self._writers.values()])
        pairs = {shard: list(self._pairs(shard)) for shard in self._writers}
        self.clear()
        results = await asyncio.gather(
            *[
                writer.say_goodbye(iter(pairs[shard]))
                for shard, writer in self._writers.items()
            ],
            return_exceptions=True,
        )
        for result in results:
            if result is not None:
                raise result

    def _leave(self, channel: str, limit: int) -> set[GroupWriter]:
        """Remove a channel from some of its groups; return the writers with changes."""
        writers: set[GroupWriter] = set()
        for group in self.groups.discard_some(channel, limit):
            writer = self._writer(group)
            stand_in = self.stand_ins.of(group, channel)
            if stand_in is None or channel in stand_in.named:
                writer.note((group, channel))
                writers.add(writer)
            if stand_in is not None and self._note_gone(stand_in, channel):
                writers.add(writer)
        self._rest_if_empty()
        return writers

    def _note_gone(self, stand_in: StandIn, channel: str) -> bool:
        """Count a member that has left; return whether its stand-in goes as well."""
        was_last = self.stand_ins.leave(stand_in, channel)
        if was_last:
            self._writer(stand_in.group).note((stand_in.group, stand_in.name))
        return was_last

    def _rest_if_empty(self) -> None:
        if self._timer is not None and not self.groups.by_group:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        """Renew the leases and, when it is time, the memberships."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._pause, self._beat)
        self._beats += 1
        renews = loop.time() >= self._renew_at
        if renews:
            self._renew_at = loop.time() + self._group_expiry / 3
        for writer in self._writers.values():
            if not writer.registered:
                continue
            if renews:
                writer.write_again()
            writer.beat(compare=self._beats % self._beats_per_check == 0)

    def _is_listed(self, pair: Pair) -> bool:
        """Return whether Redis should list a name in a group."""
        group, name = pair
        if name not in self.groups.by_group.get(group, ()):
            return name in self.stand_ins.by_name
        by_queue = self.stand_ins.by_group.get(group)
        if by_queue is None:
            return True
        stand_in = by_queue[queue_of(name)]
        if stand_in.listed == self._writer(group).epoch:
            return False
        # Redis may have lost the stand-in, or a failover may have brought back names.
        stand_in.named.add(name)
        return True

    def _note_listed(self, pairs: Sequence[Pair], epoch: int) -> None:
        """Note that Redis lists stand-ins, and remove names that they replace."""
        for group, name in pairs if self.stand_ins.by_name else ():
            stand_in = self.stand_ins.by_name.get(name)
            if stand_in is None:
                continue
            writer = self._writer(group)
            if group in writer.wrong:
                stand_in.listed = None
                continue
            if stand_in.listed != epoch:
                self._relisted(group)
            stand_in.listed = epoch
            if epoch == writer.epoch:
                named, stand_in.named = stand_in.named, set()
                for channel in named:
                    writer.note((group, channel))

    def _pairs(self, shard: Shard) -> Iterator[Pair]:
        """Yield the pairs of a shard, even while groups change."""
        for group in self._groups_of(shard):
            for name in self._names(group):
                yield group, name

    def _groups_of(self, shard: Shard) -> Sequence[str]:
        """Return the groups of a shard."""
        if len(self._writers) == 1:
            return list(self.groups.by_group)
        if self._by_shard is None:
            # Usually, all shards ask in one turn of the event loop.
            asyncio.get_running_loop().call_soon(self._forget_by_shard)
            self._by_shard = {}
            for group in self.groups.by_group:
                self._by_shard.setdefault(self.shards.of(group), []).append(group)
        return self._by_shard.get(shard, ())

    def _forget_by_shard(self) -> None:
        self._by_shard = None

    def _names(self, group: str) -> list[str]:
        """Return the names that Redis should list in a group for this process."""
        by_queue = self.stand_ins.by_group.get(group)
        if by_queue is None:
            return list(self.groups.by_group.get(group, ()))
        names = [stand_in.name for stand_in in by_queue.values()]
        return names + [name for each in by_queue.values() for name in each.named]

    def _writer(self, group: str) -> GroupWriter:
        return self._writers[self.shards.of(group)]
