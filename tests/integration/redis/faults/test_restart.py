"""A server that stops and starts again."""

import asyncio
import re
from collections.abc import Iterator

import pytest

from fast_channels.exceptions import RedisUnavailable
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.server import RedisServer

from .conftest import MakeLayer, Storm
from .traffic import (
    GROUP,
    Ledger,
    Traffic,
    listening,
    reached_again,
    receive_all,
    settle,
    to_channel,
    to_group,
)

# Maximum seconds from the server's return until consumers receive again.
_BACK = 2.0


@pytest.fixture
def server(
    redis_binary: ServerBinary, request: pytest.FixtureRequest
) -> Iterator[RedisServer]:
    """A server that a test can restart, with or without persistence."""
    with RedisServer(redis_binary, persist=request.param) as server:
        yield server


def crash_and_start(server: RedisServer) -> None:
    server.kill()
    server.start()


@pytest.mark.parametrize(
    "server", [True, False], ids=["persistent", "volatile"], indirect=True
)
async def test_consumers_receive_after_a_restart(
    server: RedisServer, make_layer: MakeLayer, prefix: str
) -> None:
    """Within two seconds of a restart, consumers receive from their groups again."""
    layers = [make_layer(server) for _ in range(2)]
    async with listening(*layers, *layers) as ledgers:
        async with Traffic(to_group(make_layer(server))) as traffic:
            await traffic.reaches(100)
            await asyncio.to_thread(crash_and_start, server)
            await reached_again(ledgers, traffic, _BACK)
        for ledger in ledgers:
            await ledger.holds({max(traffic.acknowledged)})
            assert not ledger.twice
        assert server.command("ZCARD", f"{prefix}:group:{GROUP}") == 4


@pytest.mark.parametrize("server", [True], ids=["persistent"], indirect=True)
@pytest.mark.parametrize("own", [True, False], ids=["own channel", "plain channel"])
async def test_a_restart_of_a_persistent_redis_loses_nothing(
    server: RedisServer, make_layer: MakeLayer, storm: Storm, own: bool
) -> None:
    """A restart of a Redis with persistence neither loses nor repeats messages."""
    layer = make_layer(server)
    channel = await layer.new_channel() if own else "tasks"
    send = to_channel(make_layer(server), channel)
    ledger = Ledger()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(receive_all(layer, channel, ledger))
        async with Traffic(send) as traffic:
            for _ in range(storm(short=5, full=50)):
                await traffic.reaches(100)
                await asyncio.to_thread(crash_and_start, server)
        await settle(ledger, traffic.acknowledged, send)


async def test_consumers_connect_before_the_server_starts(
    own_redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """Consumers connect without a server, and receive once it has started."""
    own_redis_server.kill()
    layer = make_layer(own_redis_server)
    async with listening(layer, layer) as ledgers:
        await asyncio.to_thread(own_redis_server.start)
        async with Traffic(to_group(make_layer(own_redis_server))) as traffic:
            await reached_again(ledgers, traffic, _BACK)


async def test_a_send_without_a_server_fails_in_time(
    own_redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """Without a server, a send fails in time, and the error names the server."""
    own_redis_server.kill()
    layer = make_layer(own_redis_server, connection_kwargs={"socket_timeout": 0.5})
    expected = re.escape(f"{own_redis_server.url}/0 is not available: ")
    for send in (to_channel(layer, "tasks"), to_group(layer)):
        async with asyncio.timeout(2):
            with pytest.raises(RedisUnavailable, match=expected):
                await send({"type": "number", "number": 0})
