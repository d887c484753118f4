"""A Redis server that has used up its memory and evicts nothing."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from tests.redis_servers.server import RedisServer

from .conftest import MakeLayer
from .traffic import LIMIT

_PADDING = b"x" * 10_000


@contextlib.asynccontextmanager
async def full(server: RedisServer) -> AsyncGenerator[None]:
    """Limit a server to less memory than it uses."""
    used = int(server.info("memory")["used_memory"])
    server.command("CONFIG", "SET", "maxmemory", used // 2)
    try:
        with pytest.raises(Exception, match="OOM"):
            server.command("SET", "more", "memory")
        yield
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0)


@pytest.mark.parametrize("own", [True, False], ids=["own channel", "plain channel"])
async def test_messages_in_a_full_redis_are_received(
    own_redis_server: RedisServer, make_layer: MakeLayer, own: bool
) -> None:
    """Messages in a full Redis are received, which frees memory."""
    layer, sender = make_layer(own_redis_server), make_layer(own_redis_server)
    channel = await layer.new_channel() if own else "jobs"
    for number in range(300):
        await sender.send(channel, {"number": number, "padding": _PADDING})
    async with full(own_redis_server), asyncio.timeout(LIMIT):
        for number in range(300):
            assert (await layer.receive(channel))["number"] == number


async def test_jobs_in_a_full_redis_are_handled(
    own_redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """Messages are taken, acknowledged and given back while memory is full."""
    layer, sender = make_layer(own_redis_server), make_layer(own_redis_server)
    for number in range(20):
        await sender.send("jobs", {"number": number, "padding": _PADDING})
    async with full(own_redis_server), asyncio.timeout(LIMIT):
        taken = [await layer.take("jobs") for _ in range(20)]
        assert [each.message["number"] for each in taken] == list(range(20))
        for each in taken[10:]:
            each.acknowledge()
        await layer.close()
        left = [(await sender.receive("jobs"))["number"] for _ in range(10)]
        assert left == list(range(10))
