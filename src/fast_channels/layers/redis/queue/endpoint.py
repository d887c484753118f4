"""A queue layer's part in one event loop: connections, inboxes, memberships."""

import asyncio
import functools
import math
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from fast_channels.exceptions import UndecodableMessage
from fast_channels.layers.copies import copies_of
from fast_channels.layers.distribution import Distribution
from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.layers.redis.keys import mark_key, queue_key
from fast_channels.layers.redis.layer import Endpoint, RedisBaseLayer
from fast_channels.layers.redis.logs import Places
from fast_channels.layers.redis.scripts import SEND, Script, run
from fast_channels.layers.redis.shards import Shard
from fast_channels.layers.serializers import CHANNEL_KEY
from fast_channels.layers.shared import SharedMessage

from .inbox import Inbox, Popped
from .memberships import Memberships, Timing
from .plain_queue import PlainQueue
from .stand_ins import MARK, queue_of

if TYPE_CHECKING:
    from fast_channels.layers.groups import Groups

__all__ = ["Held", "QueueEndpoint"]

# Plain channels need no limit here: while messages wait, inboxes take no others. A
# change of a group has to reach its process even if that is full.
_UNBOUNDED = 1 << 62
# The channels of other processes that use this library.
_CHANNEL = re.compile(r"[^!]+\.[0-9a-f]{12}\.[0-9a-f]+![0-9a-f]+\.[0-9a-f]{16}")
# The part after the "!" in what a change of a group is for, instead of a channel.
_CHANGES = "groups"


class Held(dict[str, Any]):
    """A message of a plain channel, which Redis holds until it is acknowledged.

    Args:
        popped: The message as it was taken from Redis.
        message: Its content.
    """

    def __init__(self, popped: Popped, message: dict[str, Any]) -> None:
        super().__init__(message)
        self.popped: Popped = popped
        """The message as it was taken from Redis."""

    def __call__(self) -> "Held":
        """Return itself: it needs no copy, as it is in one mailbox only."""
        return self


