"""What the two Redis layers share: options, serialization, statistics and endpoints."""

import abc
import asyncio
import contextlib
import functools
import os
import secrets
import threading
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, ClassVar, Generic, TypeVar

from fast_channels.exceptions import RedisUnavailable, UndecodableMessage
from fast_channels.forks import released
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.contents import MAX_DEPTH, is_deep, require_shallow
from fast_channels.layers.counters import Counters
from fast_channels.layers.groups import Groups
from fast_channels.layers.history import GroupHistory, History, Resumed
from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.layers.options import require_finite, require_positive_int
from fast_channels.layers.per_loop import LoopStopped, PerLoop, in_loop
from fast_channels.layers.serializers import (
    JSONSerializer,
    MessageSerializer,
    MsgPackSerializer,
    decoder,
    registry,
)
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage

from .group_log import LogTiming
from .hosts import Host
from .logs import GroupLogs, Places
from .shards import Shard, Shards, open_shards

__all__ = ["Endpoint", "RedisBaseLayer"]

_OWN_FORMATS = (MsgPackSerializer, JSONSerializer)


class Endpoint(abc.ABC):
    """The part of a layer that belongs to one event loop.

    Args:
        layer: The layer.
        name: Its unique name, which precedes the ``!`` in the names of its channels.
    """

    groups: Groups
    """The groups that its channels are in."""
    plain: Mailboxes
    """The mailboxes of channels that ``new_channel()`` has not made here."""
    logs: GroupLogs | None = None
    """What it has heard of groups with a history; None if no group has one."""
    log_timing: ClassVar[LogTiming] = LogTiming()
    """When to read histories from Redis."""

    def __init__(self, layer: "RedisBaseLayer[Endpoint]", name: str) -> None:
        self._layer = layer
        self.name: str = name
        """The unique name of the endpoint."""
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        """The event loop."""
        self.shards: Shards = open_shards(
            layer.hosts, layer.prefix, self._switched, self._lost_data
        )
        """The servers."""
        # The part that the names of all channels made here have in common.
        self._end_of_own = f".{name}!"

    def owns(self, channel: str) -> bool:
        """Return whether a channel was made here."""
        # Anywhere in the name, since prefixes of the pub/sub layer can contain a "!".
        return self._end_of_own in channel

    def attach(self, channel: str, listener: Callable[[], None]) -> Mailbox:
        """Return the mailbox of a channel, for a reader that does not wait."""
        return self._layer.mailboxes.attach(channel, listener)

    def keep_logs(self, groups: Groups) -> None:
        """Deliver the messages of groups that have a history in order, from now on."""
        layer = self._layer
        self.logs = GroupLogs(
            self.shards,
            expiry=layer.expiry,
            group_of=layer.history_in_redis,
            places=self._places,
            decode=self._decode_stored,
            count=layer.counters.count,
            complain=layer.counters.complain,
            timing=self.log_timing,
        )
        groups.watch(self.logs.drop)

    async def follow(self, group: str, channel: str) -> None:
        """Add a channel to a group with a history, and find out where the group is."""
        await self.join(group, channel)
        assert self.logs is not None
        await self.logs.opened(group)

    async def resume(
        self, group: str, channel: str, since: str | None, last: int | None
    ) -> Resumed:
        """Add a channel to a group, and deliver what it missed.

        Raises:
            RedisUnavailable: Redis cannot be asked; the channel is not added.
        """
        assert self.logs is not None
        is_member = channel in self.groups.by_group.get(group, ())
        try:
            return await self.logs.resume(
                group,
                channel,
                since,
                last,
                join=functools.partial(self.join, group, channel),
                is_member=is_member,
            )
        except RedisUnavailable:
            if not is_member:
                await self.leave(group, channel)
            raise

    @abc.abstractmethod
    def _places(self, group: str) -> Places:
        """Return the members of a group, with their mailboxes."""

    @abc.abstractmethod
    def _decode_stored(self, value: bytes) -> dict[str, Any]:
        """Return the message in a value from the history of a group."""

    @abc.abstractmethod
    def join(self, group: str, channel: str) -> Coroutine[Any, Any, None]:
        """Add a channel to a group."""

    @abc.abstractmethod
    def leave(self, group: str, channel: str) -> Coroutine[Any, Any, None]:
        """Remove a channel from a group."""

    @abc.abstractmethod
    async def delete(self, channel: str) -> None:
        """Drop a channel's messages and memberships, even messages in transit."""

    @abc.abstractmethod
    async def forget(self) -> None:
        """Leave all groups, and drop the messages of plain channels in this process."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Close the connections, and forget all channels and groups."""

    @abc.abstractmethod
    def _switched(self, shard: Shard) -> None:
        """Drop the connections to a shard that has another master now."""

    @abc.abstractmethod
    def _lost_data(self, shard: Shard) -> None:
        """Handle that a shard may have lost its latest data."""


E_co = TypeVar("E_co", bound=Endpoint, covariant=True)


