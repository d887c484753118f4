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
from fast_channels.layers.history import History
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.layers.notices import Notice
from fast_channels.layers.redis.history_reader import numbering_options
from fast_channels.layers.redis.keys import history_keys
from fast_channels.layers.redis.layer import Endpoint, RedisBaseLayer
from fast_channels.layers.redis.logs import Places
from fast_channels.layers.redis.scripts import HISTORY_PUBLISH, run
from fast_channels.layers.redis.shards import ClusterShards, Shard
from fast_channels.layers.shared import SharedMessage
from fast_channels.type_defs import ChannelMessage

from .node_subscriptions import NodeSubscriptions
from .positions import POSITION_KEY, Positions
from .subscriptions import HostSubscriptions, Subscriptions

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
        self._step = step
        # By the names of their Redis channels.
        self.groups: Groups = Groups()
        self._positions = Positions(layer.serializer)
        if layer.has_histories:
            self.keep_logs(self.groups)
        # The channels in groups that ``new_channel()`` has not made here.
        self._foreign: set[str] = set()
        self.plain: Mailboxes = Mailboxes(layer.get_capacity, layer.expiry)
        self._distribution = Distribution(layer.counters)
        # Plain channels listened to, each with the timer that checks for readers.
        self._plain: dict[str, asyncio.TimerHandle] = {}
        self._types = on_disconnect, on_reconnect
        self._subscriptions: Subscriptions
        if isinstance(self.shards, ClusterShards):
            nodes = self._subscriptions = NodeSubscriptions(
                self.shards,
                prefix=layer.prefix,
                received=self._deliver,
                lost=self._lost_some,
                restored=self._restored_some,
                patience=patience,
            )
            self._has_gap = nodes.has_gap
        else:
            self._subscriptions = HostSubscriptions(
                self.shards,
                received=self._deliver,
                lost=self._lost,
                restored=self._restored,
                patience=patience,
            )
        # In a cluster, the channels that miss messages at the moment, and know it.
        self._cut_off: set[str] = set()
        self.publish: Callable[[str, bytes], Coroutine[Any, Any, Any]] = (
            self._subscriptions.publish
        )
        """Publishes a message for a group."""
        self.send: Callable[[str, bytes], Coroutine[Any, Any, Any]] = (
            self._subscriptions.send
        )
        """Publishes a message for a channel."""
        self.listen_to_own: Callable[[str], Coroutine[Any, Any, None]] = (
            self._subscriptions.listen_to_own
        )
        """Listens to all channels made here whose names begin with this one."""

    async def publish_numbered(
        self, name: str, history: History, message: ChannelMessage, once: str | None
    ) -> str:
        """Number, store and publish a message; return its position."""
        self.shards.watch_if_settled()
        if POSITION_KEY in message:
            raise ValueError(
                f"a message must not have the key {POSITION_KEY!r}, in which the layer "
                "stores its position"
            )
        positions, shard = self._positions, self.shards.of(name)
        command, channel, start = self._subscriptions.publication(name)
        epoch, offset = await run(
            shard.commands,
            HISTORY_PUBLISH,
            history_keys(shard.prefix, name, once),
            command if positions.in_redis else "",
            channel,
            start,
            *positions.parts(message),
            *numbering_options(history),
        )
        position = f"{epoch.decode()}.{offset.decode()}"
        if not positions.in_redis:
            numbered = {**message, POSITION_KEY: position}
            await self.publish(name, self._layer.serialize(numbered))
        return position

    # Listening

    def listen_for_reader(self, channel: str) -> None:
        """Listen to a plain channel until it has had no reader for ``expiry``."""
        if channel not in self._plain:
            self._subscriptions.listen(self._subscriptions.name_of(channel))
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
            self._subscriptions.ignore(self._subscriptions.name_of(channel))

    async def join(self, group: str, channel: str) -> None:
        """Add a channel to a group; return when Redis has confirmed it."""
        if self.groups.add(group, channel):
            if not self.owns(channel):
                self._foreign.add(channel)
            self._subscriptions.listen(group)
        await self._subscriptions.heard(group)

    async def leave(self, group: str, channel: str) -> None:
        """Remove a channel from a group."""
        if self.groups.discard(group, channel):
            self._left([group], channel)

    def _left(self, groups: Iterable[str], channel: str) -> None:
        if channel not in self.groups.by_channel:
            self._foreign.discard(channel)
        for group in groups:
            self._subscriptions.ignore(group)

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
        if self.logs is not None:
            self.logs.clear()
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
        if self.logs is not None:
            self.logs.clear()
        self.groups.clear()
        self._foreign.clear()
        self.plain.clear()
        self._cut_off.clear()
        self._distribution.clear()
        await self._subscriptions.close()
        await self.shards.close()

    # Called by subscribers and watches

    def _deliver(self, name: bytes, data: bytes) -> None:
        """Put a message into the mailboxes of the channels that it is for.

        An invalid message is logged and raises nothing: the connection carries the
        messages of other senders too.
        """
        heard = name.decode(errors="replace")
        try:
            message = self._layer.deserialize(data)
            if self.logs is not None:
                position = self._positions.take(message, data)
                if position is not None and self.logs.heard(heard, position, message):
                    return
            self._hand_out(heard, message)
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

    def _places(self, group: str) -> Places:
        members = self.groups.by_group.get(group, {})
        others = members.keys() & self._foreign if self._foreign else ()
        if not others:
            return [(self._layer.mailboxes, members)]
        own = [name for name in members if name not in others]
        return [(self._layer.mailboxes, own), (self.plain, others)]

    def _decode_stored(self, value: bytes) -> dict[str, Any]:
        message = self._layer.deserialize(value)
        self._positions.take(message, value)
        return message

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

    def _lost(self) -> None:
        self._layer.counters.count_reconnect()
        self._tell_everybody(self._types[0])

    def _restored(self, shards: Collection[Shard]) -> None:
        self._check_logs(shards)
        self._tell_everybody(self._types[1])

    def _check_logs(self, shards: Collection[Shard]) -> None:
        """Read what groups with a history have missed."""
        if self.logs is not None:
            self.logs.check_shards(shards)

    def _tell_everybody(self, message_type: str | None) -> None:
        self._notify(self._everybody(), message_type)

    def _lost_some(self) -> None:
        self._layer.counters.count_reconnect()
        self._notify_some()

    def _restored_some(self, shards: Collection[Shard]) -> None:
        self._check_logs(shards)
        self._notify_some()

    def _notify_some(self) -> None:
        """Notify the channels that miss messages from now on, or do not any more."""
        if self._types == (None, None):
            return
        before, now = self._cut_off, self._with_gaps()
        self._cut_off = now
        self._notify(now - before, self._types[0])
        self._notify((before - now) & self._everybody(), self._types[1])

    def _with_gaps(self) -> set[str]:
        """Return the channels for which messages can be missed at the moment."""
        has_gap = self._has_gap
        found: set[str] = set()
        for group, members in self.groups.by_group.items():
            if has_gap(group):
                found.update(members)
        name_of = self._subscriptions.name_of
        found.update(channel for channel in self._plain if has_gap(name_of(channel)))
        for name in filter(has_gap, self._subscriptions.own):
            found.update(each for each in self._own_channels() if each.startswith(name))
        return found

    def _everybody(self) -> set[str]:
        return {*self._own_channels(), *self._plain, *self._foreign}

    def _own_channels(self) -> set[str]:
        mailboxes = self._layer.mailboxes
        with mailboxes.lock:
            read = list(mailboxes.by_channel)
        return set(filter(self.owns, (*read, *self.groups.by_channel)))

    def _notify(self, channels: Collection[str], message_type: str | None) -> None:
        if message_type is not None:
            own = [*filter(self.owns, channels)]
            others = {*channels}.difference(own)
            self._put(own, others, functools.partial(Notice, type=message_type))

    def _switched(self, shard: Shard) -> None:
        self._subscriptions.switched(shard)

    def _lost_data(self, shard: Shard) -> None:
        """Do nothing: Redis keeps no data of this layer."""


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
