"""A pytest plugin: the servers as fixtures.

A server starts when the first test asks for it. A machine without a server program
gets an error in each test that needs one, never a skip.
"""

import secrets
from collections.abc import Iterator

import pytest

from tests.redis_servers.binary import (
    ServerBinary,
    ServerNotFoundError,
    find_server,
)
from tests.redis_servers.proxy import RoundTripProxy
from tests.redis_servers.sentinel import Sentinels
from tests.redis_servers.server import RedisServer


def pytest_report_header() -> str:
    """Say which server program the tests will run."""
    try:
        return f"redis server: {find_server()}"
    except ServerNotFoundError:
        return "redis server: none, the tests that need one will say what to do"


@pytest.fixture(scope="session")
def redis_binary() -> ServerBinary:
    """The program that all servers run."""
    return find_server()


@pytest.fixture(scope="session")
def redis_server(redis_binary: ServerBinary) -> Iterator[RedisServer]:
    """One server for all tests, which do it no harm and keep to their prefix."""
    with RedisServer(redis_binary) as server:
        yield server


@pytest.fixture(scope="session")
def second_redis_server(redis_binary: ServerBinary) -> Iterator[RedisServer]:
    """One more server for all tests, for layers with several hosts."""
    with RedisServer(redis_binary) as server:
        yield server


@pytest.fixture(scope="session")
def url_without_tracking(redis_server: RedisServer) -> str:
    """The URL of the server for a user to whom it does not tell of changed keys."""
    redis_server.command(
        "ACL", "SETUSER", "untold", "on", ">pw", "~*", "&*", "+@all", "-client|tracking"
    )
    return redis_server.url.replace("://", "://untold:pw@")


@pytest.fixture
def own_redis_server(redis_binary: ServerBinary) -> Iterator[RedisServer]:
    """A server for one test, which may kill it."""
    with RedisServer(redis_binary) as server:
        yield server


@pytest.fixture(scope="session")
def sentinels(redis_binary: ServerBinary) -> Iterator[Sentinels]:
    """A master, a replica and three Sentinels for all tests, which do them no harm."""
    with Sentinels(redis_binary) as servers:
        yield servers


@pytest.fixture
def breakable_sentinels(sentinels: Sentinels) -> Iterator[Sentinels]:
    """The same, whole again after a test that kills some of them."""
    yield sentinels
    sentinels.heal()


@pytest.fixture
def round_trips(redis_server: RedisServer) -> Iterator[RoundTripProxy]:
    """A way to the server of all tests that counts round trips."""
    with RoundTripProxy(redis_server) as proxy:
        yield proxy


@pytest.fixture
def prefix(redis_server: RedisServer) -> Iterator[str]:
    """A prefix for the keys of one test, which are deleted after it."""
    prefix = f"test-{secrets.token_hex(8)}"
    yield prefix
    redis_server.delete_keys(prefix)
