"""What the two Redis layers share: options, serialization, statistics and endpoints."""

import asyncio
import contextlib
import functools
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from fast_channels.exceptions import UndecodableMessage
from fast_channels.forks import released
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.contents import MAX_DEPTH, is_deep, require_shallow
from fast_channels.layers.counters import Counters
from fast_channels.layers.groups import Groups
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.layers.options import require_finite
from fast_channels.layers.per_loop import LoopStopped, PerLoop, in_loop
from fast_channels.layers.serializers import (
    JSONSerializer,
    MessageSerializer,
    MsgPackSerializer,
    decoder,
    registry,
)
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage

from .hosts import Host

__all__ = ["Endpoint", "RedisBaseLayer"]

_OWN_FORMATS = (MsgPackSerializer, JSONSerializer)


class Endpoint(Protocol):
    """The part of a layer that belongs to one event loop."""

    name: str
    """Its unique name, which precedes the ``!`` in the names of its channels."""
    loop: asyncio.AbstractEventLoop
    """The event loop."""
    groups: Groups
    """The groups of its channels."""
    plain: Mailboxes
    """The mailboxes of channels that were not made here."""

    def owns(self, channel: str) -> bool:
        """Return whether a channel was made here."""
        ...

    async def delete(self, channel: str) -> None:
        """Drop a channel's messages and memberships."""

    async def forget(self) -> None:
        """Drop the messages of plain channels in this process, and all memberships."""

    async def close(self) -> None:
        """Close the connections, and forget all channels and groups."""


E = TypeVar("E", bound=Endpoint)


class RedisBaseLayer(BaseChannelLayer, Generic[E]):
    """A layer whose messages go through Redis.

    Args:
        hosts: The hosts, parsed.
        make_endpoint: Returns the endpoint of the running event loop.
        age_limit: Age in seconds after which encrypted messages are rejected.

    The other arguments are those of the two layers.
    """

    extensions: list[str] = ["groups", "flush"]  # noqa: RUF012 # a list in Channels too

    def __init__(
        self,
        hosts: tuple[Host, ...],
        make_endpoint: Callable[[], E],
        *,
        prefix: str,
        expiry: float,
        capacity: int,
        channel_capacity: ChannelCapacityDict | None,
        symmetric_encryption_keys: Iterable[str | bytes] | None,
        random_prefix_length: int,
        serializer_format: str,
        age_limit: float | None,
    ) -> None:
        super().__init__(expiry, capacity, channel_capacity)
        require_finite("expiry", self.expiry)
        self.prefix: str = _require_prefix(prefix)
        """Prefix of all keys in Redis."""
        self.hosts: tuple[Host, ...] = hosts
        """Addresses of Redis."""
        make_serializer = functools.partial(
            registry.get_serializer,
            serializer_format,
            symmetric_encryption_keys=symmetric_encryption_keys,
            random_prefix_length=random_prefix_length,
        )
        self.serializer: MessageSerializer = make_serializer(expiry=age_limit)
        """Converter between messages and bytes."""
        self._decode = self._decode_any_age = decoder(self.serializer)
        if symmetric_encryption_keys and age_limit is not None:
            # A message that is delivered again can be older than ``expiry``.
            self._decode_any_age = decoder(make_serializer())
        # Whether the format is one of ours, so that its limits are known in advance.
        self._is_own_format = type(self.serializer) in _OWN_FORMATS
        self._endpoints: PerLoop[E] = PerLoop(make_endpoint, _close)
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

    def statistics(self) -> dict[str, int]:
        """Return the current state of the layer, and its counters.

        Currently in this process: ``channels`` with a receiver or a message, ``groups``
        with members, and messages ``waiting``. Since the layer was created: copies
        ``delivered`` to channels, copies ``dropped`` for lack of room, messages that
        were ``undecodable`` or for no channel of this process, and ``reconnects`` of
        broken connections.
        """
        endpoints = self._endpoints.peek()
        mailboxes = [self.mailboxes, *(each.plain for each in endpoints)]
        return self.counters.statistics(
            channels=sum(len(each.by_channel) for each in mailboxes),
            groups=sum(len(each.groups.by_group) for each in endpoints),
            waiting=sum(each.waiting() for each in mailboxes),
        )

    # Messages

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

    # Channels, and the whole layer

    async def delete_channel(self, channel: str) -> None:
        """Drop a channel's messages and memberships; a second call does nothing.

        Messages in transit to a channel of ``new_channel()`` are lost. Any other
        channel can be received from, or join a group, again. While Redis is away, the
        change is written later.
        """
        endpoint = self._owner(channel) or self._endpoints.get()
        await in_loop(endpoint.loop, endpoint.delete, channel)

    async def flush(self) -> None:
        """Drop all messages and groups of this process, but not of other processes.

        Tasks that receive keep waiting.
        """
        for endpoint in self._endpoints.peek():
            # A stopped event loop forgets its state if it runs again.
            with contextlib.suppress(LoopStopped):
                await in_loop(endpoint.loop, endpoint.forget)
        self.mailboxes.clear()

    async def close(self) -> None:
        """Remove this process's channels from their groups, and disconnect.

        Messages that wait in this process are dropped. While Redis is away, it takes at
        most two seconds. Cancelling ends only the wait: the layer closes anyway.
        """
        try:
            await self._endpoints.close()
        finally:
            self.mailboxes.clear()
            self.mailboxes.forget_buried()

    async def close_pools(self) -> None:
        """Close the layer; the name of ``close()`` in channels_redis."""
        await self.close()

    def _name_endpoint(self) -> str:
        """Return a unique name for the endpoint of one more event loop."""
        pid = os.getpid()
        with self._naming:
            if self._process[1] != pid:
                self._process = secrets.token_hex(6), pid
            self._event_loops += 1
            return f"{self._process[0]}.{self._event_loops:x}"

    def _owner(self, channel: str) -> E | None:
        """Return the endpoint in which a channel was made, if its event loop runs."""
        here = self._endpoints.here()
        if here is not None and here.owns(channel):
            return here
        for endpoint in self._endpoints.peek():
            if endpoint.owns(channel) and endpoint.loop.is_running():
                return endpoint
        return None

    def _get_room(self, channel: str) -> int:
        """Return how many messages for a channel this process can hold."""
        return self.get_capacity(channel)


def _require_prefix(prefix: object) -> str:
    if not isinstance(prefix, str) or not prefix:
        raise TypeError(f"prefix must be a str that is not empty, not {prefix!r}")
    return prefix


def _close(endpoint: Endpoint) -> Awaitable[None]:
    return endpoint.close()
