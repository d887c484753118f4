"""The connections of redis-py, their options, and the bytes of commands."""

import importlib.util
import inspect
import socket
import sys
from typing import Any

import hiredis
import pytest
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from fast_channels.layers.redis import wire
from fast_channels.layers.redis.hosts import Host, parse_hosts
from fast_channels.layers.redis.wire import (
    Pack,
    connection_options,
    pack,
    starting_with,
)


def host_of(spelling: Any) -> Host:
    (host,) = parse_hosts([spelling])
    return host


def connection_to(host: Host) -> AbstractConnection:
    connection = wire.plain_connection(host)
    assert isinstance(connection, AbstractConnection)
    return connection


@pytest.mark.parametrize(
    ("spelling", "kind", "place"),
    [
        ("redis://a:1/2", Connection, {"host": "a", "port": 1, "db": 2}),
        (("a", 1), Connection, {"host": "a", "port": 1, "db": 0}),
        ("rediss://a:1/2", SSLConnection, {"host": "a", "port": 1, "db": 2}),
        ("unix:///a?db=2", UnixDomainSocketConnection, {"path": "/a", "db": 2}),
    ],
)
def test_kind(
    spelling: object, kind: type[AbstractConnection], place: dict[str, object]
) -> None:
    """The connection is of the kind, and to the place, that the host says."""
    connection = connection_to(host_of(spelling))
    assert type(connection) is kind
    assert {name: getattr(connection, name) for name in place} == place
    assert not connection.is_connected


@pytest.mark.parametrize("place", [{"host": "a"}, {"path": "/a"}])
def test_user_options(place: dict[str, str]) -> None:
    """The options of a user reach redis-py."""
    options = {
        "db": 3,
        "username": "user",
        "password": "secret",
        "socket_connect_timeout": 0.5,
        "client_name": "name",
    }
    connection = connection_to(host_of({**place, **options}))
    assert {name: getattr(connection, name) for name in options} == options


def test_tls_options() -> None:
    """The options of TLS reach redis-py, which looks at certificates by default."""
    connection = connection_to(
        host_of({"host": "a", "ssl": True, "ssl_ca_certs": "/ca", "ssl_keyfile": "/k"})
    )
    assert isinstance(connection, SSLConnection)
    assert (connection.ca_certs, connection.keyfile) == ("/ca", "/k")
    assert connection.check_hostname
    lax = connection_to(host_of("rediss://a?ssl_check_hostname=no"))
    assert isinstance(lax, SSLConnection)
    assert not lax.check_hostname


def test_connect_timeout() -> None:
    """Unless the user says otherwise, connecting may take five seconds."""
    assert connection_to(host_of("redis://a")).socket_connect_timeout == 5


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_idle_connections(scheme: str) -> None:
    """TCP probes idle connections, when and whether the user says so."""
    mine = connection_to(host_of(f"{scheme}://a"))
    assert isinstance(mine, Connection)
    assert mine.socket_keepalive
    options = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
    assert mine.socket_keepalive_options == options
    other = connection_to(host_of(f"{scheme}://a?health_check_interval=20"))
    assert isinstance(other, Connection)
    assert other.socket_keepalive_options == {**options, socket.TCP_KEEPIDLE: 20}
    for off in ("health_check_interval=0", "socket_keepalive=no"):
        silent = connection_to(host_of(f"{scheme}://a?{off}"))
        assert isinstance(silent, Connection)
        assert not silent.socket_keepalive


