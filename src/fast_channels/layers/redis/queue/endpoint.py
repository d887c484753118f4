"""A queue layer's part in one event loop: connections, inboxes, memberships."""

import asyncio
import functools
import itertools
import math
import time
from collections.abc import Callable
from typing import Any, ClassVar, cast

from fast_channels.exceptions import UndecodableMessage
from fast_channels.layers.copies import copies_of
from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.layers.redis.commands import CommandConnection
from fast_channels.layers.redis.keys import mark_key, private_key, queue_key
from fast_channels.layers.redis.layer import SHORT, TIMEOUT, RedisBaseLayer
from fast_channels.layers.redis.master_watch import MasterWatch
from fast_channels.layers.redis.scripts import REQUEUE, Script, run
from fast_channels.layers.redis.sentinel import Master, make_connection
from fast_channels.layers.redis.sharding import shard_of
from fast_channels.layers.serializers import CHANNEL_KEY

from .batches import PlainQueue
from .inbox import Inbox, Popped
from .memberships import Memberships, Timing

__all__ = ["CHANNEL_KEY", "Held", "QueueEndpoint"]

# Seconds that a message of a plain channel waits for a reader to come back.
_PATIENCE = 0.05
# Seconds allowed for the last requests when closing.
_FAREWELL = 1.0


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


