"""Layers for Redis in several event loops, running or not, and in forks."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer
from tests.redis_servers.server import RedisServer

HELLO = {"type": "hello"}

# Prints what a child can do with the parent's background thread.
CHILD = """
import asyncio, logging, os, sys
from fast_channels import layers
# In dev mode, asyncio warns about slow steps, which a busy machine makes of any.
logging.getLogger("asyncio").setLevel("ERROR")
layer = getattr(layers, sys.argv[1])(hosts=[sys.argv[2]])
facade = layers.SyncChannelLayer(layer)
names = []
async def make():
    names.append(await layer.new_channel())
class Making(layers.BaseChannelLayer):
    async def send(self, channel, message):
        await make()
layers.SyncChannelLayer(Making()).send("any", {"type": "hello"})
facade.group_add("room", names[0])
child = os.fork()
if not child:
    facade.group_add("lobby", names[0])
    asyncio.run(layer.flush())
    asyncio.run(layer.close())
    facade.group_discard("room", names[0])
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
facade.group_discard("room", names[0])
"""


@pytest.fixture(params=[RedisChannelLayer, RedisPubSubChannelLayer])
def kind(
    request: pytest.FixtureRequest,
) -> type[RedisChannelLayer | RedisPubSubChannelLayer]:
    made: type[RedisChannelLayer | RedisPubSubChannelLayer] = request.param
    return made


@pytest.fixture
def idle() -> Iterator[asyncio.AbstractEventLoop]:
    """Create an open loop that runs only on demand."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_flush_beside_an_idle_loop(
    redis_server: RedisServer,
    kind: type[RedisChannelLayer | RedisPubSubChannelLayer],
    idle: asyncio.AbstractEventLoop,
) -> None:
    """flush() returns although another loop is idle, and ends its memberships."""
    layer = kind(hosts=[redis_server.url])

    async def join() -> str:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        return channel

    idle.run_until_complete(join())
    assert layer.statistics()["groups"] == 1

    async def flush() -> None:
        async with asyncio.timeout(10):
            await layer.flush()

    asyncio.run(flush())
    idle.run_until_complete(asyncio.sleep(0.01))
    assert layer.statistics()["groups"] == 0
    idle.run_until_complete(layer.close())


def test_child_of_a_process_with_a_background_thread(
    redis_server: RedisServer,
    kind: type[RedisChannelLayer | RedisPubSubChannelLayer],
) -> None:
    """A child never waits for its parent's event loop; the parent keeps using it."""
    with subprocess.Popen(
        [
            *[sys.executable, "-X", "dev", "-W", "error"],
            *["-W", "ignore:This process:DeprecationWarning"],
            *["-c", CHILD, kind.__name__, redis_server.url],
        ],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _, errors = process.communicate(timeout=20)
        finally:
            # A hanging child is the only other process in its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, errors) == (0, "")
