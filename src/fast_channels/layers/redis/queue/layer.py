"""The layer that keeps messages in Redis until they are received.

Keys and values are those of Django's channels_redis, so both can share one Redis. A
queue, of a process or of a plain channel, is a sorted set of messages by the time of
sending; a group is one of channels by the time of joining. Every key expires.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from fast_channels.exceptions import ChannelFull
from fast_channels.layers.delivery import Delivery
from fast_channels.layers.history import History
from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.layers.options import require_finite, require_positive_int
from fast_channels.layers.redis.history_reader import numbering_options
from fast_channels.layers.redis.hosts import HostSpelling, parse_hosts
from fast_channels.layers.redis.keys import (
    group_key,
    history_keys,
    processes_key,
    queue_key,
)
from fast_channels.layers.redis.layer import RedisBaseLayer
from fast_channels.layers.redis.scripts import (
    GROUP_SEND,
    HISTORY_MEMBERS,
    HISTORY_SEND,
    MEMBERS,
    SEND,
)
from fast_channels.layers.redis.shards import Shard
from fast_channels.layers.serializers import (
    CHANNEL_KEY,
    LIST_ENDS,
    BaseMessageSerializer,
    MessageSerializer,
    UndecodableMessage,
)
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage

from .dead_letters import read_dead_letters, requeue_dead_letters
from .endpoint import Held, QueueEndpoint
from .flushing import flush_keys
from .stand_ins import MARK, is_stand_in, queue_of

__all__ = ["RedisChannelLayer"]

_logger = logging.getLogger(__name__)


class RedisChannelLayer(RedisBaseLayer[QueueEndpoint]):
    """A layer that keeps messages in Redis until they are received.

    It reaches every process that uses the same Redis with the same prefix, including
    Django processes with channels_redis. A process that loses its connection for a
    moment gets what was sent meanwhile. :doc:`/topics/delivery` lists what can be lost.

    You can create it without an event loop and without Redis, and use it in any number
    of event loops.

    Args:
        hosts: Addresses of Redis: a list of URLs, of (host, port) pairs, or of dicts of
            redis-py's arguments; by default this machine. Several hosts share the
            channels and groups; list them in the same order in every process.
        prefix: Prefix of all keys in Redis.
        expiry: Seconds after which an unreceived message is dropped.
        group_expiry: Seconds after which a channel is dropped from a group, unless a
            running process renews its membership.
        capacity: Maximum number of messages waiting in one channel: in Redis for a
            plain channel, and in its process for any other. ``send()`` to a full plain
            channel raises ``ChannelFull``; in all other cases, the copy is dropped.
        channel_capacity: Separate capacities for some channels, by glob
            (``"http.request*"``) or compiled pattern; the first match applies.
        symmetric_encryption_keys: Secrets for encrypting messages. The first one
            encrypts; all of them can decrypt, so that keys can be replaced.
        random_prefix_length: Number of bytes put before each message to make it
            unique.
        serializer_format: Encoding of messages: ``"msgpack"``, ``"json"``, or a name
            registered in ``fast_channels.layers.redis.serializers.registry``.
        sentinels: Sentinels to ask for the address of Redis, instead of ``hosts``.
        service_name: Name of the Redis service that these Sentinels monitor.
        sentinel_kwargs: redis-py's arguments for connections to these Sentinels.
        connection_kwargs: redis-py's arguments for connections to Redis.
        max_deliveries: Deliveries after which a message of a plain channel is a dead
            letter, if each time the process died before it had handled the message;
            None for no limit. See ``dead_letters()``.
        process_capacity: Maximum number of messages waiting in Redis for all channels
            of one process together, from all senders. ``send()`` to a channel of a full
            process raises ``ChannelFull``; ``group_send()`` drops that copy.
        cluster: Some nodes of a Redis Cluster, instead of ``hosts``: the others are
            found. The user, the password and all other arguments of the first one are
            used for every node. See :doc:`/topics/cluster`.
        history: The groups that have a history, by glob (``"room.*"``) or compiled
            pattern, each with its :class:`~fast_channels.layers.History`; the first
            match applies. All processes must have the same.

    Raises:
        ImportError: Keys are given, but cryptography is not installed.
        SerializerDoesNotExist: The format is not registered.
        TypeError: An argument has the wrong type.
        ValueError: An argument is invalid, or conflicts with another one.
    """

    def __init__(  # noqa: PLR0917 # the order of channels_redis
        self,
        hosts: Sequence[HostSpelling] | None = None,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: ChannelCapacityDict | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        random_prefix_length: int = 12,
        serializer_format: str = "msgpack",
        *,
        sentinels: Sequence[HostSpelling] | None = None,
        service_name: str | None = None,
        sentinel_kwargs: Mapping[str, Any] | None = None,
        connection_kwargs: Mapping[str, Any] | None = None,
        max_deliveries: int | None = 5,
        process_capacity: int = 10_000,
        cluster: Sequence[HostSpelling] | None = None,
        history: Mapping[Any, History] | None = None,
    ) -> None:
        super().__init__(
            parse_hosts(
                hosts,
                sentinels=sentinels,
                service_name=service_name,
                sentinel_kwargs=sentinel_kwargs,
                connection_kwargs=connection_kwargs,
                cluster=cluster,
            ),
            self._make_endpoint,
            prefix=prefix,
            expiry=expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            symmetric_encryption_keys=symmetric_encryption_keys,
            random_prefix_length=random_prefix_length,
            serializer_format=serializer_format,
            age_limit=expiry,
            history=history,
        )
        self.group_expiry: float = require_finite("group_expiry", group_expiry)
        """Seconds after which a channel is dropped from a group, unless a running
        process renews its membership."""
        self.max_deliveries: int | None = None
        """Deliveries after which a message of a plain channel is a dead letter."""
        if max_deliveries is not None:
            self.max_deliveries = require_positive_int("max_deliveries", max_deliveries)
        self.process_capacity: int = require_positive_int(
            "process_capacity", process_capacity
        )
        """Maximum number of messages waiting in Redis for all channels of one process
        together."""
        # How a script completes a message and fans it out; None if it lacks what it
        # needs. The bytes of other formats are left alone: they can end the same way by
        # chance, or with a signature.
        self._end = None
        if len(self.hosts) == 1 and self.hosts[0].kind != "cluster":
            self._end = _end_of(self.serializer)
        # Number of messages to plain channels so far.
        self._turn = 0

    # Channels

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return the name of a new channel, which only this process reads.

        Args:
            prefix: Start of the name.

        Raises:
            TypeError: The prefix is not valid in a name.
        """
        self.require_valid_channel_name(prefix)
        channel = f"{prefix}.{self._endpoints.get().name}!{self.mailboxes.new_name()}"
        self.require_valid_channel_name(channel)
        return channel

    async def send(self, channel: str, message: ChannelMessage) -> None:
        """Send a message to one channel.

        Cancelling does not withdraw the message.

        Raises:
            ChannelFull: The plain channel, or the queue of the channel's process, is at
                capacity; the message was not sent.
            RedisUnavailable: Redis cannot be reached, refuses the message, or did not
                reply; in the last case the message may have been sent.
            TypeError: The name is not valid, or the message is not a dict with str
                keys that the serializer can encode.
            ValueError: The message has the key ``__asgi_channel__``.
        """
        self.require_valid_channel_name(channel)
        self.require_valid_message(message)
        endpoint = self._endpoints.get()
        name = self.non_local_name(channel)
        if name.endswith("!"):
            shard = endpoint.shards.of(name)
            message = {**message, CHANNEL_KEY: channel}
        else:
            shard = endpoint.shards.in_turn(name, self._turn)
            self._turn += 1
        value = self.serialize(message)
        if not await self._enqueue(endpoint, shard, name, value):
            option = "process_capacity" if name.endswith("!") else "capacity"
            raise ChannelFull(channel, option=option)

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel and return it.

        Any number of tasks can wait for one channel; each message goes to one of
        them, and for a plain channel, without a ``!``, to one process. Cancelling is
        safe: no message is lost. While Redis is away, the call keeps waiting.

        Raises:
            TypeError: The name is not valid.
            ValueError: The channel belongs to another process.
        """
        self.require_valid_channel_name(channel)
        endpoint = self._endpoints.get()
        name = self.non_local_name(channel)
        if not name.endswith("!"):
            held = await self._hold(endpoint, channel)
            held.popped.acknowledge(soon=False)
            return dict(held)
        self._require_own(channel)
        return await self._wait(endpoint, self.mailboxes, channel)

    async def take(self, channel: str) -> Delivery:
        """Wait for the next message of a plain channel, and return it as a delivery.

        Until it is acknowledged, the message is delivered again if this process dies,
        or is cut off from Redis for 35 seconds while others are not. After
        ``max_deliveries`` deliveries to processes that died it is one of the
        ``dead_letters()``. Cancelling is safe: no message is lost. While Redis is away
        it goes on waiting.

        A message of a channel with a ``!`` is acknowledged already.

        Raises:
            TypeError: The name is not valid.
            ValueError: The channel belongs to another process.
        """
        if "!" in channel:
            return await super().take(channel)
        self.require_valid_channel_name(channel)
        endpoint = self._endpoints.get()
        held = await self._hold(endpoint, channel)
        return Delivery(dict(held), held.popped.acknowledge, held.popped.give_back)

    async def _hold(self, endpoint: QueueEndpoint, channel: str) -> Held:
        """Wait for a message of a plain channel, to be acknowledged or given back."""
        return cast("Held", await self._wait(endpoint, endpoint.plain, channel))

    async def _wait(
        self, endpoint: QueueEndpoint, mailboxes: Mailboxes, channel: str
    ) -> dict[str, Any]:
        """Wait for a message in the mailbox of a channel, and return it."""
        name = self.non_local_name(channel)
        mailbox = mailboxes.open(channel)
        try:
            message = mailbox.take()
            if message is None:
                endpoint.want(name)
                try:
                    message = await mailbox.get()
                finally:
                    endpoint.unwant(name)
            return message
        finally:
            mailboxes.close(channel, mailbox)

    async def dead_letters(
        self, channel: str, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return the dead letters of a plain channel.

        Redis keeps the latest thousand of a channel, for seven days after the last one.
        Those that cannot be decoded are left out and logged.

        Args:
            channel: The channel that they were sent to.
            limit: Maximum number of messages from each host, the oldest first.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply.
            TypeError: The name is not valid.
        """
        self.require_valid_channel_name(channel)
        letters: list[dict[str, Any]] = []
        shards = self._endpoints.get().shards
        for value in await read_dead_letters(shards, channel, limit):
            try:
                message = self.deserialize(value, any_age=True)
            except UndecodableMessage as exc:
                _logger.warning(
                    "a dead letter of channel %r cannot be decoded: %s", channel, exc
                )
                continue
            message.pop(CHANNEL_KEY, None)
            letters.append(message)
        return letters

    async def requeue_dead_letters(self, channel: str) -> int:
        """Put the dead letters of a plain channel back into it, as if sent now.

        Returns:
            The number of messages.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply; then some may
                have been put back.
            TypeError: The name is not valid.
        """
        self.require_valid_channel_name(channel)
        shards = self._endpoints.get().shards
        return await requeue_dead_letters(shards, channel, self.expiry)

    def attach(self, channel: str, listener: Callable[[], None]) -> Mailbox | None:
        """Return the mailbox of a channel, for a reader that does not wait.

        None for a plain channel, whose messages are taken out of Redis only while a
        reader waits.
        """
        if "!" not in channel:
            return None
        self._require_own(channel)
        return self._endpoints.get().attach(channel, listener)

    def require_valid_message(self, message: object) -> None:
        """Check that the layer can carry a message.

        Raises:
            TypeError: The message is not one that the layer can carry.
            ValueError: It has the key ``__asgi_channel__``.
        """
        super().require_valid_message(message)
        if isinstance(message, dict) and CHANNEL_KEY in message:
            raise ValueError(
                f"a message must not have the key {CHANNEL_KEY!r}, in which the "
                "layer stores its channels"
            )

    # Groups

    async def group_send(
        self, group: str, message: ChannelMessage, *, once: str | None = None
    ) -> str | None:
        """Send a message to every channel of a group.

        A process whose queue is full does not get the message; ``statistics()`` counts
        it as dropped. Cancelling does not withdraw the message.

        Raises:
            RedisUnavailable: Redis cannot be reached, refuses the message, or did not
                reply; in the last case the message may have been sent.
            TypeError: The name is not valid, or the message is not a dict with str
                keys that the serializer can encode.
            ValueError: The message has the key ``__asgi_channel__``.
        """
        self.require_valid_group_name(group)
        self.require_valid_message(message)
        if self._histories or once is not None:
            history = self._history_to_send(group, once)
            if history is not None:
                return await self._send_numbered(group, history, message, once)
        endpoint = self._endpoints.get()
        shard = endpoint.shards.of(group)
        keys = [group_key(shard.prefix, group), processes_key(shard.prefix)]
        # The commands below share the deadline of one command.
        deadline = shard.commands.deadline()
        if self._end is None:
            members = await endpoint.run(
                shard, MEMBERS, keys, self.group_expiry, deadline=deadline
            )
            full = await self._fan_out(endpoint, _names(members), message, deadline)
        else:
            queues, plain = await endpoint.run(
                shard,
                GROUP_SEND,
                keys,
                *self._sending(self._end, message),
                deadline=deadline,
            )
            full = _names(queues)
            if plain:
                full += await self._fan_out(endpoint, _names(plain), message, deadline)
        self.counters.count_full_queues(full, group)
        return None

    def _sending(
        self, end: tuple[bytes, bytes, str], message: ChannelMessage
    ) -> tuple[str | bytes | float, ...]:
        """Return the arguments of a script that fans a message out."""
        empty, tail, writer = end
        value = self.serialize({**message, CHANNEL_KEY: []})
        return (
            self.group_expiry,
            self.prefix,
            self.process_capacity,
            # Patterns decide on plain channels, and Redis does not know them.
            "" if self.channel_capacity else self.capacity,
            self.expiry,
            writer,
            value.removesuffix(empty + tail),
            tail,
        )

    async def _send_numbered(
        self, group: str, history: History, message: ChannelMessage, once: str | None
    ) -> str:
        """Send a message to a group that has a history; return its position."""
        endpoint = self._endpoints.get()
        shard = endpoint.shards.of(group)
        keys = [
            group_key(shard.prefix, group),
            processes_key(shard.prefix),
            *history_keys(shard.prefix, group, once),
        ]
        options = numbering_options(history)
        deadline = shard.commands.deadline()
        if self._end is None:
            epoch, offset, is_new, members = await endpoint.run(
                shard,
                HISTORY_MEMBERS,
                keys,
                self.group_expiry,
                self.serialize({**message, CHANNEL_KEY: []}),
                *options,
                deadline=deadline,
            )
            position = f"{epoch.decode()}.{offset.decode()}"
            names = _names(members)
            if not is_new:
                # The first call may have failed in between. Receivers that know
                # positions recognize what they have.
                queues = {queue_of(name) for name in names if is_stand_in(name)}
                names = [each for each in names if self.non_local_name(each) in queues]
            full = await self._fan_out(endpoint, names, message, deadline, position)
        else:
            epoch, offset, queues, plain = await endpoint.run(
                shard,
                HISTORY_SEND,
                keys,
                *self._sending(self._end, message),
                *options,
                deadline=deadline,
            )
            position = f"{epoch.decode()}.{offset.decode()}"
            full = _names(queues)
            if plain:
                full += await self._fan_out(endpoint, _names(plain), message, deadline)
        self.counters.count_full_queues(full, group)
        return position

    # The whole layer

    async def flush(self) -> None:
        """Drop all messages and groups of this prefix, of every process.

        Tasks that receive keep waiting. Other processes keep the memberships of their
        channels, and restore them. It scans all keys of the server, step by step.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply.
        """
        await super().flush()
        await flush_keys(self._endpoints.get().shards)

    def _make_endpoint(self) -> QueueEndpoint:
        return QueueEndpoint(
            self,
            self._name_endpoint(),
            group_expiry=self.group_expiry,
            max_deliveries=self.max_deliveries or 0,
        )

    def _require_own(self, channel: str) -> None:
        parts = self.non_local_name(channel).rsplit(".", 2)
        if parts[-2:-1] != [self._process[0]]:
            raise ValueError(
                f"channel {channel!r} is not one that new_channel() of this layer has "
                "returned in this process, and only its own process can read it"
            )

    def _capacity_of(self, name: str) -> int:
        """Return the capacity of a queue: of a process, or of a plain channel."""
        if name.endswith("!"):
            return self.process_capacity
        return self.get_capacity(name)

    async def _enqueue(
        self,
        endpoint: QueueEndpoint,
        shard: Shard,
        name: str,
        value: bytes,
        *,
        deadline: float | None = None,
    ) -> int:
        sent: int = await endpoint.run(
            shard,
            SEND,
            [queue_key(shard.prefix, name)],
            value,
            self._capacity_of(name),
            self.expiry,
            deadline=deadline,
        )
        return sent

    async def _fan_out(
        self,
        endpoint: QueueEndpoint,
        members: list[str],
        message: ChannelMessage,
        deadline: float,
        position: str | None = None,
    ) -> list[str]:
        """Send one value to each process, for all its channels.

        Args:
            endpoint: The endpoint.
            members: The channels, and stand-ins.
            message: The message.
            deadline: The deadline of the commands.
            position: The position of the message, for queues with a stand-in.

        Returns:
            The names of the queues that were full.
        """
        if not members:
            # Serialize even without members, to refuse every invalid message.
            self.serialize(message)
        channels: dict[str, list[str]] = {}
        for member in members:
            channels.setdefault(self.non_local_name(member), []).append(member)
        if position is not None:
            for queue, own in channels.items():
                if any(map(is_stand_in, own)):
                    own.append(queue + MARK + position)
        sent = await asyncio.gather(
            *[
                self._enqueue(
                    endpoint,
                    endpoint.shards.of(name),
                    name,
                    self.serialize({**message, CHANNEL_KEY: own}),
                    deadline=deadline,
                )
                for name, own in channels.items()
            ]
        )
        return [name for name, done in zip(channels, sent, strict=True) if not done]


def _end_of(serializer: MessageSerializer) -> tuple[bytes, bytes, str] | None:
    """Return the end of messages that a script completes, and the list's encoding."""
    # Not for subclasses, which can encode differently.
    end = LIST_ENDS.get(type(serializer))
    if end is None or cast("BaseMessageSerializer", serializer).crypter is not None:
        return None
    return end


def _names(members: list[bytes]) -> list[str]:
    """Decode names that were read from Redis, and leave out invalid ones."""
    return [member.decode("ascii") for member in members if member.isascii()]