class QueueEndpoint:
    """The part of a layer that belongs to one event loop.

    Args:
        layer: The layer.
        name: Its unique name, which follows the prefix in the names of its channels
            and precedes the ``!``.
        max_deliveries: Deliveries after which a message of a plain channel is a dead
            letter, if each of its receivers died; 0 for no limit.
    """

    timing: ClassVar[Timing] = Timing()
    """Timing of the writes of memberships to Redis."""

    def __init__(self, layer: RedisBaseLayer, name: str, max_deliveries: int) -> None:
        self._layer = layer
        self.name: str = name
        """The unique name of the endpoint."""
        self.plain: Mailboxes = Mailboxes(lambda _: _UNBOUNDED, layer.expiry)
        """The mailboxes of plain channels, whose messages can be given back."""
        # For plain channels with waiting messages: the timer that looks for a reader,
        # the time of the latest message, and how many waited then.
        self._expecting: dict[str, tuple[asyncio.TimerHandle, float, int]] = {}
        self._attached: set[str] = set()
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        """The event loop."""
        self._made_at = self.loop.time()
        # When to renew the mark key of each shard.
        self._mark_at = [-math.inf] * len(layer.hosts)
        self.commands: list[CommandConnection] = []
        """The command connections to the shards."""
        self.inboxes: list[Inbox] = []
        """The inboxes of the shards."""
        self._watches: list[MasterWatch] = []
        for shard, host in enumerate(layer.hosts):
            place = Master(host) if host.kind == "sentinel" else host
            connect = functools.partial(make_connection, place)
            timeout = host.command_timeout or TIMEOUT
            commands = CommandConnection(connect, str(host), timeout=timeout)
            inbox = Inbox(
                connect,
                commands,
                name=str(host),
                prefix=layer.prefix,
                receiver=f"{name}.{shard}",
                expiry=layer.expiry,
                max_deliveries=max_deliveries,
                deliver=self._deliver,
                waiting=self._waiting,
                connected=functools.partial(self._connected, shard),
                flushed=functools.partial(self._flushed, shard),
                timeout=timeout,
            )
            self.commands.append(commands)
            self.inboxes.append(inbox)
            if isinstance(place, Master):
                switched = functools.partial(self._switched, shard)
                self._watches.append(MasterWatch(place, switched))
        self.memberships: Memberships = Memberships(
            self.commands,
            layer.prefix,
            layer.group_expiry,
            process=name,
            away=lambda shard: self.inboxes[shard].failing,
            timing=self.timing,
        )
        """The groups that its channels are in."""

    # Sending

    async def run(
        self,
        shard: int,
        script: Script,
        keys: list[str],
        *arguments: str | bytes | float,
        deadline: float | None = None,
    ) -> Any:
        """Run a script on a shard."""
        self._use(shard)
        return await run(
            self.commands[shard], script, keys, *arguments, deadline=deadline
        )

    def shard_of(self, name: str) -> int:
        """Return the shard of a group, or of the non-local part of a channel."""
        return shard_of(name, len(self.commands))

    def _use(self, shard: int) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._mark_at[shard]:
            # The mark lets flush() of a layer with a shorter prefix recognize our keys.
            # It outlives all messages.
            self._mark_at[shard] = now + self._layer.expiry / 2
            milliseconds = math.ceil(2000 * self._layer.expiry)
            key = mark_key(self._layer.prefix)
            marking = self.commands[shard].submit("SET", key, "", "PX", milliseconds)
            marking.add_done_callback(_ignore)
        # A process that sends once and ends does not need to watch Sentinels.
        if now > self._made_at + SHORT:
            self._watch()

    def _watch(self) -> None:
        for watch in self._watches:
            watch.start()

    # Receiving

    def want(self, name: str) -> None:
        """Add a reader to a queue."""
        self._watch()
        for inbox in self.inboxes:
            inbox.want(name)

    def unwant(self, name: str) -> None:
        """Remove a reader from a queue."""
        for inbox in self.inboxes:
            inbox.unwant(name)

    def _expect_reader(self, name: str) -> None:
        """Give back the messages of a plain channel unless a reader comes soon."""
        timer, _, _ = self._expecting.get(name, (None, 0, 0))
        if timer is None:
            timer = self.loop.call_later(_PATIENCE, self._look_for_reader, name)
        self._expecting[name] = timer, self.loop.time(), self._waiting(name)

    def _look_for_reader(self, name: str) -> None:
        _, since, before = self._expecting.pop(name)
        waiting = self._waiting(name)
        came_lately = self.loop.time() < since + _PATIENCE
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
        return self._layer.mailboxes.attach(channel, listener)

    async def delete(self, channel: str) -> None:
        """Drop a channel's memberships and its messages, even those in transit."""
        if self._layer.non_local_name(channel).endswith(f".{self.name}!"):
            self._layer.mailboxes.bury(channel)
        if channel in self._attached:
            self._attached.remove(channel)
            self.unwant(self._layer.non_local_name(channel))
        await self.memberships.delete(channel)

    async def dead_letters(self, channel: str, limit: int) -> list[bytes]:
        """Return the dead letters of a plain channel, not decoded."""
        key = private_key(self._layer.prefix, "deadletters", channel)
        found: list[list[bytes]] = await asyncio.gather(
            *[each.execute("ZRANGE", key, 0, limit - 1) for each in self.commands]
        )
        return list(itertools.chain.from_iterable(found))

    async def requeue_dead_letters(self, channel: str) -> int:
        """Put the dead letters of a channel back into it; return their number."""
        prefix = self._layer.prefix
        keys = [queue_key(prefix, channel), private_key(prefix, "deadletters", channel)]
        milliseconds = math.ceil(1000 * self._layer.expiry)
        moved = await asyncio.gather(
            *[run(each, REQUEUE, keys, milliseconds) for each in self.commands]
        )
        return sum(moved)

    async def forget(self) -> None:
        """Drop the messages of plain channels in this process, and all memberships."""
        self.memberships.clear()
        self.plain.clear()
        # The mark keys are about to be deleted.
        self._mark_at = [-math.inf] * len(self.commands)

    async def close(self) -> None:
        """Leave groups and give back messages if Redis responds in time; disconnect."""
        # First, so that nothing more arrives. Messages that wait in plain channels are
        # given back, and must not be received here after that.
        await asyncio.gather(*[inbox.stop() for inbox in self.inboxes])
        for timer, _, _ in self._expecting.values():
            timer.cancel()
        self._expecting.clear()
        for name in list(self.plain.by_channel):
            self._give_back(name)
        self.plain.clear()
        closing = [asyncio.create_task(watch.close()) for watch in self._watches]
        closing += [asyncio.create_task(inbox.close()) for inbox in self.inboxes]
        closing.append(asyncio.create_task(self.memberships.close()))
        try:
            # Anything not written in time ends by itself: leases end, and keys expire.
            await asyncio.wait(closing, timeout=_FAREWELL)
        finally:
            for task in closing:
                task.cancel()
            await asyncio.gather(*closing, return_exceptions=True)
            for commands in self.commands:
                await commands.close()

    def _waiting(self, name: str) -> int:
        mailbox = self.plain.by_channel.get(name)
        return 0 if mailbox is None else len(mailbox)

    def _connected(self, shard: int) -> None:
        if self.inboxes[shard].connects > 1:
            self._layer.counters.count_reconnect()
        # The server may have restarted without its data.
        self._flushed(shard)

    def _flushed(self, shard: int) -> None:
        self.memberships.assert_again(shard)
        self._mark_at[shard] = -math.inf

    def _switched(self, shard: int) -> None:
        self.commands[shard].reconnect()
        self.inboxes[shard].reconnect()

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
            "list[object]", written if isinstance(written, list) else [written]
        )
        copies = message.copy if len(channels) == 1 else copies_of(message)
        own: list[str] = []
        for channel in channels:
            if isinstance(channel, str) and channel.startswith(name):
                own.append(channel)
            else:
                layer.counters.complain(name, f"it is for channel {channel!r}")
        layer.counters.count(layer.mailboxes.put_each(own, copies, deadline))


# Plain channels need no limit here: while messages wait, inboxes take no others.
_UNBOUNDED = 1 << 62


def _ignore(reply: "asyncio.Future[Any]") -> None:
    """Retrieve the error of a command, so that asyncio does not log it."""
    if not reply.cancelled():
        reply.exception()
