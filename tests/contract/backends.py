"""The layers that the contract is about, and how they differ."""

import asyncio
import contextlib
import functools
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypedDict, Unpack

from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
)
from fast_channels.layers.redis.utils import shard_of
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage
from tests.redis_servers.sentinel import Sentinels  # noqa: TC001 # a local annotation
from tests.redis_servers.server import RedisServer

# After so many seconds a test fails that would wait for ever.
LIMIT = 10
# How often what may expire before it arrives is sent again, in seconds.
_INTERVAL = 0.2
_LAST = {"type": "test.last"}


class Options(TypedDict, total=False):
    """The options that all layers have."""

    expiry: float
    capacity: int
    channel_capacity: ChannelCapacityDict


class Fixture(Protocol):
    """Gives a fixture by its name."""

    def __call__(self, argname: str, /) -> Any: ...


class MakeLayer(Protocol):
    """Makes a layer as one more process would: all of them reach one another."""

    def __call__(self, **options: Unpack[Options]) -> BaseChannelLayer: ...


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A kind of layer: how one gets it, and what it does in its own way."""

    name: str
    """What the tests call it."""
    processes: Callable[[Fixture], AbstractAsyncContextManager[MakeLayer]]
    """Gives a ``make_layer`` whose layers share nothing with those of any other."""
    held_by: Callable[[BaseChannelLayer], dict[str, int]]
    """Counts what a layer holds; all of it is 0 when the layer is closed."""

    prefixes_channels: bool
    """The names of new channels start with the prefix of the layer."""
    send_refuses_when_full: bool
    """``send()`` to a full channel raises ``ChannelFull``; if not, a message is dropped
    silently, as ``group_send()`` always does."""
    any_name_is_valid: bool
    """Every str that is not empty names a channel or a group; if not, names are of
    ASCII letters, digits, ``.``, ``_`` and ``-``, and shorter than 100."""
    keeps_messages_for_later_receivers: bool
    """A message waits for the first receiver of its channel; if not, it is lost unless
    the channel comes from ``new_channel()`` or somebody receives from it already."""
    carries_bytes: bool
    """Messages may hold bytes; if not, ``send()`` refuses them."""

    def lanes(self, layer: BaseChannelLayer) -> Sequence[str]:
        """Return groups that lead over each of several hosts of a pub/sub layer."""
        if not isinstance(layer, RedisPubSubChannelLayer) or len(layer.hosts) == 1:
            return ()
        shards = range(len(layer.hosts))
        by_shard = {
            shard_of(f"{layer.prefix}__group__lane-{number}", len(shards)): number
            for number in range(100)
        }
        return [f"lane-{by_shard[shard]}" for shard in shards]

    def dropped_by(self, layer: BaseChannelLayer) -> int:
        """Return how many messages a layer had no room for."""
        assert isinstance(layer, RedisChannelLayer | RedisPubSubChannelLayer)
        return layer.statistics()["dropped"]

    def start_of_names(self, layer: BaseChannelLayer) -> str:
        """Return what the names of all new channels start with."""
        if not self.prefixes_channels:
            return ""
        assert isinstance(layer, RedisPubSubChannelLayer)
        return layer.prefix


@dataclass(frozen=True)
class Pair:
    """Two layers as two processes have them; in memory both are the same object."""

    layer: BaseChannelLayer
    """Makes channels, receives from them and puts them into groups."""
    other: BaseChannelLayer
    """Sends to them."""
    lanes: Sequence[str] = ()
    """Groups that lead over each of the hosts, if messages over one may overtake those
    over another."""

    async def rest(self, channel: str) -> list[dict[str, Any]]:
        """Return what still waits in a channel that has room for one message more."""
        messages: list[dict[str, Any]] = []
        async with asyncio.timeout(LIMIT):
            for lane in self.lanes:
                await self.layer.group_add(lane, channel)
                await self.other.group_send(lane, _LAST)
                messages += await self._until_last(channel)
                await self.layer.group_discard(lane, channel)
            await self.other.send(channel, _LAST)
            return messages + await self._until_last(channel)

    async def _until_last(self, channel: str) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        while (message := await self.layer.receive(channel)) != _LAST:
            messages.append(message)
        return messages

    async def next_after(
        self,
        send: Callable[[str, ChannelMessage], Any],
        to: str,
        message: ChannelMessage,
        channel: str,
    ) -> dict[str, Any]:
        """Send until something is received from a channel, and return that.

        For a message that could expire, or be lost, before the receiver is there.
        """
        receiving = asyncio.create_task(self.layer.receive(channel))
        async with asyncio.timeout(LIMIT):
            while not receiving.done():
                await send(to, message)
                await asyncio.wait([receiving], timeout=_INTERVAL)
            return await receiving


@contextlib.asynccontextmanager
async def _in_memory(_: Fixture) -> AsyncGenerator[MakeLayer]:
    layers: list[InMemoryChannelLayer] = []

    def make_layer(**options: Unpack[Options]) -> BaseChannelLayer:
        if not layers:
            layers.append(InMemoryChannelLayer(**options))
        return layers[0]

    yield make_layer


def _held_in_memory(layer: BaseChannelLayer) -> dict[str, int]:
    assert isinstance(layer, InMemoryChannelLayer)
    held = layer.statistics()
    return {name: held[name] for name in ("channels", "groups", "waiting")}


class RedisOptions(TypedDict, total=False):
    """Where Redis is, and how messages are written there."""

    hosts: list[str]
    sentinels: list[tuple[str, int]]
    service_name: str
    serializer_format: str
    symmetric_encryption_keys: list[str]


def _in_redis(
    find: Callable[[Fixture], tuple[list[RedisServer], RedisOptions]],
    layer_class: type[RedisChannelLayer | RedisPubSubChannelLayer] = RedisChannelLayer,
) -> Callable[[Fixture], AbstractAsyncContextManager[MakeLayer]]:
    """Return how to get layers that share servers."""

    @contextlib.asynccontextmanager
    async def processes(fixture: Fixture) -> AsyncGenerator[MakeLayer]:
        servers, where = find(fixture)
        prefix = f"contract-{secrets.token_hex(8)}"

        def make_layer(**options: Unpack[Options]) -> BaseChannelLayer:
            return layer_class(prefix=prefix, **where, **options)

        yield make_layer
        for server in servers:
            server.delete_keys(prefix)

    return processes


def _one_host(
    fixture: Fixture, **options: Unpack[RedisOptions]
) -> tuple[list[RedisServer], RedisOptions]:
    server: RedisServer = fixture("redis_server")
    return [server], {"hosts": [server.url], **options}


def _two_hosts(fixture: Fixture) -> tuple[list[RedisServer], RedisOptions]:
    servers: list[RedisServer] = [
        fixture("redis_server"),
        fixture("second_redis_server"),
    ]
    return servers, {"hosts": [server.url for server in servers]}


def _sentinel(fixture: Fixture) -> tuple[list[RedisServer], RedisOptions]:
    service: Sentinels = fixture("sentinels")
    where = RedisOptions(sentinels=service.addresses, service_name=service.service_name)
    return [service.master], where


def _without_tracking(fixture: Fixture) -> tuple[list[RedisServer], RedisOptions]:
    return [fixture("redis_server")], {"hosts": [fixture("url_without_tracking")]}


def _held_in_redis(layer: BaseChannelLayer) -> dict[str, int]:
    assert isinstance(layer, RedisChannelLayer | RedisPubSubChannelLayer)
    held = layer.statistics()
    return {name: held[name] for name in ("channels", "groups", "waiting")}


_QUEUE = Backend(
    name="queue",
    processes=_in_redis(_one_host),
    held_by=_held_in_redis,
    prefixes_channels=False,
    send_refuses_when_full=True,
    any_name_is_valid=False,
    keeps_messages_for_later_receivers=True,
    carries_bytes=True,
)
_PUBSUB = Backend(
    name="pub/sub",
    processes=_in_redis(_one_host, RedisPubSubChannelLayer),
    held_by=_held_in_redis,
    prefixes_channels=True,
    send_refuses_when_full=False,
    any_name_is_valid=True,
    keeps_messages_for_later_receivers=False,
    carries_bytes=True,
)

BACKENDS = [
    Backend(
        name="memory",
        processes=_in_memory,
        held_by=_held_in_memory,
        prefixes_channels=False,
        send_refuses_when_full=True,
        any_name_is_valid=False,
        keeps_messages_for_later_receivers=True,
        carries_bytes=True,
    ),
    _QUEUE,
    replace(_QUEUE, name="queue on two hosts", processes=_in_redis(_two_hosts)),
    replace(_QUEUE, name="queue behind Sentinel", processes=_in_redis(_sentinel)),
    replace(
        _QUEUE, name="queue without tracking", processes=_in_redis(_without_tracking)
    ),
    replace(
        _QUEUE,
        name="encrypted queue",
        processes=_in_redis(
            functools.partial(_one_host, symmetric_encryption_keys=["secret"])
        ),
    ),
    replace(
        _QUEUE,
        name="queue of JSON",
        processes=_in_redis(functools.partial(_one_host, serializer_format="json")),
        carries_bytes=False,
    ),
    _PUBSUB,
    replace(
        _PUBSUB,
        name="pub/sub on two hosts",
        processes=_in_redis(_two_hosts, RedisPubSubChannelLayer),
    ),
    replace(
        _PUBSUB,
        name="pub/sub behind Sentinel",
        processes=_in_redis(_sentinel, RedisPubSubChannelLayer),
    ),
]