def test_idle_connections_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the option has another name, that is set."""
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", 0x10, raising=False)
    connection = connection_to(host_of("redis://a"))
    assert isinstance(connection, Connection)
    options: Any = connection.socket_keepalive_options
    assert options[0x10] == 30


# As a user may write them, and as they would be if parse_hosts let them pass.
THEIRS: dict[str, Any] = {
    "protocol": 3,
    "socket_timeout": 2,
    "health_check_interval": 30,
    "decode_responses": True,
    "retry": Retry(NoBackoff(), 3),
}


@pytest.mark.parametrize(
    "host",
    [
        host_of("redis://a"),
        host_of({"host": "a", **THEIRS}),
        Host("tcp", {"host": "a", "port": 1, "db": 0, **THEIRS}),
        Host("tcp", {"host": "a", "port": 1, "db": 0, **THEIRS}, tls=True),
        Host("unix", {"path": "/a", "db": 0, **THEIRS}),
    ],
    ids=["default", "parsed", "tcp", "tls", "unix"],
)
async def test_our_options(host: Host) -> None:
    """What the layers rely on is so, whatever the user or redis-py would have."""
    connection = connection_to(host)
    assert connection.protocol == 2
    assert connection.socket_timeout is None
    assert connection.health_check_interval == 0
    assert connection.encoder.decode_responses is False
    assert connection.socket_connect_timeout == 5
    attempts: list[None] = []

    async def refuse() -> None:
        attempts.append(None)
        raise RedisConnectionError

    async def ignore(error: Exception) -> None:
        del error

    with pytest.raises(RedisConnectionError):
        await connection.retry.call_with_retry(refuse, ignore)
    assert len(attempts) == 1


def test_host_unchanged() -> None:
    """The options of the host stay as they are, and are shared by no connections."""
    host = host_of("redis://a:1/2")
    before = dict(host.options)
    connection_options(host)["db"] = 9
    assert host.options == before
    assert connection_options(host)["db"] == 2


async def test_nothing_read() -> None:
    """Making a connection reads no file, which would block the event loop."""
    for spelling in ("redis://a", "rediss://a", "unix:///a"):
        connection_to(host_of(spelling))


class Greeting:
    """What a connection is made to do first, as a test has it."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.greeted: list[AbstractConnection] = []

    async def on_connect(self, connection: AbstractConnection) -> None:
        self.greeted.append(connection)
        if self.error is not None:
            raise self.error

    def on_connect_sync(self, connection: AbstractConnection) -> None:
        self.greeted.append(connection)


async def greet(connection: AbstractConnection) -> None:
    greeting = connection.redis_connect_func
    # redis-py looks at this.
    assert inspect.iscoroutinefunction(greeting)
    await greeting(connection)


@pytest.mark.parametrize("name", ["on_connect", "on_connect_sync"])
async def test_greeting_of_the_user(name: str) -> None:
    """What the user wants done first is done, whether it is a coroutine or not."""
    own = Greeting(None)
    connection = connection_to(
        host_of({"host": "a", "redis_connect_func": getattr(own, name)})
    )
    await greet(connection)
    assert own.greeted == [connection]


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            ResponseError(
                "unknown command 'AUTH', with args beginning with: 'me' 'secret' "
            ),
            "unknown command 'AUTH'",
        ),
        (AuthenticationError("invalid password"), "invalid password"),
        (ResponseError(5), "5"),
    ],
    ids=["unknown command", "wrong password", "no text"],
)
async def test_no_error_quotes_the_password(
    monkeypatch: pytest.MonkeyPatch, error: Exception, shown: str
) -> None:
    """What a server says about a command that it does not know has no arguments."""
    greeting = Greeting(error)

    async def on_connect(connection: AbstractConnection) -> None:
        await greeting.on_connect(connection)

    monkeypatch.setattr(Connection, "on_connect", on_connect)
    connection = connection_to(host_of("redis://me:secret@a"))
    with pytest.raises(type(error)) as caught:
        await greet(connection)
    assert str(caught.value) == shown
    assert "secret" not in repr(caught.value)
    assert greeting.greeted == [connection]


# Commands


def bytes_or_text(value: str | bytes | float) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture
def fallback(monkeypatch: pytest.MonkeyPatch) -> Pack:
    """What packs commands where hiredis is not installed."""
    monkeypatch.setitem(sys.modules, "hiredis", None)
    spec = importlib.util.find_spec(wire.__name__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fallback: Pack = module.pack
    assert fallback is not pack
    return fallback


@pytest.mark.parametrize(
    "command",
    [
        ("PING",),
        ("SET", "key", "größe €"),
        ("SET", b"\x00\xff\r\n", "", b""),
        ("EVAL", "x" * 10_000, b"y" * 10_000, 0),
        ("PEXPIRE", "key", -1, 60, 2**53),
        ("BZPOPMIN", "key", 0.1, 1.0, 1e-7, 1e300, 1_700_000_000.123456, -0.5),
    ],
    ids=["word", "text", "bytes", "long", "int", "float"],
)
def test_same_bytes(command: tuple[str | bytes | float, ...], fallback: Pack) -> None:
    """A command has the same bytes with hiredis and without it."""
    words = [bytes_or_text(word) for word in command]
    expected = b"*%d\r\n" % len(words)
    expected += b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    assert pack(command) == expected
    assert fallback(command) == expected


def test_hiredis_is_used() -> None:
    """Where hiredis is installed it packs commands."""
    assert wire.pack is vars(hiredis)["pack_command"]


@pytest.mark.parametrize(
    ("prefix", "pattern"),
    [("asgi", "asgi*"), ("a*b?[c]", r"a\*b\?\[c\]*"), ("a-b\\^", r"a\-b\\\^*")],
)
def test_prefix_is_taken_literally(prefix: str, pattern: str) -> None:
    """What has a meaning in a pattern stands for itself."""
    assert starting_with(prefix) == pattern
