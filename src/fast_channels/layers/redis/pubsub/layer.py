"""The layer that publishes messages to whoever listens at that moment.

Nothing is stored in Redis. The names of Redis channels and what is published are those
of Django's channels_redis, so that both can run on one Redis: a channel has its own
name, and a group one with the prefix.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.per_loop import LoopStopped, PerLoop, in_loop
from fast_channels.layers.redis.hosts import HostSpelling
from fast_channels.layers.redis.layer import RedisBaseLayer
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage

from .endpoint import PubSubEndpoint

__all__ = ["RedisPubSubChannelLayer"]


class RedisPubSubChannelLayer(RedisBaseLayer):
    """A layer that publishes messages to whoever listens at that moment.

    It has the lowest latency, and what a group costs in Redis does not depend on how
    many are in it. Messages are lost while a process is cut off from Redis. A channel
    that was not made by ``new_channel()`` reaches every process that receives from it;
    for queues of work there is ``RedisChannelLayer``.

    It is made without an event loop and without touching Redis, and may be used in any
    number of event loops. Channels and groups may have any name that is not empty.

    Args:
        hosts: Where Redis is: a list of URLs, of pairs of a host and a port, or of
            dicts of redis-py's arguments; by default this machine. Several hosts share
            the channels and groups, and need the same order in every process.
        prefix: What the names of groups and of new channels start with in Redis.
        expiry: After how many seconds a message that arrived in a process, and that
            nobody received there, is dropped.
        group_expiry: Has no effect: a channel is in its groups as long as its process
            runs.
        capacity: How many messages may wait for one channel in its process; what comes
            then is dropped.
        channel_capacity: A capacity of their own for some channels, by glob
            (``"http.request*"``) or compiled pattern; the first match counts. What the
            names of new channels start with in Redis is left out.
        symmetric_encryption_keys: Secrets to encrypt messages with. The first one
            encrypts, each may decrypt, so that keys can be replaced.
        random_prefix_length: Has no effect, as a message needs not to be unique.
        serializer_format: How messages are written: ``"msgpack"``, ``"json"``, or what
            was added to ``fast_channels.layers.redis.serializers.registry``.
        on_disconnect: The type of a message that all channels of this process get when
            the connection to Redis has broken. Consumers without a handler for it
            ignore it.
        on_reconnect: The same for when messages arrive again.
        sentinels: Sentinels to ask where Redis is, instead of ``hosts``.
        service_name: What these Sentinels call it.
        sentinel_kwargs: redis-py's arguments for connections to these Sentinels.
        connection_kwargs: redis-py's arguments for connections to Redis.

    Raises:
        ImportError: There are keys, and cryptography is not installed.
        SerializerDoesNotExist: There is no such format.
        TypeError: An argument is not of the type it should be.
        ValueError: An argument makes no sense, alone or with others.
    """

    broadcasts: bool = True
    """Each message of a plain channel goes to every process that reads it."""

    def __init__(  # noqa: PLR0917 # the order of RedisChannelLayer
        self,
        hosts: Sequence[HostSpelling] | None = None,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: ChannelCapacityDict | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        random_prefix_length: int = 0,
        serializer_format: str = "msgpack",
        *,
        on_disconnect: str | None = None,
        on_reconnect: str | None = None,
        sentinels: Sequence[HostSpelling] | None = None,
        service_name: str | None = None,
        sentinel_kwargs: Mapping[str, Any] | None = None,
        connection_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        del random_prefix_length
        super().__init__(
            hosts,
            prefix,
            expiry,
            group_expiry,
            capacity,
            channel_capacity,
            symmetric_encryption_keys,
            0,
            serializer_format,
            # What arrives was published just now, whatever its sender's clock says.
            age_limit=None,
            sentinels=sentinels,
            service_name=service_name,
            sentinel_kwargs=sentinel_kwargs,
            connection_kwargs=connection_kwargs,
        )
        self._types = on_disconnect, on_reconnect
        self._clients: PerLoop[PubSubEndpoint] = PerLoop(
            self._new_client, PubSubEndpoint.close
        )

    def statistics(self) -> dict[str, int]:
        """Return how much the layer holds at this moment, and what it has counted.

        In this process: ``channels`` that are read, ``groups`` they are in, messages
        ``waiting`` for them. Since the layer was made: messages ``delivered`` to them;
        copies ``dropped``, since there was no room; messages ``undecodable``; and
        ``reconnects`` of connections that broke.
        """
        clients = self._clients.peek()
        mailboxes = [self.mailboxes, *(client.plain for client in clients)]
        return self.counters.statistics(
            channels=sum(len(each.by_channel) for each in mailboxes),
            groups=sum(len(client.groups) for client in clients),
            waiting=sum(each.waiting() for each in mailboxes),
        )

    # Names

    def require_valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """Return True for a valid name of a channel: any str that is not empty.

        Raises:
            TypeError: The name is not valid.
        """
        return _require_name("channel", name)

    def require_valid_group_name(self, name: str) -> bool:
        """Return True for a valid name of a group: any str that is not empty.

        Raises:
            TypeError: The name is not valid.
        """
        return _require_name("group", name)

    def get_capacity(self, channel: str) -> int:
        """Return how many messages may wait for a channel in its process."""
        return super().get_capacity(channel.removeprefix(self.prefix))

    # Channels

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return the name of a new channel, which is read in this process only.

        What is sent to it from now on waits for a receiver. While Redis is away this
        returns all the same, and messages arrive when it is back.

        Args:
            prefix: What the name starts with, after the prefix of the layer.

        Raises:
            TypeError: The prefix is not valid in a name.
        """
        self.require_valid_channel_name(prefix)
        client = self._clients.get()
        beginning = f"{self.prefix}{prefix}.{client.name}!"
        await client.listen_to_own(beginning)
        return beginning + self.mailboxes.new_name()

    async def send(self, channel: str, message: ChannelMessage) -> None:
        """Send a message to whoever receives from a channel at that moment.

        Cancelling does not take it back.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply; then nobody
                knows whether the message was sent.
            TypeError: The name is not valid, or the message is not a dict with str
                keys that the serializer can encode.
        """
        self.require_valid_channel_name(channel)
        await self._publish(channel, message)

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel and return it.

        A channel of this process keeps what comes for it. Any other is listened to from
        the first call on, until there was none for ``expiry`` seconds. Any number of
        tasks may wait for one channel; each message goes to one of them in each event
        loop. Cancelling is safe: no message is lost. While Redis is away it goes on
        waiting.

        Raises:
            TypeError: The name is not valid.
        """
        self.require_valid_channel_name(channel)
        client = self._clients.get()
        mailboxes = self.mailboxes
        if self._owner(channel) is None:
            mailboxes = client.plain
            client.listen_for_reader(channel)
        mailbox = mailboxes.open(channel)
        try:
            return await mailbox.get()
        finally:
            mailboxes.close(channel, mailbox)

    def attach(self, channel: str, listener: Callable[[], None]) -> Mailbox | None:
        """Return the mailbox of a channel, for a reader that does not wait.

        None for a channel that ``new_channel()`` has not made in this event loop.
        """
        client = self._clients.get()
        if self._owner(channel) is not client:
            return None
        return client.attach(channel, listener)

    async def delete_channel(self, channel: str) -> None:
        """Drop a channel's messages and memberships; a second call does nothing.

        What is on its way to a channel that ``new_channel()`` made is lost. Any other
        is listened to again when it is received from, or added to a group.
        """
        client = self._owner(channel) or self._clients.get()
        await in_loop(client.loop, client.delete, channel)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; nothing changes if it is in it.

        What is sent to the group from now on reaches the channel, which has to be
        received from in this event loop. It stays in the group until it leaves or is
        deleted, or the event loop or the layer is closed. While Redis is away this
        returns all the same. Cancelling does not take it back.

        Raises:
            TypeError: A name is not valid.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        client = self._owner(channel) or self._clients.get()
        await in_loop(client.loop, client.join, self._in_redis(group), channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; nothing changes if it is not in it.

        Raises:
            TypeError: A name is not valid.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        client = self._owner(channel) or self._clients.get()
        await in_loop(client.loop, client.leave, self._in_redis(group), channel)

    async def group_send(self, group: str, message: ChannelMessage) -> None:
        """Send a message to every channel that is in a group at that moment.

        Cancelling does not take it back.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply; then nobody
                knows whether the message was sent.
            TypeError: The name is not valid, or the message is not a dict with str
                keys that the serializer can encode.
        """
        self.require_valid_group_name(group)
        await self._publish(self._in_redis(group), message)

    # The whole layer

    async def flush(self) -> None:
        """Drop every message and every group of this process: nobody else has any.

        Whoever receives goes on waiting.
        """
        for client in self._clients.peek():
            # What does not run forgets when it does.
            with contextlib.suppress(LoopStopped):
                await in_loop(client.loop, client.forget)
        self.mailboxes.clear()

    async def close(self) -> None:
        """Stop listening, and disconnect. Messages that wait are dropped.

        Cancelling does not take it back.
        """
        try:
            await self._clients.close()
        finally:
            self.mailboxes.clear()
            self.mailboxes.forget_buried()

    def _new_client(self) -> PubSubEndpoint:
        return PubSubEndpoint(self, self._name_client(), *self._types)

    def _owner(self, channel: str) -> PubSubEndpoint | None:
        """Return the client of the event loop in which a channel was made, if any."""
        here = self._clients.here()
        if here is not None and here.owns(channel):
            return here
        for client in self._clients.peek():
            if client.owns(channel) and client.loop.is_running():
                return client
        return None

    def _in_redis(self, group: str) -> str:
        return f"{self.prefix}__group__{group}"

    async def _publish(self, name: str, message: ChannelMessage) -> None:
        self.require_valid_message(message)
        value = self.serialize(message)
        await self._clients.get().publish(name, value)


def _require_name(kind: str, name: object) -> bool:
    problem = "it must be a non-empty str"
    if isinstance(name, str) and name:
        try:
            name.encode()
        except UnicodeEncodeError:
            problem = "it must be a str that can be encoded"
        else:
            return True
    raise TypeError(f"{name!r} is not a {kind} name: {problem}")
