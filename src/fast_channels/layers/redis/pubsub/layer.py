"""The layer that publishes messages to the processes that listen at that moment.

Nothing is stored in Redis. The names of Redis channels and the published data are those
of Django's channels_redis, so that both can use one Redis: a channel is published under
its own name, and a group under a name with the prefix. In a Redis Cluster, which
channels_redis cannot use, they differ.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.layers.redis.hosts import HostSpelling, parse_hosts
from fast_channels.layers.redis.layer import RedisBaseLayer
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage

from .endpoint import PubSubEndpoint

__all__ = ["RedisPubSubChannelLayer"]


class RedisPubSubChannelLayer(RedisBaseLayer[PubSubEndpoint]):
    """A layer that publishes messages to the processes that listen at that moment.

    It has the lowest latency, and the cost of a group in Redis does not depend on its
    size. A process that is cut off from Redis loses the messages sent meanwhile. A
    channel that was not made by ``new_channel()`` reaches every process that receives
    from it; for work queues, use ``RedisChannelLayer``.

    You can create it without an event loop and without Redis, and use it in any number
    of event loops. Channels and groups can have any name that is not empty.

    Args:
        prefix: Prefix of the names of groups and of new channels in Redis.
        expiry: Seconds after which an unreceived message is dropped, counted from its
            arrival in a process.
        capacity: Maximum number of messages waiting for one channel in its process;
            further messages are dropped.
        channel_capacity: Separate capacities for some channels, as in
            ``RedisChannelLayer``. They match names of channels without ``prefix``.
        on_disconnect: Type of a message that all channels of this process get when the
            connection to Redis has broken. Consumers without a handler for it ignore
            it. In a cluster, only channels that can miss messages get it: when a node
            has failed, or when the slot of their group moves to another node.
        on_reconnect: Type of a message that they get when messages arrive again.
        cluster: Some nodes of a Redis Cluster of Redis 7, Valkey, or newer, instead of
            ``hosts``. Messages use sharded pub/sub, so each goes to one node only.

    The other arguments, and what is raised, are those of ``RedisChannelLayer``.
    """

    broadcasts: bool = True
    """Whether all processes that read a plain channel get each of its messages."""

    def __init__(
        self,
        hosts: Sequence[HostSpelling] | None = None,
        prefix: str = "asgi",
        *,
        expiry: float = 60,
        capacity: int = 100,
        channel_capacity: ChannelCapacityDict | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        serializer_format: str = "msgpack",
        on_disconnect: str | None = None,
        on_reconnect: str | None = None,
        sentinels: Sequence[HostSpelling] | None = None,
        service_name: str | None = None,
        sentinel_kwargs: Mapping[str, Any] | None = None,
        connection_kwargs: Mapping[str, Any] | None = None,
        cluster: Sequence[HostSpelling] | None = None,
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
            # Messages need not be unique.
            random_prefix_length=0,
            serializer_format=serializer_format,
            # A message was published just now, even if its sender's clock is wrong.
            age_limit=None,
        )
        self._types = on_disconnect, on_reconnect

    # Names

    def require_valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """Return True for a valid channel name: a non-empty str that UTF-8 can encode.

        Raises:
            TypeError: The name is not valid.
        """
        return _require_name("channel", name)

    def require_valid_group_name(self, name: str) -> bool:
        """Return True for a valid group name: a non-empty str that UTF-8 can encode.

        Raises:
            TypeError: The name is not valid.
        """
        return _require_name("group", name)

    def get_capacity(self, channel: str) -> int:
        """Return the capacity of a channel in its process."""
        return super().get_capacity(channel.removeprefix(self.prefix))

    # Channels

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return the name of a new channel, which only this process reads.

        Messages sent to it from now on wait for a receiver. While Redis is away, this
        returns anyway, and messages arrive once Redis is back.

        Args:
            prefix: Start of the name, after the prefix of the layer.

        Raises:
            TypeError: The prefix is not valid in a name.
        """
        self.require_valid_channel_name(prefix)
        endpoint = self._endpoints.get()
        beginning = f"{self.prefix}{prefix}.{endpoint.name}!"
        await endpoint.listen_to_own(beginning)
        return beginning + self.mailboxes.new_name()

    async def send(self, channel: str, message: ChannelMessage) -> None:
        """Send a message to the processes that read a channel at that moment.

        Cancelling does not withdraw the message.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply; then the
                message may or may not have been sent.
            TypeError: The name is not valid, or the message is not a dict with str
                keys that the serializer can encode.
        """
        self.require_valid_channel_name(channel)
        value = self._encode(message)
        await self._endpoints.get().send(channel, value)

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel and return it.

        A channel of this process keeps its messages. Any other is listened to from the
        first call on, until no call has waited for ``expiry`` seconds. Any number of
        tasks can wait on one channel; each message goes to one of them in each event
        loop. Cancelling is safe: no message is lost. While Redis is away, the call
        keeps waiting.

        Raises:
            TypeError: The name is not valid.
        """
        self.require_valid_channel_name(channel)
        endpoint = self._endpoints.get()
        if self._owner(channel) is not None:
            return await _receive(self.mailboxes, channel)
        endpoint.listen_for_reader(channel)
        try:
            return await _receive(endpoint.plain, channel)
        finally:
            endpoint.reader_left(channel)

    def attach(self, channel: str, listener: Callable[[], None]) -> Mailbox | None:
        """Return the mailbox of a channel, for a reader that does not wait.

        Return None unless ``new_channel()`` made the channel in this event loop.
        """
        endpoint = self._endpoints.get()
        if self._owner(channel) is not endpoint:
            return None
        return endpoint.attach(channel, listener)

    # Groups

    async def group_send(self, group: str, message: ChannelMessage) -> None:
        """Send a message to every channel that is in a group at that moment.

        Cancelling does not withdraw the message.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply; then the
                message may or may not have been sent.
            TypeError: The name is not valid, or the message is not a dict with str
                keys that the serializer can encode.
        """
        self.require_valid_group_name(group)
        value = self._encode(message)
        await self._endpoints.get().publish(self._in_redis(group), value)

    def _make_endpoint(self) -> PubSubEndpoint:
        return PubSubEndpoint(self, self._name_endpoint(), *self._types)

    def _in_redis(self, group: str) -> str:
        return f"{self.prefix}__group__{group}"

    def _encode(self, message: ChannelMessage) -> bytes:
        self.require_valid_message(message)
        return self.serialize(message)


async def _receive(mailboxes: Mailboxes, channel: str) -> dict[str, Any]:
    mailbox = mailboxes.open(channel)
    try:
        return await mailbox.get()
    finally:
        mailboxes.close(channel, mailbox)


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
