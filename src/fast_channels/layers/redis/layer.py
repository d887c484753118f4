"""What the two Redis layers share: options, serialization and statistics."""

import os
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fast_channels.exceptions import UndecodableMessage
from fast_channels.forks import released
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.contents import MAX_DEPTH, is_deep, require_shallow
from fast_channels.layers.counters import Counters
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.layers.options import require_finite
from fast_channels.layers.serializers import (
    JSONSerializer,
    MessageSerializer,
    MsgPackSerializer,
    decoder,
    registry,
)
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage

from .hosts import Host, HostSpelling, parse_hosts

__all__ = ["SHORT", "TIMEOUT", "RedisBaseLayer"]

_OWN_FORMATS = (MsgPackSerializer, JSONSerializer)

SHORT = 1.0
"""Seconds before an event loop that only sends opens more than one connection."""
TIMEOUT = 5.0
"""Seconds to wait for a reply, by default."""


class RedisBaseLayer(BaseChannelLayer):
    """A layer whose messages go through Redis.

    Args:
        hosts: Addresses of Redis; several hosts share the channels and groups.
        prefix: Prefix of all keys in Redis.
        expiry: Seconds after which an unreceived message is dropped.
        group_expiry: Seconds after which a channel is dropped from a group, unless a
            running process renews its membership.
        capacity: Maximum number of waiting messages.
        channel_capacity: Separate capacities for some channels, by glob
            (``"http.request*"``) or compiled pattern; the first match applies.
        symmetric_encryption_keys: Secrets for encrypting messages. The first one
            encrypts; all of them can decrypt.
        random_prefix_length: Number of bytes put before each message to make it
            unique.
        serializer_format: Encoding of messages: ``"msgpack"``, ``"json"``, or a name
            registered in ``fast_channels.layers.redis.serializers.registry``.
        age_limit: Age in seconds after which encrypted messages are rejected.
        sentinels: Sentinels to ask for the address of Redis, instead of ``hosts``.
        service_name: Name of the Redis service that these Sentinels monitor.
        sentinel_kwargs: redis-py's arguments for connections to these Sentinels.
        connection_kwargs: redis-py's arguments for connections to Redis.

    Raises:
        ImportError: Keys are given, but cryptography is not installed.
        SerializerDoesNotExist: The format is not registered.
        TypeError: An argument has the wrong type.
        ValueError: An argument is invalid, or conflicts with another one.
    """

    extensions: list[str] = ["groups", "flush"]  # noqa: RUF012 # a list in Channels too

    def __init__(  # noqa: PLR0917 # the order of channels_redis
        self,
        hosts: Sequence[HostSpelling] | None,
        prefix: str,
        expiry: float,
        group_expiry: float,
        capacity: int,
        channel_capacity: ChannelCapacityDict | None,
        symmetric_encryption_keys: Iterable[str | bytes] | None,
        random_prefix_length: int,
        serializer_format: str,
        *,
        age_limit: float | None,
        sentinels: Sequence[HostSpelling] | None,
        service_name: str | None,
        sentinel_kwargs: Mapping[str, Any] | None,
        connection_kwargs: Mapping[str, Any] | None,
    ) -> None:
        super().__init__(expiry, capacity, channel_capacity)
        require_finite("expiry", self.expiry)
        self.group_expiry: float = require_finite("group_expiry", group_expiry)
        """Seconds after which a channel is dropped from a group, unless a running
        process renews its membership."""
        self.prefix: str = _require_prefix(prefix)
        """Prefix of all keys in Redis."""
        self.hosts: tuple[Host, ...] = parse_hosts(
            hosts,
            sentinels=sentinels,
            service_name=service_name,
            sentinel_kwargs=sentinel_kwargs,
            connection_kwargs=connection_kwargs,
        )
        """Addresses of Redis."""
        self.serializer: MessageSerializer = registry.get_serializer(
            serializer_format,
            symmetric_encryption_keys=symmetric_encryption_keys,
            random_prefix_length=random_prefix_length,
            expiry=age_limit,
        )
        """Converter between messages and bytes."""
        self._decode = self._decode_any_age = decoder(self.serializer)
        # A message that is delivered again can be older than ``expiry``.
        if symmetric_encryption_keys and age_limit is not None:
            without_limit = registry.get_serializer(
                serializer_format,
                symmetric_encryption_keys=symmetric_encryption_keys,
                random_prefix_length=random_prefix_length,
            )
            self._decode_any_age = decoder(without_limit)
        # Whether the format is one of ours, so that its limits are known in advance.
        self._is_own_format = type(self.serializer) in _OWN_FORMATS
        # A random name of this process, and its PID: a forked process gets a new name.
        self._process = ("", 0)
        self._event_loops = 0
        # Protects both: several threads can start event loops at the same time.
        self._naming = released(threading.Lock())
        self.counters: Counters = Counters(f"prefix {prefix!r}")
        """Counts of events since the layer was created."""
        self.mailboxes: Mailboxes = Mailboxes(self._get_room, self.expiry)
        """Mailboxes of the messages that have arrived in this process."""

    def __repr__(self) -> str:
        state = self.statistics()
        hosts = ", ".join(map(str, self.hosts))
        return (
            f"<{type(self).__name__} [{hosts}, prefix {self.prefix!r}, "
            f"{state['channels']} channels, {state['groups']} groups, "
            f"{state['waiting']} messages waiting, {state['dropped']} dropped]>"
        )

    def require_valid_message(self, message: object) -> None:
        """Check that the layer can carry a message.

        The formats ``"msgpack"`` and ``"json"`` accept what every layer carries; JSON
        then rejects bytes. With a serializer of your own, a message must be a dict with
        str keys, nested at most 100 levels deep; the serializer decides on the rest.

        Raises:
            TypeError: The message is invalid; the error locates the invalid value.
        """
        if self._is_own_format:
            super().require_valid_message(message)
        else:
            require_shallow(message)

    def serialize(self, message: ChannelMessage) -> bytes:
        """Return the bytes to send for a message.

        Raises:
            TypeError: The format cannot encode the message.
        """
        return self.serializer.serialize(message)

    def deserialize(self, data: bytes, *, any_age: bool = False) -> dict[str, Any]:
        """Return the message decoded from these bytes.

        Args:
            data: The bytes.
            any_age: Whether to accept an encrypted message older than ``expiry``.

        Raises:
            UndecodableMessage: The bytes are not a message, or it is nested too deep.
        """
        message = self._decode_any_age(data) if any_age else self._decode(data)
        if is_deep(message):
            raise UndecodableMessage(
                f"the message is nested more than {MAX_DEPTH} levels deep"
            )
        return message

    async def close_pools(self) -> None:
        """Close the layer; the name of ``close()`` in channels_redis."""
        await self.close()

    def _name_client(self) -> str:
        """Return a unique name for the endpoint of one more event loop."""
        pid = os.getpid()
        with self._naming:
            if self._process[1] != pid:
                self._process = secrets.token_hex(6), pid
            self._event_loops += 1
            return f"{self._process[0]}.{self._event_loops:x}"

    def _is_own(self, channel: str) -> bool:
        """Return whether new_channel() returned a channel in this process."""
        parts = self.non_local_name(channel).rsplit(".", 2)
        return "!" in channel and parts[-2:-1] == [self._process[0]]

    def _get_room(self, channel: str) -> int:
        """Return how many messages for a channel this process can hold."""
        return self.get_capacity(channel)


def _require_prefix(prefix: object) -> str:
    if not isinstance(prefix, str) or not prefix:
        raise TypeError(f"prefix must be a str that is not empty, not {prefix!r}")
    return prefix
