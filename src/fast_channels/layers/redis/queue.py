"""The layer that keeps messages in Redis until they are received.

Keys and values are those of Django's channels_redis, so that both can run on one Redis:
a channel of a process, or a plain channel, is a sorted set of messages by the time of
sending; a group is one of channels by the time of joining. Every key expires.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from fast_channels.exceptions import ChannelFull
from fast_channels.layers.base import require_positive_int
from fast_channels.layers.delivery import Delivery
from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage

from .base import RedisBaseLayer
from .client import CHANNEL_KEY, Client, Held
from .event_loops import LoopStopped, PerLoop, in_loop
from .flushing import flush_keys
from .hosts import HostSpelling
from .scripts import GROUP_SEND, MEMBERS, SEND
from .serializers import (
    BaseMessageSerializer,
    JSONSerializer,
    MessageSerializer,
    MsgPackSerializer,
    UndecodableMessage,
)

__all__ = ["RedisChannelLayer"]

_logger = logging.getLogger(__name__)

# How a message ends whose last value is an empty list: with the list, and what is after
# it. Redis can complete the list by itself, as it can write such lists.
_ENDS: dict[type, tuple[bytes, bytes, str]] = {
    MsgPackSerializer: (b"\x90", b"", "msgpack"),
    JSONSerializer: (b"[]", b"}", "json"),
}


class RedisChannelLayer(RedisBaseLayer):
    """A layer that keeps messages in Redis until they are received.

    It reaches every process that uses the same Redis with the same prefix, Django
    processes with channels_redis among them. A process that is cut off from Redis for a
    moment gets what was sent meanwhile. :doc:`/topics/delivery` says what may be lost.

    It is made without an event loop and without touching Redis, and may be used in any
    number of event loops.

    Args:
        hosts: Where Redis is: a list of URLs, of pairs of a host and a port, or of
            dicts of redis-py's arguments; by default this machine. Several hosts share
            the channels and groups, and need the same order in every process.
        prefix: What the names of keys start with.
        expiry: After how many seconds a message that nobody received is dropped.
        group_expiry: After how many seconds a channel is dropped from its groups that
            no running process keeps there.
        capacity: How many messages may wait in Redis for one process, or in one plain
            channel, and how many then for one channel in its process. ``send()`` to a
            full one raises ``ChannelFull``; ``group_send()`` drops that copy.
        channel_capacity: A capacity of their own for some channels, by glob
            (``"http.request*"``) or compiled pattern; the first match counts.
        symmetric_encryption_keys: Secrets to encrypt messages with. The first one
            encrypts, each may decrypt, so that keys can be replaced.
        random_prefix_length: How many bytes are put before each message to make it
            unique.
        serializer_format: How messages are written: ``"msgpack"``, ``"json"``, or what
            was added to ``fast_channels.layers.redis.serializers.registry``.
        sentinels: Sentinels to ask where Redis is, instead of ``hosts``.
        service_name: What these Sentinels call it.
        sentinel_kwargs: redis-py's arguments for connections to these Sentinels.
        connection_kwargs: redis-py's arguments for connections to Redis.
        max_deliveries: Deliveries after which a message of a plain channel is a dead
            letter, if the process of each one died before it had handled the message;
            None for any number. See ``dead_letters()``.

    Raises:
        ImportError: There are keys, and cryptography is not installed.
        SerializerDoesNotExist: There is no such format.
        TypeError: An argument is not of the type it should be.
        ValueError: An argument makes no sense, alone or with others.
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
    ) -> None:
        super().__init__(
            hosts,
            prefix,
            expiry,
            group_expiry,
            capacity,
            channel_capacity,
            symmetric_encryption_keys,
            random_prefix_length,
            serializer_format,
            age_limit=expiry,
            sentinels=sentinels,
            service_name=service_name,
            sentinel_kwargs=sentinel_kwargs,
            connection_kwargs=connection_kwargs,
        )
        self.max_deliveries: int | None = None
        """Deliveries after which a message of a plain channel is a dead letter."""
        if max_deliveries is not None:
            self.max_deliveries = require_positive_int("max_deliveries", max_deliveries)
        # How Redis completes a message and fans it out; None if it does not know all
        # that it needs. The bytes of other formats are not ours to change: they may
        # end the same by chance, or with a signature.
        self._end = None
        if len(self.hosts) == 1 and not self.channel_capacity:
            self._end = _end_of(self.serializer)
        # The host that got the last message to a plain channel.
        self._turn = -1
        self._clients: PerLoop[Client] = PerLoop(self._new_client, Client.close)

    def statistics(self) -> dict[str, int]:
        """Return how much the layer holds at this moment, and what it has counted.

        In this process: ``channels`` that are read, ``groups`` they are in, messages
        ``waiting`` for them. Since the layer was made: messages ``delivered`` to them;
        copies ``dropped``, since there was no room; messages ``undecodable``, or for
        nobody here; and ``reconnects`` of connections that broke.
        """
        clients = self._clients.peek()
        mailboxes = [self.mailboxes, *(client.plain for client in clients)]
        return self.counters.statistics(
            channels=sum(len(each.by_channel) for each in mailboxes),
            groups=sum(len(client.memberships.groups) for client in clients),
            waiting=sum(each.waiting() for each in mailboxes),
        )

    # Channels

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return the name of a new channel, which is read in this process only.

        Args:
            prefix: What the name starts with.

        Raises:
            TypeError: The prefix is not valid in a name.
        """
        self.require_valid_channel_name(prefix)
        channel = f"{prefix}.{self._clients.get().name}!{self.mailboxes.new_name()}"
        self.require_valid_channel_name(channel)
        return channel

    async def send(self, channel: str, message: ChannelMessage) -> None:
        """Send a message to one channel.

        Cancelling does not take it back.

        Raises:
            ChannelFull: The channel is at capacity; the message was not sent.
            RedisUnavailable: Redis cannot be reached, refuses the message, or did not
                reply; in the last case the message may have been sent.
            TypeError: The name is not valid, or the message is not a dict with str
                keys that the serializer can encode.
            ValueError: The message has the key ``__asgi_channel__``.
        """
        self.require_valid_channel_name(channel)
        self.require_valid_message(message)
        client = self._clients.get()
        name = self.non_local_name(channel)
        if name.endswith("!"):
            shard = client.shard_of(name)
            message = {**message, CHANNEL_KEY: channel}
        else:
            # Django's readers wait at one host after the other.
            self._turn = shard = (self._turn + 1) % len(self.hosts)
        value = self.serialize(message)
        if not await self._enqueue(client, shard, name, channel, value):
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel and return it.

        Any number of tasks may wait for one channel; each message goes to one of
        them, and for a plain channel, without a ``!``, to one process. Cancelling is
        safe: no message is lost. While Redis is away it goes on waiting.

        Raises:
            TypeError: The name is not valid.
            ValueError: The channel belongs to another process.
        """
        self.require_valid_channel_name(channel)
        client = self._clients.get()
        name = self.non_local_name(channel)
        if not name.endswith("!"):
            held = cast("Held", await self._wait(client, client.plain, channel))
            held.popped.acknowledge(soon=False)
            return dict(held)
        self._require_own(channel)
        return await self._wait(client, self.mailboxes, channel)

    async def take(self, channel: str) -> Delivery:
        """Wait for the next message of a plain channel, to be acknowledged.

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
        client = self._clients.get()
        held = cast("Held", await self._wait(client, client.plain, channel))
        return Delivery(dict(held), held.popped.acknowledge, held.popped.give_back)

    async def _wait(
        self, client: Client, mailboxes: Mailboxes, channel: str
    ) -> dict[str, Any]:
        """Wait until there is something in the mailbox of a channel."""
        name = self.non_local_name(channel)
        mailbox = mailboxes.open(channel)
        try:
            message = mailbox.take()
            if message is None:
                client.want(name)
                try:
                    message = await mailbox.get()
                finally:
                    client.unwant(name)
            return message
        finally:
            mailboxes.close(channel, mailbox)

    async def dead_letters(
        self, channel: str, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return messages of a plain channel whose receivers have died too often.

        Redis keeps the latest thousand of a channel, for seven days after the last one.
        Those that cannot be decoded are left out and logged.

        Args:
            channel: The channel that they were sent to.
            limit: The most messages to return from each host, the oldest first.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply.
            TypeError: The name is not valid.
        """
        self.require_valid_channel_name(channel)
        letters: list[dict[str, Any]] = []
        for value in await self._clients.get().dead_letters(channel, limit):
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
        """Put the dead letters of a plain channel back into it, as if sent anew.

        Returns:
            How many messages these were.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply; then some may
                have been put back.
            TypeError: The name is not valid.
        """
        self.require_valid_channel_name(channel)
        return await self._clients.get().requeue_dead_letters(channel)

    def attach(self, channel: str, listener: Callable[[], None]) -> Mailbox | None:
        """Return the mailbox of a channel, for a reader that does not wait.

        None for a plain channel, of which a message is taken out of Redis only when
        somebody waits for it.
        """
        if "!" not in channel:
            return None
        self._require_own(channel)
        return self._clients.get().attach(channel, listener)

    async def delete_channel(self, channel: str) -> None:
        """Drop a channel's messages and memberships; a second call does nothing.

        What is on its way to a channel that ``new_channel()`` made is lost. While Redis
        is away, the change is written later.
        """
        client = self._owner(channel) or self._clients.get()
        await in_loop(client.loop, client.delete, channel)

    def require_valid_message(self, message: object) -> None:
        """Return if a message is one that the layer carries.

        Raises:
            TypeError: It is not a dict, or one of its keys is not a str.
            ValueError: It has the key ``__asgi_channel__``.
        """
        super().require_valid_message(message)
        if isinstance(message, dict) and CHANNEL_KEY in message:
            raise ValueError(
                f"a message must not have the key {CHANNEL_KEY!r}, under which the "
                "layer writes whom it is for"
            )

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; nothing changes if it is in it.

        A channel that was made in an event loop of this process stays in the group
        until it leaves or is deleted, or that loop or the layer is closed. While Redis
        is away or refuses the change this returns all the same, and the change is
        written later. Any other channel stays for ``group_expiry``. Cancelling does not
        take it back.

        Raises:
            RedisUnavailable: The channel is any other, and Redis cannot be reached,
                refuses the change, or did not reply.
            TypeError: A name is not valid.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        owner = self._owner(channel)
        if owner is None:
            await self._clients.get().memberships.insert(group, channel)
        else:
            await in_loop(owner.loop, owner.memberships.add, group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; nothing changes if it is not in it.

        While Redis is away or refuses the change this returns all the same for a
        channel that was made in an event loop of this process, and the change is
        written later. Cancelling does not take it back.

        Raises:
            RedisUnavailable: The channel is any other, and Redis cannot be reached,
                refuses the change, or did not reply.
            TypeError: A name is not valid.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        owner = self._owner(channel)
        if owner is None:
            await self._clients.get().memberships.remove(group, channel)
        else:
            await in_loop(owner.loop, owner.memberships.discard, group, channel)

    async def group_send(self, group: str, message: ChannelMessage) -> None:
        """Send a message to every channel of a group.

        A process whose channels are at capacity does not get one; ``statistics()``
        counts that. Cancelling does not take it back.

        Raises:
            RedisUnavailable: Redis cannot be reached, refuses the message, or did not
                reply; in the last case the message may have been sent.
            TypeError: The name is not valid, or the message is not a dict with str
                keys that the serializer can encode.
            ValueError: The message has the key ``__asgi_channel__``.
        """
        self.require_valid_group_name(group)
        self.require_valid_message(message)
        client = self._clients.get()
        run = functools.partial(client.run, client.shard_of(group))
        keys = [f"{self.prefix}:group:{group}", f"{self.prefix}:processes"]
        if self._end is None:
            # All that follows shares the time in which one command has to be answered.
            deadline = client.commands[client.shard_of(group)].deadline()
            members = await run(MEMBERS, keys, self.group_expiry, deadline=deadline)
            full = await self._fan_out(client, _names(members), message, deadline)
        else:
            empty, tail, writer = self._end
            value = self.serialize({**message, CHANNEL_KEY: []})
            queues = await run(
                GROUP_SEND,
                keys,
                self.group_expiry,
                self.prefix,
                self.capacity,
                self.expiry,
                writer,
                value.removesuffix(empty + tail),
                tail,
            )
            full = _names(queues)
        self.counters.count_full_queues(full, group)

    # The whole layer

    async def flush(self) -> None:
        """Drop every message and every group of this prefix, whoever they are from.

        Whoever receives goes on waiting. Other processes go on keeping the memberships
        of their channels. It looks at every key of the server, step by step.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply.
        """
        for client in self._clients.peek():
            # What does not run forgets when it does.
            with contextlib.suppress(LoopStopped):
                await in_loop(client.loop, client.forget)
        self.mailboxes.clear()
        commands = self._clients.get().commands
        await asyncio.gather(*[flush_keys(shard, self.prefix) for shard in commands])

    async def close(self) -> None:
        """Take the channels of this process out of their groups, and disconnect.

        Messages that wait in this process are dropped; those that wait in plain
        channels stay in Redis. It takes two seconds at most while Redis is away.
        Cancelling does not take it back.
        """
        try:
            await self._clients.close()
        finally:
            self.mailboxes.clear()
            self.mailboxes.forget_buried()

    # How channels belong to processes

    def _new_client(self) -> Client:
        return Client(self, self._name_client(), self.max_deliveries or 0)

    def _require_own(self, channel: str) -> None:
        if not self._is_own(channel):
            raise ValueError(
                f"channel {channel!r} is not one that new_channel() of this layer has "
                "returned in this process, where alone it could be received from"
            )

    def _owner(self, channel: str) -> Client | None:
        """Return the client of the event loop in which a channel was made, if any."""
        name = self.non_local_name(channel)
        for client in self._clients.peek():
            if name.endswith(f".{client.name}!") and client.loop.is_running():
                return client
        return None

    def _get_room(self, channel: str) -> int:
        # What several hosts hold for a channel may arrive at once.
        return self.get_capacity(channel) * len(self.hosts)

    async def _enqueue(
        self,
        client: Client,
        shard: int,
        name: str,
        channel: str,
        value: bytes,
        *,
        deadline: float | None = None,
    ) -> int:
        sent: int = await client.run(
            shard,
            SEND,
            [self.prefix + name],
            value,
            self.get_capacity(channel),
            self.expiry,
            deadline=deadline,
        )
        return sent

    async def _fan_out(
        self,
        client: Client,
        members: list[str],
        message: ChannelMessage,
        deadline: float,
    ) -> list[str]:
        """Send one value to each process, for all of its channels.

        Returns:
            The queues that were full.
        """
        if not members:
            # To refuse a message does not depend on who would get it.
            self.serialize(message)
        channels: dict[str, list[str]] = {}
        for member in members:
            channels.setdefault(self.non_local_name(member), []).append(member)
        sent = await asyncio.gather(
            *[
                self._enqueue(
                    client,
                    client.shard_of(name),
                    name,
                    own[0],
                    self.serialize({**message, CHANNEL_KEY: own}),
                    deadline=deadline,
                )
                for name, own in channels.items()
            ]
        )
        return [name for name, done in zip(channels, sent, strict=True) if not done]


def _end_of(serializer: MessageSerializer) -> tuple[bytes, bytes, str] | None:
    """Return how messages end that Redis can complete, and what writes the list."""
    # Not of a subclass, which may write something else.
    end = _ENDS.get(type(serializer))
    if end is None or cast("BaseMessageSerializer", serializer).crypter is not None:
        return None
    return end


def _names(members: list[bytes]) -> list[str]:
    """Return names that were read from Redis; what cannot be one is left out."""
    return [member.decode("ascii") for member in members if member.isascii()]
