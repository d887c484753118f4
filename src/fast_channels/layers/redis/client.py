"""What the queue layer has in one event loop: connections, inboxes, memberships."""

import asyncio
import functools
import itertools
import math
import time
from collections.abc import Callable
from typing import Any, ClassVar, cast

from fast_channels.layers.copies import copies_of
from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.mailboxes import Mailboxes

from .base import SHORT, TIMEOUT, RedisBaseLayer, complain
from .batches import PlainQueue, private_key
from .connections import CommandConnection
from .inbox import Inbox, Popped
from .master_watch import MasterWatch
from .memberships import Memberships, Timing
from .scripts import REQUEUE, Script, run
from .sentinel import Master, make_connection
from .serializers import CHANNEL_KEY, UndecodableMessage
from .sharding import shard_of

__all__ = ["CHANNEL_KEY", "Client", "Held"]

# For how many seconds a message of a plain channel waits for a reader to come back.
_PATIENCE = 0.05
# For how many seconds closing may take.
_FAREWELL = 1.0


class Held(dict[str, Any]):
    """A message of a plain channel, which Redis holds until it is acknowledged.

    Args:
        popped: The message as it came out of Redis.
        message: What it holds.
    """

    def __init__(self, popped: Popped, message: dict[str, Any]) -> None:
        super().__init__(message)
        self.popped: Popped = popped
        """The message as it came out of Redis."""

    def __call__(self) -> "Held":
        """Return itself: it is in one mailbox only, and has one receiver."""
        return self


class Client:
    """One event loop's part of a layer.

    Args:
        layer: The layer.
        name: What tells it from all others: the part of the names of its channels
            between the last dot and the ``!``.
        max_deliveries: Deliveries after which a message of a plain channel is a dead
            letter, if each of its receivers died; 0 for any number.
    """

    timing: ClassVar[Timing] = Timing()
    """When memberships are written to Redis."""

    def __init__(self, layer: RedisBaseLayer, name: str, max_deliveries: int) -> None:
        self._layer = layer
        self.name: str = name
        """What tells it from all others."""
        self.plain: Mailboxes = Mailboxes(lambda _: _UNBOUNDED, layer.expiry)
        """The mailboxes of plain channels: what they hold may go back."""
        # For plain channels that hold something, when to look whether it goes back; and
        # when something came last, and how much it was then.
        self._expecting: dict[str, tuple[asyncio.TimerHandle, float, int]] = {}
        self._attached: set[str] = set()
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        """The event loop."""
        self._made_at = self.loop.time()
        # When to mark the keys of each shard again as this layer's.
        self._mark_at = [-math.inf] * len(layer.hosts)
        self.commands: list[CommandConnection] = []
        """The command connections to the shards."""
        self.inboxes: list[Inbox] = []
        """The readers of the shards."""
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
            # What flush() of a layer whose prefix is the beginning of this one tells
            # its keys from ours by. It outlives whatever is sent.
            self._mark_at[shard] = now + self._layer.expiry / 2
            milliseconds = math.ceil(2000 * self._layer.expiry)
            key = f"{self._layer.prefix}:layer"
            marking = self.commands[shard].submit("SET", key, "", "PX", milliseconds)
            marking.add_done_callback(_ignore)
        # Who sends once and ends needs no watch.
        if now > self._made_at + SHORT:
            self._watch()

    def _watch(self) -> None:
        for watch in self._watches:
            watch.start()

    # Receiving

    def want(self, name: str) -> None:
        """Read a queue, for one reader more."""
        self._watch()
        for inbox in self.inboxes:
            inbox.want(name)

    def unwant(self, name: str) -> None:
        """Read a queue for one reader less."""
        for inbox in self.inboxes:
            inbox.unwant(name)

    def _expect_reader(self, name: str) -> None:
        """Give back what waits in a plain channel if nobody comes for it soon."""
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
        """Read a channel for somebody who does not wait."""
        if channel not in self._attached:
            self._attached.add(channel)
            self.want(self._layer.non_local_name(channel))
        return self._layer.mailboxes.attach(channel, listener)

    async def delete(self, channel: str) -> None:
        """Drop what waits in a channel, and whatever may still come for it."""
        if self._layer.non_local_name(channel).endswith(f".{self.name}!"):
            self._layer.mailboxes.bury(channel)
        if channel in self._attached:
            self._attached.remove(channel)
            self.unwant(self._layer.non_local_name(channel))
        await self.memberships.delete(channel)

    async def dead_letters(self, channel: str, limit: int) -> list[bytes]:
        """Return what plain channels hold whose receivers have died too often."""
        key = private_key(self._layer.prefix, "deadletters", channel)
        found: list[list[bytes]] = await asyncio.gather(
            *[each.execute("ZRANGE", key, 0, limit - 1) for each in self.commands]
        )
        return list(itertools.chain.from_iterable(found))

    async def requeue_dead_letters(self, channel: str) -> int:
        """Put these messages back into their channel; return how many they were."""
        prefix = self._layer.prefix
        keys = [prefix + channel, private_key(prefix, "deadletters", channel)]
        milliseconds = math.ceil(1000 * self._layer.expiry)
        moved = await asyncio.gather(
            *[run(each, REQUEUE, keys, milliseconds) for each in self.commands]
        )
        return sum(moved)

    async def forget(self) -> None:
        """Drop what waits in plain channels, and who is in which group."""
        self.memberships.clear()
        self.plain.clear()
        # The keys are about to go that tell of the prefix.
        self._mark_at = [-math.inf] * len(self.commands)

    async def close(self) -> None:
        """Close the connections; Redis is told first, if that takes no time."""
        # First, so that nothing arrives any more. What waits in plain channels goes
        # back, and must not be received here from then on.
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
            # What Redis does not learn in time it finds out by itself, when leases end
            # and keys expire.
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
        # It may have been restarted without its data.
        self._flushed(shard)

    def _flushed(self, shard: int) -> None:
        self.memberships.assert_again(shard)
        self._mark_at[shard] = -math.inf

    def _switched(self, shard: int) -> None:
        self.commands[shard].reconnect()
        self.inboxes[shard].reconnect()

    def _deliver(self, popped: Popped) -> None:
        """Put a message into the mailboxes of the channels that it is for."""
        layer = self._layer
        name = popped.queue.name
        plain = isinstance(popped.queue, PlainQueue)
        try:
            message = layer.deserialize(popped.value, any_age=plain)
        except UndecodableMessage as exc:
            complain(layer, name, str(exc))
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
                complain(layer, name, f"it is for channel {channel!r}")
        layer.counters.count(layer.mailboxes.put_each(own, copies, deadline))


# As many messages as readers wait are popped, and no more.
_UNBOUNDED = 1 << 62


def _ignore(reply: "asyncio.Future[Any]") -> None:
    """Look at how a command ended, as asyncio complains if nobody does."""
    if not reply.cancelled():
        reply.exception()