class RedisBaseLayer(BaseChannelLayer, Generic[E_co]):
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
        make_endpoint: Callable[[], E_co],
        *,
        prefix: str,
        expiry: float,
        capacity: int,
        channel_capacity: ChannelCapacityDict | None,
        symmetric_encryption_keys: Iterable[str | bytes] | None,
        random_prefix_length: int,
        serializer_format: str,
        age_limit: float | None,
        history: Mapping[Any, History] | None,
    ) -> None:
        super().__init__(expiry, capacity, channel_capacity, history=history)
        require_finite("expiry", self.expiry)
        self.prefix: str = _require_prefix(prefix, hosts)
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
        self._endpoints: PerLoop[E_co] = PerLoop(make_endpoint, _close)
        # A random name of this process, and its PID: a forked process gets a new name.
        self._process = ("", 0)
        self._event_loops = 0
        # Protects both: several threads can start event loops at the same time.
        self._naming = released(threading.Lock())
        self.counters: Counters = Counters(f"prefix {prefix!r}")
        """Counts of events since the layer was created."""
        self.mailboxes: Mailboxes = Mailboxes(self.get_capacity, self.expiry)
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
        broken connections or, in a cluster, to another node.
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

    # Channels and groups

    async def delete_channel(self, channel: str) -> None:
        """Drop a channel's messages and memberships; a second call does nothing.

        Messages in transit to a channel of ``new_channel()`` are lost. Any other
        channel can be received from, or join a group, again. While Redis is away, the
        change is written later.
        """
        endpoint = self._owner(channel) or self._endpoints.get()
        await in_loop(endpoint.loop, endpoint.delete, channel)

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; no effect if it is in the group.

        A channel that ``new_channel()`` made in this process stays in the group until
        it leaves or is deleted, or until its event loop or the layer is closed. While
        Redis is away or refuses the change, the call returns anyway, and messages
        arrive later. Cancelling does not undo it.

        Any other channel: in the queue layer, its process keeps it in the group from
        then on if it uses this library; otherwise it stays for ``group_expiry``. In the
        pub/sub layer, it must be received from in this event loop.

        Raises:
            RedisUnavailable: In the queue layer, for any other channel, if Redis cannot
                be reached, refuses the change, or did not reply.
            TypeError: A name is not valid.
        """
        endpoint = self._endpoint_for(group, channel)
        join = endpoint.join
        if self.history_of(group) is not None:
            join = endpoint.follow
        await in_loop(endpoint.loop, join, self._in_redis(group), channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; no effect if it is not in the group.

        While Redis is away, and when the call is cancelled, the same holds as for
        ``group_add()``, which raises the same errors.
        """
        endpoint = self._endpoint_for(group, channel)
        await in_loop(endpoint.loop, endpoint.leave, self._in_redis(group), channel)

    async def group_resume(
        self,
        group: str,
        channel: str,
        *,
        since: str | None = None,
        last: int | None = None,
    ) -> Resumed:
        """Add a channel to a group, and deliver the messages that it missed.

        See :meth:`BaseChannelLayer.group_resume()
        <fast_channels.layers.BaseChannelLayer.group_resume>`. While Redis is away, it
        works if this process has heard what is needed itself. Cancelling does not undo
        it.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply; then the
                channel is not added. Not without ``since`` and ``last``.
            TypeError: A name is not valid, or ``last`` is not an int.
            ValueError: ``since`` or ``last`` is given, but the group has no history;
                ``last`` is not positive; or the channel is not one that
                ``new_channel()`` has made in this process.
        """
        if self.history_of(group) is None:
            return await super().group_resume(group, channel, since=since, last=last)
        if last is not None:
            require_positive_int("last", last)
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        endpoint = self._owner(channel)
        if endpoint is None:
            raise ValueError(
                f"channel {channel!r} cannot resume: it is not one that new_channel() "
                "of this layer has made in this process"
            )
        name = self._in_redis(group)
        return await in_loop(endpoint.loop, endpoint.resume, name, channel, since, last)

    async def group_history(
        self, group: str, since: str | None = None, limit: int = 100
    ) -> GroupHistory:
        """Return messages of a group that has a history, in the order of sending.

        Args:
            group: The group.
            since: A position: return the first messages after it. By default, return
                the latest messages.
            limit: Maximum number of messages.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply.
            TypeError: An argument has the wrong type.
            ValueError: The group has no history, or ``limit`` is not positive.
        """
        history = self._require_history(group)
        require_positive_int("limit", limit)
        logs = self._endpoints.get().logs
        assert logs is not None
        return await logs.read(self._in_redis(group), group, history, since, limit)

    # The whole layer

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
            await super().close()
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

    def _owner(self, channel: str) -> E_co | None:
        """Return the endpoint in which a channel was made, if its event loop runs."""
        here = self._endpoints.here()
        if here is not None and here.owns(channel):
            return here
        for endpoint in self._endpoints.peek():
            if endpoint.owns(channel) and endpoint.loop.is_running():
                return endpoint
        return None

    def _endpoint_for(self, group: str, channel: str) -> Endpoint:
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        return self._owner(channel) or self._endpoints.get()

    @property
    def has_histories(self) -> bool:
        """Whether some groups have a history."""
        return bool(self._histories)

    def history_in_redis(self, name: str) -> tuple[str, History] | None:
        """Return the group with a name in Redis, and its history; None without."""
        group = self._from_redis(name)
        history = self.history_of(group)
        return None if history is None else (group, history)

    def _in_redis(self, group: str) -> str:
        """Return the name of a group in endpoints."""
        return group

    def _from_redis(self, name: str) -> str:
        """Return the group with a name in endpoints."""
        return name


def _require_prefix(prefix: object, hosts: Sequence[Host]) -> str:
    if not isinstance(prefix, str) or not prefix:
        raise TypeError(f"prefix must be a str that is not empty, not {prefix!r}")
    if hosts[0].kind == "cluster" and prefix.partition("{")[2].startswith("}"):
        raise ValueError(
            f"prefix {prefix!r} begins with an empty hash tag, with which a Redis "
            "Cluster spreads keys that belong together; leave out {}"
        )
    return prefix


def _close(endpoint: Endpoint) -> Awaitable[None]:
    return endpoint.close()