class QueueEndpoint(Endpoint):
    """The part of a layer that belongs to one event loop.

    Args:
        layer: The layer.
        name: Its unique name.
        group_expiry: Seconds after which Redis drops a member that is not renewed.
        max_deliveries: Deliveries after which a message of a plain channel is a dead
            letter, if each of its receivers died; 0 for no limit.
    """

    timing: ClassVar[Timing] = Timing()
    """When to write to Redis, and how long to wait."""

    def __init__(
        self,
        layer: RedisBaseLayer[Endpoint],
        name: str,
        *,
        group_expiry: float,
        max_deliveries: int,
    ) -> None:
        super().__init__(layer, name)
        self.plain: Mailboxes = Mailboxes(lambda _: _UNBOUNDED, layer.expiry)
        # For plain channels with waiting messages: the timer that looks for a reader,
        # the time of the latest message, and how many waited then.
        self._expecting: dict[str, tuple[asyncio.TimerHandle, float, int]] = {}
        self._attached: set[str] = set()
        self._distribution = Distribution(layer.counters)
        # When to renew the mark key of each shard, if it has one.
        self._mark_at: dict[Shard, float] = {}
        self._max_deliveries = max_deliveries
        # The inboxes of the shards that have been read.
        self._inboxes: dict[Shard, Inbox] = {}
        self._refusals: set[tuple[str, str]] = set()
        self.memberships: Memberships = Memberships(
            self.shards,
            group_expiry,
            process=name,
            away=self._is_away,
            timing=self.timing,
            represented=functools.partial(_has_history, layer),
            relisted=self._relisted,
        )
        """What keeps the groups of its channels in Redis."""
        self.groups: Groups = self.memberships.groups
        if layer.has_histories:
            self.keep_logs(self.groups)

    # Sending

    def run(
        self,
        shard: Shard,
        script: Script,
        keys: list[str],
        *arguments: str | bytes | float,
        deadline: float | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Run a script on a shard."""
        self._mark(shard)
        # A process that sends once and ends does not need to watch Sentinels.
        self.shards.watch_if_settled()
        return run(shard.commands, script, keys, *arguments, deadline=deadline)

    def _mark(self, shard: Shard) -> None:
        """Mark the prefix as in use, unless that was done not long ago.

        The mark lets flush() of a layer with a shorter prefix recognize our keys. It
        outlives all messages. In a cluster, each key shows where its prefix ends.
        """
        if shard.prefix != self._layer.prefix:
            return
        now = self.loop.time()
        if now >= self._mark_at.get(shard, now):
            self._mark_at[shard] = now + self._layer.expiry / 2
            milliseconds = math.ceil(2000 * self._layer.expiry)
            key = mark_key(shard.prefix)
            shard.commands.post("SET", key, "", "PX", milliseconds)

    # Receiving

    def want(self, name: str) -> None:
        """Add a reader to a queue."""
        self.shards.watch()
        for shard in self.shards.holding(name):
            self._inbox(shard).want(name)

    def unwant(self, name: str) -> None:
        """Remove a reader from a queue."""
        for shard in self.shards.holding(name):
            self._inbox(shard).unwant(name)

    def _inbox(self, shard: Shard) -> Inbox:
        inbox = self._inboxes.get(shard)
        if inbox is None:
            inbox = self._inboxes[shard] = Inbox(
                shard,
                receiver=f"{self.name}.{len(self._inboxes)}",
                expiry=self._layer.expiry,
                max_deliveries=self._max_deliveries,
                deliver=self._deliver,
                waiting=self._waiting,
                connected=functools.partial(self._connected, shard),
                flushed=functools.partial(self._lost_data, shard),
                refusals=self._refusals,
            )
        return inbox

    def _expect_reader(self, name: str) -> None:
        """Give back the messages of a plain channel unless a reader comes soon."""
        timer, _, _ = self._expecting.get(name, (None, 0, 0))
        if timer is None:
            timer = self.loop.call_later(
                self.timing.reader, self._look_for_reader, name
            )
        self._expecting[name] = timer, self.loop.time(), self._waiting(name)

    def _look_for_reader(self, name: str) -> None:
        _, since, before = self._expecting.pop(name)
        waiting = self._waiting(name)
        came_lately = self.loop.time() < since + self.timing.reader
        if waiting and (waiting < before or came_lately):
            self._expect_reader(name)
        elif waiting:
            self._give_back(name)

    def _give_back(self, name: str) -> None:
        mailbox = self.plain.by_channel.get(name)
        for held in () if mailbox is None else mailbox.drain():
            assert isinstance(held, Held)
            held.popped.give_back(unread=True)

    def attach(self, channel: str, listener: Callable[[], None]) -> Mailbox:
        """Read a channel from now on, and return its mailbox."""
        if channel not in self._attached:
            self._attached.add(channel)
            self.want(self._layer.non_local_name(channel))
        return super().attach(channel, listener)

    def join(self, group: str, channel: str) -> Coroutine[Any, Any, None]:
        """Add a channel to a group."""
        if self.owns(channel):
            return self.memberships.add(group, channel)
        return self._change_elsewhere("group_add", group, channel)

    def leave(self, group: str, channel: str) -> Coroutine[Any, Any, None]:
        """Remove a channel from a group."""
        if self.owns(channel):
            return self.memberships.discard(group, channel)
        return self._change_elsewhere("group_discard", group, channel)

    async def _change_elsewhere(self, change: str, group: str, channel: str) -> None:
        """Change the membership of another process's channel, and let that know.

        Redis cannot change a membership that a stand-in represents, and its process
        would undo any other change soon. A process that uses another library knows
        only what Redis lists.
        """
        if change == "group_add":
            await self.memberships.insert(group, channel)
        else:
            await self.memberships.remove(group, channel)
        if _CHANNEL.fullmatch(channel) is not None:
            layer, queue = self._layer, queue_of(channel)
            value = layer.serialize(
                {
                    "type": change,
                    "group": group,
                    "channel": channel,
                    CHANNEL_KEY: queue + _CHANGES,
                }
            )
            shard = self.shards.of(queue)
            keys = [queue_key(shard.prefix, queue)]
            await self.run(shard, SEND, keys, value, _UNBOUNDED, layer.expiry)

    async def delete(self, channel: str) -> None:
        """Drop a channel's messages and memberships, even messages in transit."""
        if self.owns(channel):
            self._layer.mailboxes.bury(channel)
        if channel in self._attached:
            self._attached.remove(channel)
            self.unwant(self._layer.non_local_name(channel))
        await self.memberships.delete(channel)

    async def forget(self) -> None:
        """Leave all groups, and drop the messages of plain channels in this process."""
        self.memberships.clear()
        if self.logs is not None:
            self.logs.clear()
        self.plain.clear()
        # The mark keys are about to be deleted.
        self._mark_at.clear()

    async def close(self) -> None:
        """Leave groups and give back messages if Redis responds in time; disconnect."""
        # First, so that nothing more arrives. Messages that wait in plain channels are
        # given back, and must not be received here after that.
        inboxes = self._inboxes.values()
        await asyncio.gather(*[inbox.stop() for inbox in inboxes])
        for timer, _, _ in self._expecting.values():
            timer.cancel()
        self._expecting.clear()
        for name in list(self.plain.by_channel):
            self._give_back(name)
        self.plain.clear()
        self._distribution.clear()
        if self.logs is not None:
            self.logs.clear()
        closing = [asyncio.create_task(inbox.close()) for inbox in inboxes]
        closing.append(asyncio.create_task(self.memberships.close()))
        try:
            # Anything not written in time ends by itself: leases end, and keys expire.
            await asyncio.wait(closing, timeout=self.timing.farewell)
        finally:
            for task in closing:
                task.cancel()
            await asyncio.gather(*closing, return_exceptions=True)
            await self.shards.close()

    def _waiting(self, name: str) -> int:
        return len(self.plain.by_channel.get(name, ()))

    def _connected(self, shard: Shard) -> None:
        again = self._inboxes[shard].connects > 1
        if again:
            self._layer.counters.count_reconnect()
        # The server may have restarted without its data. Not after the first connect,
        # which can come after Django has discarded one of our channels.
        if again or shard.commands.connects > 1:
            self._lost_data(shard)

    def _lost_data(self, shard: Shard) -> None:
        self.memberships.assert_again(shard)
        self._mark_at.pop(shard, None)

    def _switched(self, shard: Shard) -> None:
        if (inbox := self._inboxes.get(shard)) is None:
            self._lost_data(shard)
        else:
            inbox.reconnect()

    def _is_away(self, shard: Shard) -> bool:
        return self._inboxes.get(shard, shard.commands).failing

    def _deliver(self, popped: Popped) -> None:
        """Put a message into the mailboxes of its channels."""
        layer = self._layer
        name = popped.queue.name
        plain = isinstance(popped.queue, PlainQueue)
        try:
            message = layer.deserialize(popped.value, any_age=plain)
        except UndecodableMessage as exc:
            layer.counters.complain(name, str(exc))
            popped.acknowledge()
            return
        written = message.pop(CHANNEL_KEY, name)
        if plain:
            self.plain.put(name, Held(popped, message), math.inf)
            layer.counters.count((1, ()))
            self._expect_reader(name)
            return
        now = time.monotonic()
        deadline = now + popped.left
        layer.mailboxes.sweep_if_due(now)
        channels = cast(
            "list[str]", written if isinstance(written, list) else [written]
        )
        group = None
        try:
            are_here = all(map(layer.mailboxes.by_channel.__contains__, channels))
        except TypeError:
            # They come from outside, and some are not even names.
            are_here = False
        if not are_here:
            if written == name + _CHANGES:
                self._change_group(name, message)
                return
            channels, group, position = self._resolve(name, channels)
            if position and group and self._is_heard(group, position, message):
                return
        copies = message.copy if len(channels) == 1 else copies_of(message)
        item = deadline, copies, SharedMessage(message, copies)
        self._distribution.put(layer.mailboxes, channels, item, group)

    def _resolve(
        self, queue: str, names: Sequence[object]
    ) -> tuple[list[str], str | None, str | None]:
        """Replace stand-ins with the channels that they stand for.

        Returns:
            The channels, each of them once; their group if it is known; and the
            position of the message if the group has a history.
        """
        group = position = None
        channels: dict[str, float] = {}
        for name in names:
            if not (isinstance(name, str) and name.startswith(queue)):
                self._layer.counters.complain(queue, f"it is for channel {name!r}")
            elif not name.startswith(MARK, len(queue)):
                channels[name] = 0.0
            elif stand_in := self.memberships.stand_ins.by_name.get(name):
                group = stand_in.group
                members = self.groups.by_group[group]
                if stand_in.count < len(members):
                    members = {each: 0.0 for each in members if each.startswith(queue)}
                channels = channels | members if channels else members.copy()
            else:
                # Unless it is the stand-in of a group that was left.
                position = name[len(queue) + len(MARK) :]
        return list(channels), group, position

    def _is_heard(self, group: str, position: str, message: dict[str, Any]) -> bool:
        """Deliver a message to all members of a group that has a history."""
        return self.logs is not None and self.logs.heard(group, position, message)

    def _relisted(self, group: str) -> None:
        if self.logs is not None:
            self.logs.check(group)

    def _places(self, group: str) -> Places:
        return [(self._layer.mailboxes, self.groups.by_group.get(group, ()))]

    def _decode_stored(self, value: bytes) -> dict[str, Any]:
        message = self._layer.deserialize(value, any_age=True)
        message.pop(CHANNEL_KEY, None)
        return message

    def _change_group(self, queue: str, change: dict[str, Any]) -> None:
        """Carry out a change that another process has made to a group."""
        match change:
            case {
                "type": "group_add" | "group_discard" as kind,
                "group": str(group),
                "channel": str(channel),
            } if channel.startswith(queue):
                if kind == "group_discard" or self._layer.mailboxes.is_buried(channel):
                    self.memberships.note_left(group, channel)
                else:
                    self.memberships.note_joined(group, channel, by_name=True)
            case _:
                problem = "it is for the process, and no valid change of a group"
                self._layer.counters.complain(queue, problem)


def _has_history(layer: RedisBaseLayer[Endpoint], group: str) -> bool:
    return layer.has_histories and layer.history_of(group) is not None
