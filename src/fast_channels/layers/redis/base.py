"""What both Redis layers share: their options, and how they report on themselves."""

import logging
import math
import os
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fast_channels.forks import released
from fast_channels.layers.base import BaseChannelLayer, require_positive
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.type_defs import ChannelCapacityDict

from .hosts import Host, HostSpelling, parse_hosts
from .serializers import BaseMessageSerializer, registry

__all__ = ["SHORT", "TIMEOUT", "Counters", "RedisBaseLayer", "complain"]

_logger = logging.getLogger(__name__)

SHORT = 1.0
"""For how many seconds a script that only sends may run without more connections."""
TIMEOUT = 5.0
"""For how many seconds a reply is waited for, unless the user says otherwise."""


@dataclass(slots=True)
class Counters:
    """What has happened since the layer was made."""

    delivered: int = 0
    """Messages that reached a mailbox of this process."""
    dropped: int = 0
    """Copies for which there was no room: here, or in Redis at ``group_send()``."""
    undecodable: int = 0
    """Messages that could not be decoded, or that were not for this process."""
    reconnects: int = 0
    """Connections that were opened anew after they had broken."""

    def count(self, put: tuple[int, int]) -> None:
        """Add what ``Mailboxes.put_each()`` returned."""
        delivered, dropped = put
        self.delivered += delivered
        self.dropped += dropped


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
        self.serializer: BaseMessageSerializer = registry.get_serializer(
            serializer_format,
            symmetric_encryption_keys=symmetric_encryption_keys,
            random_prefix_length=random_prefix_length,
            expiry=age_limit,
        )
        """Turns messages into bytes, and back."""
        # What tells this process from others, and which that is: a fork is another.
        self._process = ("", 0)
        self._event_loops = 0
        # Guards both: event loops may begin in several threads at once.
        self._naming = released(threading.Lock())
        self.counters: Counters = Counters()
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

    def statistics(self) -> dict[str, int]:
        """Return how much the layer holds at this moment, and what it has counted.

        In this process: ``channels`` that are read, ``groups`` they are in, messages
        ``waiting`` for them. Since the layer was made: messages ``delivered`` to them;
        copies ``dropped``, since there was no room; messages ``undecodable``, or for
        nobody here; and ``reconnects`` of connections that broke.
        """
        raise NotImplementedError

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


def complain(layer: RedisBaseLayer, name: str, problem: str) -> None:
    """Count a message that nobody can get, and log it now and then."""
    layer.counters.undecodable += 1
    count = layer.counters.undecodable
    # The 1st, 2nd, 4th, 8th...: whoever floods us does not flood the log.
    if count.bit_count() == 1:
        _logger.error(
            "a message that came through %r of prefix %r was dropped, %d so far: %s",
            name,
            layer.prefix,
            count,
            problem,
        )


def _require_prefix(prefix: object) -> str:
    if not isinstance(prefix, str) or not prefix:
        raise TypeError(f"prefix must be a str that is not empty, not {prefix!r}")
    return prefix


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
