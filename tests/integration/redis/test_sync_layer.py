"""The blocking facade with a real Redis, in threads, in forks and at exit."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from fast_channels.layers import (
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    SyncChannelLayer,
)
from tests.redis_servers.server import RedisServer, wait_until

HELLO = {"type": "hello"}

# Sends, as does its fork while this process waits; neither closes anything.
FORKING = """
import logging, os, sys
from fast_channels.layers import RedisChannelLayer, SyncChannelLayer
# asyncio's warnings about a slow machine are irrelevant.
logging.getLogger("asyncio").setLevel("ERROR")
facade = SyncChannelLayer(RedisChannelLayer(hosts=[sys.argv[1]]))
facade.send("inbox", {"type": "parent"})
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    facade.send("inbox", {"type": "parent.again"})
else:
    facade.send("inbox", {"type": "child"})
    facade.send("inbox", {"type": "child.again"})
"""


@pytest.mark.parametrize("kind", [RedisChannelLayer, RedisPubSubChannelLayer])
def test_calls_share_a_connection(
    own_redis_server: RedisServer,
    kind: type[RedisChannelLayer | RedisPubSubChannelLayer],
) -> None:
    """A hundred calls in eight threads share one connection, which close() closes."""
    layer = kind(hosts=[own_redis_server.url])

    def send(_: int) -> None:
        facade.group_send("room", HELLO)

    with SyncChannelLayer(layer) as facade, ThreadPoolExecutor(8) as threads:
        list(threads.map(send, range(100)))
        seen = {client["id"] for client in own_redis_server.clients()}
    assert len(seen) == 1
    wait_until(lambda: own_redis_server.clients() == [], "it is closed", 5)


async def test_fork_and_exit(own_redis_server: RedisServer) -> None:
    """After a fork each process has its own connection, and both exit silently."""
    before = connections(own_redis_server)
    process = subprocess.run(  # noqa: ASYNC221 # there is nothing else to run
        [
            *[sys.executable, "-X", "dev", "-W", "error"],
            # Python 3.12 and newer warn about any fork in a process with threads.
            *["-W", "ignore:This process:DeprecationWarning"],
            *["-c", FORKING, own_redis_server.url],
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    # Two, and the one of this query.
    assert connections(own_redis_server) - before == 3
    async with RedisChannelLayer(hosts=[own_redis_server.url]) as layer:
        types = [(await layer.receive("inbox"))["type"] for _ in range(4)]
    assert types == ["parent", "child", "child.again", "parent.again"]


def connections(server: RedisServer) -> int:
    """Return the number of connections that the server has had."""
    return int(server.info("stats")["total_connections_received"])
