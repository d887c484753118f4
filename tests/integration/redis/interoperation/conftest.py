"""A layer of the library and one of Django on the same servers."""

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import fast_channels
from fast_channels.layers.redis import RedisChannelLayer, RedisPubSubChannelLayer
from tests.integration.redis.peer import (
    Message,
    Peer,
    PeerProcess,
    find_python,
    unpack_previous,
)
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.server import RedisServer

from .sides import MESSAGE, BothWays, Kind, Options, Side

LAYERS = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Exclude the installation of Django Channels from the first test's time limit."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(30, func_only=True))


@pytest.fixture(scope="session")
def three_redis_servers(
    redis_server: RedisServer, redis_binary: ServerBinary
) -> Iterator[list[RedisServer]]:
    """Three servers: the shared one and two more."""
    with RedisServer(redis_binary) as second, RedisServer(redis_binary) as third:
        yield [redis_server, second, third]


@pytest.fixture(scope="session")
def django_process() -> Iterator[PeerProcess]:
    """A process with Django Channels, which is installed if necessary."""
    with contextlib.closing(PeerProcess(find_python())) as process:
        yield process


@pytest.fixture(params=[1, 3], ids=["one_host", "three_hosts"])
def servers(
    request: pytest.FixtureRequest, three_redis_servers: list[RedisServer], prefix: str
) -> Iterator[list[RedisServer]]:
    """One server, or three that share channels and groups."""
    servers = three_redis_servers[: request.param]
    yield servers
    for server in servers:
        server.delete_keys(prefix)


@pytest.fixture(params=["msgpack", "json"])
def serializer_format(request: pytest.FixtureRequest) -> str:
    """Each format."""
    name: str = request.param
    return name


@pytest.fixture(params=[None, ["secret"]], ids=["plain", "encrypted"])
def options(
    request: pytest.FixtureRequest,
    servers: list[RedisServer],
    serializer_format: str,
    prefix: str,
) -> Options:
    """The options of both layers."""
    return {
        "hosts": [server.url for server in servers],
        "prefix": prefix,
        "serializer_format": serializer_format,
        "symmetric_encryption_keys": request.param,
    }


@pytest.fixture
async def ours(kind: Kind, options: Options) -> AsyncIterator[Side]:
    """The library's layer, of the kind that the module tests."""
    async with LAYERS[kind](**options) as layer:
        yield layer


@pytest.fixture
async def django(
    kind: Kind, options: Options, django_process: PeerProcess
) -> AsyncIterator[Peer]:
    """Django's layer, with the encryption keys in the opposite order."""
    keys = options["symmetric_encryption_keys"]
    options = {**options, "symmetric_encryption_keys": keys and keys[::-1]}
    async with django_process.layer(kind, **options) as layer:
        yield layer


@pytest.fixture(scope="session")
def previous_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the previous version of this library."""
    return unpack_previous(tmp_path_factory.mktemp("previous"))


@pytest.fixture(scope="session")
def previous_process(previous_version: Path) -> Iterator[PeerProcess]:
    """A process with the previous version of this library."""
    process = PeerProcess(Path(sys.executable), previous_version)
    with contextlib.closing(process):
        yield process


@pytest.fixture(scope="session")
def new_process() -> Iterator[PeerProcess]:
    """A process with this version of the library."""
    folder = Path(fast_channels.__file__).parents[1]
    with contextlib.closing(PeerProcess(Path(sys.executable), folder)) as process:
        yield process


@pytest.fixture
def both_ways(ours: Side, django: Peer) -> BothWays:
    """Sender and receiver: Django sends first, then the library does."""
    return [(django, ours), (ours, django)]


@pytest.fixture
def messages(serializer_format: str) -> list[Message]:
    """Messages with every type of value that the format carries."""
    messages = [MESSAGE, *({"type": "count", "n": n} for n in range(10))]
    if serializer_format == "msgpack":
        messages.append({"type": "bytes", "bytes": bytes(range(256)), "none": b""})
    return messages
