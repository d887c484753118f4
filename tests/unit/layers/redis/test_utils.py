"""The functions for hosts and connections from release 1."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import redis.asyncio
import uvloop
from redis.asyncio.sentinel import SentinelConnectionPool

from fast_channels.layers import BaseChannelLayer
from fast_channels.layers.redis import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.layers.redis.utils import (
    close_redis,
    consistent_hash,
    create_pool,
    decode_hosts,
    shard_of,
    wrap_close,
)


@pytest.mark.parametrize("name", ["room", "", "asgi__group__room", "é"])
@pytest.mark.parametrize("hosts", [1, 2, 3, 7])
def test_consistent_hash_is_that_of_the_layers(name: str, hosts: int) -> None:
    """A str and its bytes belong to the host that the layers choose."""
    assert consistent_hash(name, hosts) == shard_of(name, hosts)
    assert consistent_hash(name.encode(), hosts) == shard_of(name, hosts)


def test_decode_hosts_returns_arguments_of_redis_py() -> None:
    """Every spelling of a host becomes a dict of redis-py's arguments."""
    assert decode_hosts(None) == [{"address": "redis://localhost:6379"}]
    own = {"host": "d", "port": 4}
    assert decode_hosts(["redis://a", ("b", 2), ["c", 3], own]) == [
        {"address": "redis://a"},
        {"host": "b", "port": 2},
        {"host": "c", "port": 3},
        own,
    ]
    single: Any = "redis://a"
    with pytest.raises(ValueError, match="a list, even if there is only one"):
        decode_hosts(single)


def test_a_pool_connects_to_the_host_of_the_dict() -> None:
    """create_pool() doesn't change the dict."""
    host: dict[str, Any] = {"address": "redis://a/2", "username": "user"}
    options: dict[str, Any] = create_pool(host).connection_kwargs
    assert (options["host"], options["db"], options["username"]) == ("a", 2, "user")
    assert host == {"address": "redis://a/2", "username": "user"}
    options = create_pool({"host": "b", "port": 2}).connection_kwargs
    assert (options["host"], options["port"]) == ("b", 2)
    pool: Any = create_pool({"sentinels": [("c", 3)], "master_name": "main", "db": 1})
    assert isinstance(pool, SentinelConnectionPool)
    assert vars(pool)["service_name"] == "main"


async def test_close_redis_closes_the_pool() -> None:
    """The connections of a client are closed."""
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            # Each command begins with its length.
            writer.write(b"+OK\r\n" * line.startswith(b"*"))
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        client: Any = redis.asyncio.Redis(port=port, protocol=2)
        await client.ping()
        async with asyncio.timeout(5):
            await close_redis(client)
            await closed.wait()


@pytest.mark.parametrize(
    "new_event_loop", [asyncio.new_event_loop, uvloop.new_event_loop]
)
def test_wrap_close_releases_before_the_loop_is_closed(new_event_loop: Any) -> None:
    """Async generators of a loop end when it is closed without a runner."""
    loop: asyncio.AbstractEventLoop = new_event_loop()
    ended: list[str] = []

    async def hold() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            ended.append("ended")

    held = hold()

    async def begin() -> None:
        await anext(held)

    loop.run_until_complete(begin())
    wrap_close(BaseChannelLayer(), loop)
    loop.close()
    assert ended == ["ended"]
    assert loop.is_closed()
    loop.close()


@pytest.mark.parametrize("layer_class", [RedisChannelLayer, RedisPubSubChannelLayer])
async def test_layers_have_the_methods_of_release_1(
    layer_class: type[RedisChannelLayer | RedisPubSubChannelLayer],
) -> None:
    """A layer encodes and decodes its messages, and closes by its older name."""
    layer = layer_class()
    message = {"type": "hello", "number": 1}
    data = layer.serialize(message)
    assert layer.deserialize(data) == layer.serializer.deserialize(data) == message
    await layer.close_pools()
