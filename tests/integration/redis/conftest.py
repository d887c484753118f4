"""What the tests of the layers for Redis share."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.redis.peer import find_python
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.server import RedisServer


@pytest.fixture(scope="session")
def three_redis_servers(
    redis_server: RedisServer, redis_binary: ServerBinary
) -> Iterator[list[RedisServer]]:
    """The server of all tests and two more, which they do no harm either."""
    with RedisServer(redis_binary) as second, RedisServer(redis_binary) as third:
        yield [redis_server, second, third]


@pytest.fixture(scope="session")
def django_python() -> Path:
    """An interpreter that has Django Channels, installed if need be."""
    return find_python()


@pytest.fixture(autouse=True)
async def no_debug_mode() -> None:
    """Switch asyncio's debug mode off, which slows down what has many commands."""
    asyncio.get_running_loop().set_debug(False)
