"""What both Redis layers share: their options, and how they report on themselves."""

import math
import os
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from fast_channels.exceptions import UndecodableMessage
from fast_channels.forks import released
from fast_channels.layers.base import BaseChannelLayer, require_positive
from fast_channels.layers.contents import MAX_DEPTH, is_deep, require_shallow
from fast_channels.layers.counters import Counters, complain
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage

from .hosts import Host, HostSpelling, parse_hosts
from .serializers import JSONSerializer, MessageSerializer, MsgPackSerializer, registry

__all__ = ["SHORT", "TIMEOUT", "Counters", "RedisBaseLayer", "complain"]

_OWN_FORMATS = (MsgPackSerializer, JSONSerializer)

SHORT = 1.0
"""For how many seconds a script that only sends may run without more connections."""
TIMEOUT = 5.0
"""For how many seconds a reply is waited for, unless the user says otherwise."""


class RedisBaseLayer(BaseChannelLayer):
    """A layer whose messages go through Redis.

    Args:
        hosts: Where Redis is; several hosts share the channels and groups.
        prefix: What the names of keys start with.
        expiry: After how many seconds a message that nobody received is dropped.
        group_expiry: After how many seconds a channel is dropped from its groups that
            no running process keeps there.
        capacity: How many messages may wait.
        channel_capacity: A capacity of their own for some channels, by glob
            (``"http.request*"``) or compiled pattern; the first match counts.
        symmetric_encryption_keys: Secrets to encrypt messages with. The first one
            encrypts, each may decrypt.
        random_prefix_length: How many bytes are put before each message to make it
            unique.
        serializer_format: How messages are written: ``"msgpack"``, ``"json"``, or what
            was added to ``fast_channels.layers.redis.serializers.registry``.
        age_limit: The age in seconds after which what is encrypted is refused.
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
        _require_finite("expiry", self.expiry)
        self.group_expiry: float = require_positive("group_expiry", group_expiry)
        """After how many seconds a channel is dropped from its groups that no running
        process keeps there."""
        _require_finite("group_expiry", self.group_expiry)
        self.prefix: str = _require_prefix(prefix)
        """What the names of keys start with."""
        self.hosts: tuple[Host, ...] = parse_hosts(
            hosts,
            sentinels=sentinels,
            service_name=service_name,
            sentinel_kwargs=sentinel_kwargs,
            connection_kwargs=connection_kwargs,
        )
        """Where Redis is."""
        self.serializer: MessageSerializer = registry.get_serializer(
            serializer_format,
            symmetric_encryption_keys=symmetric_encryption_keys,
            random_prefix_length=random_prefix_length,
            expiry=age_limit,
        )
        """Turns messages into bytes, and back."""
        # Work that is delivered again may be older than a message can wait.
        self._for_any_age = self.serializer
        if symmetric_encryption_keys and age_limit is not None:
            self._for_any_age = registry.get_serializer(
                serializer_format,
                symmetric_encryption_keys=symmetric_encryption_keys,
                random_prefix_length=random_prefix_length,
            )
        # Whether this package produces the bytes, and knows what is in them.
        self._is_own_format = type(self.serializer) in _OWN_FORMATS
        # What tells this process from others, and which that is: a fork is another.
        self._process = ("", 0)
        self._event_loops = 0
        # Guards both: event loops may begin in several threads at once.
        self._naming = released(threading.Lock())
        self.counters: Counters = Counters(f"prefix {prefix!r}")
        """What has happened since the layer was made."""
        self.mailboxes: Mailboxes = Mailboxes(self._get_room, self.expiry)
        """Where messages wait that have arrived in this process."""

    def __repr__(self) -> str:
        state = self.statistics()
        hosts = ", ".join(map(str, self.hosts))
        return (
            f"<{type(self).__name__} [{hosts}, prefix {self.prefix!r}, "
            f"{state['channels']} channels, {state['groups']} groups, "
            f"{state['waiting']} messages waiting, {state['dropped']} dropped]>"
        )

    def require_valid_message(self, message: object) -> None:
        """Return if a message is one that the layer carries.

        With the formats ``"msgpack"`` and ``"json"`` that is what every layer carries;
        JSON then refuses bytes. With a serializer of your own it is a dict with str
        keys, nested at most 100 levels deep, and the serializer decides on the rest.

        Raises:
            TypeError: It is not; the error says where it holds what.
        """
        if self._is_own_format:
            super().require_valid_message(message)
        else:
            require_shallow(message)

    def serialize(self, message: ChannelMessage) -> bytes:
        """Return the bytes that are sent for a message.

        Raises:
            TypeError: The format cannot carry the message.
        """
        return self.serializer.serialize(message)

    def deserialize(self, data: bytes, *, any_age: bool = False) -> dict[str, Any]:
        """Return the message that was sent as these bytes.

        Args:
            data: The bytes.
            any_age: Whether an encrypted message can be older than ``expiry``.

        Raises:
            UndecodableMessage: They are no message, or one that is nested too deep.
        """
        serializer = self._for_any_age if any_age else self.serializer
        try:
            message: object = serializer.deserialize(data)
        except UndecodableMessage:
            raise
        # The code of a serializer may raise anything for bytes that it did not write.
        except Exception as exc:
            raise UndecodableMessage(
                f"{type(self.serializer).__name__} cannot decode these {len(data)} "
                f"bytes: {type(exc).__name__}: {exc}"
            ) from exc
        if not isinstance(message, dict):
            raise UndecodableMessage(
                f"a message must be a dict; these {len(data)} bytes are a "
                f"{type(message).__name__}"
            )
        own = cast("dict[str, Any]", message)
        if is_deep(own):
            raise UndecodableMessage(
                f"the message is nested more than {MAX_DEPTH} levels deep"
            )
        return own

    async def close_pools(self) -> None:
        """Do as ``close()`` does, by its name in channels_redis."""
        await self.close()

    def _name_client(self) -> str:
        """Return a name for what one more event loop has of this layer."""
        pid = os.getpid()
        with self._naming:
            if self._process[1] != pid:
                self._process = secrets.token_hex(6), pid
            self._event_loops += 1
            return f"{self._process[0]}.{self._event_loops:x}"

    def _is_own(self, channel: str) -> bool:
        """Return whether a channel was made by new_channel() in this process."""
        parts = self.non_local_name(channel).rsplit(".", 2)
        return "!" in channel and parts[-2:-1] == [self._process[0]]

    def _get_room(self, channel: str) -> int:
        """Return how many messages may wait for a channel in this process."""
        return self.get_capacity(channel)


def _require_prefix(prefix: object) -> str:
    if not isinstance(prefix, str) or not prefix:
        raise TypeError(f"prefix must be a str that is not empty, not {prefix!r}")
    return prefix


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
