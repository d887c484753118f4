"""flush() with real servers: deleted and remaining data."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from fast_channels.layers.redis import RedisChannelLayer
from tests.redis_servers.server import RedisServer

MESSAGE = {"type": "test.message"}


@pytest.fixture
async def layers(
    redis_server: RedisServer, second_redis_server: RedisServer, prefix: str
) -> AsyncIterator[list[RedisChannelLayer]]:
    """Create layers with prefixes that each begin with the previous one."""
    urls = [redis_server.url, second_redis_server.url]
    layers = [
        RedisChannelLayer(urls, f"{prefix}{rest}") for rest in ("app", "app2", "app:x")
    ]
    yield layers
    for layer in layers:
        await layer.close()
    second_redis_server.delete_keys(prefix)


async def fill(layer: RedisChannelLayer) -> str:
    """Use channels and groups on all hosts; return a channel that holds 2 messages."""
    channel = await layer.new_channel()
    await layer.send(channel, MESSAGE)
    await layer.group_add("room", channel)
    await layer.group_send("room", MESSAGE)
    for number in range(8):
        await layer.group_add(f"room{number}", channel)
        await layer.send(f"elsewhere.{number}!x", MESSAGE)
        await layer.send("jobs", MESSAGE)
    return channel


async def received(layer: RedisChannelLayer, channel: str) -> int:
    """Receive all messages of a channel, and return their number."""
    await layer.send(channel, {"type": "test.last"})
    count = 0
    async with asyncio.timeout(10):
        while (await layer.receive(channel))["type"] != "test.last":
            count += 1
    return count


async def test_neighbours(
    layers: list[RedisChannelLayer],
    redis_server: RedisServer,
    second_redis_server: RedisServer,
) -> None:
    """Data of other prefixes stays, and all data of this one is deleted."""
    app, *others = layers
    channels = [await fill(layer) for layer in layers]
    servers = redis_server, second_redis_server
    before = [server.keys(other.prefix) for server in servers for other in others]
    assert all(before)
    counts = redis_server.command_counts()
    await app.flush()
    assert [
        server.keys(other.prefix) for server in servers for other in others
    ] == before
    kept = {key for keys in before for key in keys}
    for server in servers:
        assert set(server.keys(app.prefix)) <= kept
    assert redis_server.command_counts().get("keys", 0) == counts.get("keys", 0)
    assert redis_server.command_counts()["scan"] > counts["scan"]
    for layer, channel, waiting in zip(layers, channels, (0, 2, 2), strict=True):
        await layer.group_send("room", MESSAGE)
        members = 0 if layer is app else 1
        assert await received(layer, channel) == waiting + members
    async with asyncio.timeout(10):
        for layer in others:
            for _ in range(8):
                assert await layer.receive("jobs") == MESSAGE


async def test_using_a_layer_after_a_flush(
    layers: list[RedisChannelLayer], redis_server: RedisServer
) -> None:
    """A flushed layer marks its new keys, so that another layer's flush spares them."""
    app, other, _ = layers
    await fill(other)
    await other.flush()
    assert redis_server.keys(other.prefix) == []
    await fill(other)
    before = redis_server.keys(other.prefix)
    assert f"{other.prefix}:layer".encode() in before
    await app.flush()
    assert redis_server.keys(other.prefix) == before


async def test_groups_of_a_flushed_layer(layers: list[RedisChannelLayer]) -> None:
    """Groups joined before a flush are not joined again, and closing logs nothing."""
    app = layers[0]
    channel = await fill(app)
    await app.flush()
    assert app.statistics()["groups"] == 0
    await app.group_add("room", channel)
    await app.group_send("room", MESSAGE)
    assert await received(app, channel) == 1
