"""The state of the pub/sub layer in one event loop: connections and subscriptions."""

import asyncio
import functools
import time
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any

from fast_channels.exceptions import UndecodableMessage
from fast_channels.layers.copies import copies_of
from fast_channels.layers.distribution import Distribution
from fast_channels.layers.groups import Groups
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.layers.notices import Notice
from fast_channels.layers.redis.layer import Endpoint, RedisBaseLayer
from fast_channels.layers.redis.shards import Shard
from fast_channels.layers.redis.wire import starting_with
from fast_channels.layers.shared import SharedMessage

from .subscriber import Pattern, Subscriber

__all__ = ["PubSubEndpoint"]

# Maximum length of names and problems in the log.
_SHOWN = 200


class PubSubEndpoint(Endpoint):
    """The part of a layer that belongs to one event loop.

    Args:
        layer: The layer.
        name: Its unique name.
        on_disconnect: Type of the message that all channels get when a connection has
            broken; None for no message.
        on_reconnect: Type of the message for when all subscriptions are back; or None.
        patience: Seconds between two checks, during a wait for Redis to confirm, that
            Redis is there.
        step: Groups that a channel leaves before other tasks can run.
    """

    def __init__(
        self,
        layer: RedisBaseLayer[Endpoint],
        name: str,
        on_disconnect: str | None,
        on_reconnect: str | None,
        *,
        patience: float = 0.1,
        step: int = 500,
    ) -> None:
        super().__init__(layer, name)
        self._patience = patience
        self._step = step
        # By the names of their Redis channels.
        self.groups: Groups = Groups()
        # The channels in groups that ``new_channel()`` has not made here.
        self._foreign: set[str] = set()
        self.plain: Mailboxes = Mailboxes(layer.get_capacity, layer.expiry)
        self._distribution = Distribution(layer.counters)
        # The patterns listened to, by the prefix of the channels that they match.
        self._patterns: dict[str, Pattern] = {}
        # Plain channels listened to, each with the timer that checks for readers.
        self._plain: dict[str, asyncio.TimerHandle] = {}
        self._subscribers = {
            shard: Subscriber(
                shard.connect,
                name=shard.name,
                received=self._deliver,
                lost=functools.partial(self._lost, on_disconnect),
                restored=functools.partial(self._tell_everybody, on_reconnect),
                timeout=shard.timeout,
            )
            for shard in self.shards
        }

    # Sending

    def publish(self, name: str, message: bytes) -> Coroutine[Any, Any, Any]:
        """Publish a message on a Redis channel."""
        # A process that sends once and ends does not need to watch Sentinels.
        self.shards.watch_if_settled()
        return self.shards.of(name).commands.execute("PUBLISH", name, message)

    # Listening

    async def listen_to_own(self, prefix: str) -> None:
        """Listen to all channels with a prefix; return when Redis has confirmed it."""
        pattern = self._patterns.get(prefix)
        if pattern is None:
            pattern = self._patterns[prefix] = Pattern(starting_with(prefix))
            self.shards.watch()
            for subscriber in self._subscribers.values():
                subscriber.listen(pattern)
        for subscriber in self._subscribers.values():
            await self._heard(subscriber, pattern)

    def listen_for_reader(self, channel: str) -> None:
        """Listen to a plain channel until it has had no reader for ``expiry``."""
        if channel not in self._plain:
            self.shards.watch()
            self._subscriber(channel).listen(channel)
        self._expect_reader(channel)

    def reader_left(self, channel: str) -> None:
        """Count from now on how long the channel has no reader."""
        # The endpoint may have been closed, or the channel deleted, meanwhile.
        if channel in self._plain:
            self._expect_reader(channel)

    def _expect_reader(self, channel: str) -> None:
        timer = self._plain.get(channel)
        if timer is not None:
            timer.cancel()
        self._plain[channel] = self.loop.call_later(
            self._layer.expiry, self._look_for_reader, channel
        )

    def _look_for_reader(self, channel: str) -> None:
        mailbox = self.plain.by_channel.get(channel)
        if mailbox is not None and mailbox.readers:
            self._expect_reader(channel)
        else:
            del self._plain[channel]
            self._subscriber(channel).ignore(channel)

    async def join(self, group: str, channel: str) -> None:
        """Add a channel to a group; return when Redis has confirmed it."""
        subscriber = self._subscriber(group)
        if self.groups.add(group, channel):
            if not self.owns(channel):
                self._foreign.add(channel)
            self.shards.watch()
            subscriber.listen(group)
        await self._heard(subscriber, group)

    async def leave(self, group: str, channel: str) -> None:
        """Remove a channel from a group."""
        if self.groups.discard(group, channel):
            self._left([group], channel)

    def _left(self, groups: Iterable[str], channel: str) -> None:
        if channel not in self.groups.by_channel:
            self._foreign.discard(channel)
        for group in groups:
            self._subscriber(group).ignore(group)

    async def delete(self, channel: str) -> None:
        """Drop a channel's messages and memberships, even messages in transit."""
        if self.owns(channel):
            self._layer.mailboxes.bury(channel)
        else:
            self.plain.delete(channel)
            timer = self._plain.get(channel)
            if timer is not None:
                timer.cancel()
                self._look_for_reader(channel)
        await self._leave_all(channel)

    async def forget(self) -> None:
        """Leave all groups, and drop the messages of plain channels in this process."""
        self.plain.clear()
        while self.groups.by_channel:
            await self._leave_all(next(iter(self.groups.by_channel)))

    async def _leave_all(self, channel: str) -> None:
        """Remove a channel from all its groups; yield to other tasks between them."""
        while groups := self.groups.discard_some(channel, self._step):
            self._left(groups, channel)
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Close the connections, and forget all channels and groups."""
        for timer in self._plain.values():
            timer.cancel()
        self._plain.clear()
        self._patterns.clear()
        self.groups.clear()
        self._foreign.clear()
        self.plain.clear()
        self._distribution.clear()
        await asyncio.gather(
            *[subscriber.close() for subscriber in self._subscribers.values()],
            self.shards.close(),
        )

    async def _heard(self, subscriber: Subscriber, name: str) -> None:
        """Wait until Redis has confirmed a subscription, unless Redis is away."""
        while (pending := subscriber.pending(name)) is not None:
            if subscriber.away:
                # Others get a turn, even if a task joins groups in an endless loop.
                await asyncio.sleep(0)
                return
            await asyncio.wait([pending], timeout=self._patience)

    def _subscriber(self, name: str) -> Subscriber:
        return self._subscribers[self.shards.of(name)]

    # Called by subscribers and watches

    def _deliver(self, name: bytes, data: bytes) -> None:
        """Put a message into the mailboxes of the channels that it is for.

        An invalid message is logged and raises nothing: the connection carries the
        messages of other senders too.
        """
        heard = name.decode(errors="replace")
        try:
            self._hand_out(heard, self._layer.deserialize(data))
        except UndecodableMessage as exc:
            self._layer.counters.complain(_shorten(heard), _shorten(str(exc)))
        except Exception as exc:  # noqa: BLE001 # a serializer may be the user's
            problem = f"{type(exc).__name__}: {exc}"
            self._layer.counters.complain(_shorten(heard), _shorten(problem))

    def _hand_out(self, heard: str, message: dict[str, Any]) -> None:
        members = self.groups.by_group.get(heard)
        if members is not None:
            copies = message.copy if len(members) == 1 else copies_of(message)
            shared = SharedMessage(message, copies)
            others = members.keys() & self._foreign
            own = (
                [name for name in members if name not in others]
                if others
                else [*members]
            )
            self._put(own, others, copies, heard, shared)
        elif self.owns(heard):
            self._put((heard,), (), message.copy)
        # Any other name has just lost its last member or reader.
        elif heard in self._plain:
            self._put((), (heard,), message.copy)

    def _put(
        self,
        own: Collection[str],
        others: Collection[str],
        message: Callable[[], dict[str, Any]],
        group: str | None = None,
        shared: SharedMessage | None = None,
    ) -> None:
        """Put a message into the mailboxes of own channels, and of others."""
        layer = self._layer
        now = time.monotonic()
        item = now + layer.expiry, message, shared
        for mailboxes, channels in ((layer.mailboxes, own), (self.plain, others)):
            mailboxes.sweep_if_due(now)
            if channels:
                self._distribution.put(mailboxes, channels, item, group)

    def _lost(self, message_type: str | None) -> None:
        self._layer.counters.count_reconnect()
        self._tell_everybody(message_type)

    def _tell_everybody(self, message_type: str | None) -> None:
        if message_type is not None:
            mailboxes = self._layer.mailboxes
            with mailboxes.lock:
                read = list(mailboxes.by_channel)
            own = set(filter(self.owns, (*read, *self.groups.by_channel)))
            others = {*self._plain, *self._foreign}
            self._put(own, others, functools.partial(Notice, type=message_type))

    def _switched(self, shard: Shard) -> None:
        self._subscribers[shard].reconnect()

    def _lost_data(self, shard: Shard) -> None:
        """Do nothing: Redis keeps no data of this layer."""


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
