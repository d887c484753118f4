"""Functions for hosts and shards.

The layers use ``parse_hosts()`` and ``shard_of()``. The other functions are kept from
release 1, for code that calls them; the connections that they create are separate from
those of a layer.
"""

import asyncio
from collections.abc import Mapping, Sequence

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

from fast_channels.layers.base import BaseChannelLayer

from .hosts import parse_hosts
from .sharding import shard_of
from .type_defs import ChannelDecodedRedisHost, ChannelRawRedisHost

__all__ = [
    "close_redis",
    "consistent_hash",
    "create_pool",
    "decode_hosts",
    "parse_hosts",
    "shard_of",
    "wrap_close",
]


def consistent_hash(value: str | bytes, ring_size: int) -> int:
    """Return the index of the host for a value; the same as ``shard_of()``."""
    return shard_of(value, ring_size)


def decode_hosts(
    hosts: Sequence[ChannelRawRedisHost] | None,
) -> list[ChannelDecodedRedisHost]:
    """Return each host as a dict for ``create_pool()``; this machine for None.

    Raises:
        ValueError: ``hosts`` is a single str, or a sequence in it is not a pair.
    """
    if hosts is None:
        return [{"address": "redis://localhost:6379"}]
    if isinstance(hosts, str | bytes):
        raise ValueError(  # noqa: TRY004 # as in channels_redis
            "hosts must be a list, even if there is only one"
        )
    return [_decode_host(host) for host in hosts]


def create_pool(host: ChannelDecodedRedisHost) -> ConnectionPool:
    """Return redis-py's connection pool for a host from ``decode_hosts()``."""
    options = dict(host)
    if "address" in options:
        address = options.pop("address")
        return ConnectionPool.from_url(address, **options)  # pyright: ignore[reportUnknownMemberType] # redis-py leaves it untyped
    master_name = options.pop("master_name", None)
    if master_name is None:
        return ConnectionPool(**options)
    sentinels = options.pop("sentinels")
    kwargs = options.pop("sentinel_kwargs", None)
    sentinel: Sentinel = Sentinel(sentinels, sentinel_kwargs=kwargs)  # type: ignore[no-untyped-call] # redis-py leaves it untyped
    return SentinelConnectionPool(master_name, sentinel, **options)  # type: ignore[no-untyped-call] # as above


async def close_redis(connection: "Redis") -> None:
    """Disconnect the connection pool of a redis-py client."""
    await connection.connection_pool.disconnect()


def wrap_close(proxy: BaseChannelLayer, loop: asyncio.AbstractEventLoop) -> None:
    """Make ``loop.close()`` release what a layer holds in an event loop.

    This is needed only for loops that neither ``asyncio.run()`` nor
    ``asyncio.Runner`` closes, since both release it by themselves.
    """
    close = loop.close

    def release_and_close() -> None:
        loop.close = close  # type: ignore[method-assign] # it is an attribute of this loop
        loop.run_until_complete(loop.shutdown_asyncgens())
        close()

    loop.close = release_and_close  # type: ignore[method-assign] # as above


def _decode_host(host: ChannelRawRedisHost) -> ChannelDecodedRedisHost:
    if isinstance(host, str):
        return {"address": host}
    if isinstance(host, Mapping):
        return dict(host)
    return dict(zip(("host", "port"), host, strict=True))
