"""Connections of redis-py, their options, and the bytes of commands."""

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
from redis.exceptions import (
    AskError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    MovedError,
    OutOfMemoryError,
    RedisError,
)

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis import wire
from fast_channels.layers.redis.hosts import Host, parse_hosts
from fast_channels.layers.redis.wire import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    Pack,
    ReadOnlyError,
    RedisConnectionError,
    ResponseError,
    connection_options,
    describe,
    is_from_cluster,
    is_in_transit,
    is_refusal,
    is_unready,
    pack,
    redirection,
    slot_of,
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
def test_a_connection_is_of_the_kind_and_to_the_place_of_its_host(
    spelling: object, kind: type[AbstractConnection], place: dict[str, object]
) -> None:
    connection = connection_to(host_of(spelling))
    assert type(connection) is kind
    assert {name: getattr(connection, name) for name in place} == place
    assert not connection.is_connected


@pytest.mark.parametrize("place", [{"host": "a"}, {"path": "/a"}])
def test_the_users_options_reach_redis_py(place: dict[str, str]) -> None:
    options = {
        "db": 3,
        "username": "user",
        "password": "secret",
        "socket_connect_timeout": 0.5,
        "client_name": "name",
    }
    connection = connection_to(host_of({**place, **options}))
    assert {name: getattr(connection, name) for name in options} == options


def test_tls_options_reach_redis_py() -> None:
    """Host names in certificates are checked by default."""
    connection = connection_to(
        host_of({"host": "a", "ssl": True, "ssl_ca_certs": "/ca", "ssl_keyfile": "/k"})
    )
    assert isinstance(connection, SSLConnection)
    assert (connection.ca_certs, connection.keyfile) == ("/ca", "/k")
    assert connection.check_hostname
    lax = connection_to(host_of("rediss://a?ssl_check_hostname=no"))
    assert isinstance(lax, SSLConnection)
    assert not lax.check_hostname


def test_connecting_can_take_five_seconds_by_default() -> None:
    assert connection_to(host_of("redis://a")).socket_connect_timeout == 5


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_tcp_probes_idle_connections_unless_the_user_says_otherwise(
    scheme: str,
) -> None:
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


def test_tcp_probes_idle_connections_on_macos_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", 0x10, raising=False)
    connection = connection_to(host_of("redis://a"))
    assert isinstance(connection, Connection)
    options: Any = connection.socket_keepalive_options
    assert options[0x10] == 30


# As a user could write them, and as they would arrive if parse_hosts let them pass.
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
async def test_options_that_the_layers_rely_on_cannot_be_changed(host: Host) -> None:
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


def test_connections_do_not_share_the_options_of_their_host() -> None:
    host = host_of("redis://a:1/2")
    before = dict(host.options)
    connection_options(host)["db"] = 9
    assert host.options == before
    assert connection_options(host)["db"] == 2


async def test_making_a_connection_reads_no_file() -> None:
    """Reading a file would block the event loop."""
    for spelling in ("redis://a", "rediss://a", "unix:///a"):
        connection_to(host_of(spelling))


class Greeting:
    """A function that a test runs on each new connection."""

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
    # redis-py checks this attribute.
    assert inspect.iscoroutinefunction(greeting)
    await greeting(connection)


@pytest.mark.parametrize("name", ["on_connect", "on_connect_sync"])
async def test_redis_connect_func_is_called_whether_it_is_a_coroutine_or_not(
    name: str,
) -> None:
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
    """Packs commands where hiredis is not installed."""
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
def test_a_command_has_the_same_bytes_with_hiredis_and_without_it(
    command: tuple[str | bytes | float, ...], fallback: Pack
) -> None:
    words = [bytes_or_text(word) for word in command]
    expected = b"*%d\r\n" % len(words)
    expected += b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    assert pack(command) == expected
    assert fallback(command) == expected


def test_hiredis_packs_commands_where_it_is_installed() -> None:
    assert wire.pack is vars(hiredis)["pack_command"]


@pytest.mark.parametrize(
    ("prefix", "pattern"),
    [("asgi", "asgi*"), ("a*b?[c]", r"a\*b\?\[c\]*"), ("a-b\\^", r"a\-b\\\^*")],
)
def test_a_prefix_is_taken_literally_in_a_pattern(prefix: str, pattern: str) -> None:
    assert starting_with(prefix) == pattern


# Errors


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("invalid username-password pair or user is disabled."),
        AuthenticationWrongNumberOfArgsError("wrong number of arguments"),
        BusyLoadingError("Redis is loading the dataset in memory"),
        NoPermissionError("this user has no permissions to run the command"),
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        ReadOnlyError("You can't write against a read only replica."),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        ResponseError("MISCONF Redis is configured to save RDB snapshots, but..."),
        ResponseError("BUSY Redis is busy running a script."),
        ResponseError("NOAUTH Authentication required."),
        ResponseError(
            "The user executing the script can't access at least one of the keys "
            "mentioned in the script: script: 0e37, on @user_script:1."
        ),
        ResponseError(
            "Error running script (call to f_1): @user_script:5: -OOM command not "
            "allowed when used memory > 'maxmemory'."
        ),
        ResponseError("max number of clients reached"),
    ],
    ids=lambda error: f"{type(error).__name__}-{str(error)[:10]}",
)
def test_a_temporary_refusal_is_recognised(error: Exception) -> None:
    assert is_refusal(error)


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("WRONGTYPE Operation against a key holding the wrong kind"),
        ResponseError("ERR unknown command 'BUSY'"),
        NoScriptError("No matching script."),
        TimeoutError(),
        ConnectionResetError(),
    ],
    ids=lambda error: f"{type(error).__name__}-{str(error)[:10]}",
)
def test_other_errors_are_not_temporary_refusals(error: Exception) -> None:
    assert not is_refusal(error)


def test_the_error_says_that_the_password_is_wrong() -> None:
    error = AuthenticationError("invalid username-password pair")
    assert describe(error) == (
        "it refuses the username or the password (invalid username-password pair)"
    )


def test_a_timeout_without_a_text_says_what_happened() -> None:
    assert describe(TimeoutError()) == "it did not reply in time"
    assert describe(TimeoutError("it did not answer")) == "it did not answer"


def test_an_error_without_a_text_is_described_by_its_class() -> None:
    assert describe(ConnectionResetError()) == "ConnectionResetError"
    assert describe(ConnectionResetError("reset by peer")) == "reset by peer"


# Errors of a cluster


def parsed(text: str) -> RedisError:
    """Return what this release of redis-py makes of an error reply."""
    connection: Any = Connection()
    error = connection._parser.parse_error(text)
    assert isinstance(error, RedisError)
    return error


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("10.0.0.1:7000", ("10.0.0.1", 7000)),
        ("redis-1.example:7000", ("redis-1.example", 7000)),
        ("2001:db8::1:7000", ("2001:db8::1", 7000)),
        # It is not known to the node, or no hostname is.
        (":7000", ("", 7000)),
        ("?:7000", ("", 7000)),
    ],
)
@pytest.mark.parametrize("kind", ["MOVED", "ASK"])
def test_a_redirection_has_an_address(
    kind: str, place: str, address: tuple[str, int]
) -> None:
    """redis-py parses it into a class of its own, from some release on."""
    for error in (
        parsed(f"{kind} 3999 {place}"),
        ResponseError(f"{kind} 3999 {place}"),
        (MovedError if kind == "MOVED" else AskError)(f"3999 {place}"),
    ):
        assert redirection(error) == (kind == "MOVED", address)
        assert is_from_cluster(error)
        assert is_in_transit(error) == is_unready(error) == (kind == "ASK")
        assert not is_refusal(error)
        assert describe(error) == (
            "it is a node of a Redis Cluster; write cluster=[...] instead of "
            f"hosts=[...] ({error})"
        )


@pytest.mark.parametrize(
    "error",
    [
        RedisUnavailable("MOVED 5 b:7000"),
        ResponseError("WRONGTYPE Operation against a key"),
        ResponseError("5 b:7000"),
        ResponseError("MOVED"),
    ],
    ids=repr,
)
def test_what_is_no_redirection(error: Exception) -> None:
    assert redirection(error) is None
    assert not is_in_transit(error)
    assert not is_unready(error)


@pytest.mark.parametrize(
    ("text", "in_transit"),
    [
        ("TRYAGAIN Multiple keys request during rehashing of slot", True),
        ("ERR Script attempted to access a non local key in a cluster node", True),
        (
            (
                "ERR Error running script (call to f_1): @user_script:5: "
                "@user_script: 5: Script attempted to access a non local key in a "
                "cluster node"
            ),
            True,
        ),
        ("CLUSTERDOWN Hash slot not served", False),
        ("CLUSTERDOWN The cluster is down", False),
        ("LOADING Redis is loading the dataset in memory", False),
    ],
)
def test_what_a_cluster_is_not_ready_for(text: str, *, in_transit: bool) -> None:
    """It is ready in a moment, in the form of any release of redis-py."""
    for error in (parsed(text), *([ResponseError(text)] * (text[:7] != "LOADING"))):
        assert is_unready(error)
        assert is_in_transit(error) == in_transit
        assert redirection(error) is None


@pytest.mark.parametrize(
    "text",
    [
        "CROSSSLOT Keys in request don't hash to the same slot",
        "ERR Script attempted to access keys that do not hash to the same slot",
        "ERR Script attempted to access a non local key in a cluster node",
    ],
)
def test_what_works_on_a_single_server_only(text: str) -> None:
    """It shows that a server is a node of a cluster."""
    error = parsed(text)
    assert is_from_cluster(error)
    assert "write cluster=[...] instead of hosts=[...]" in describe(error)
    # The same text in another error says nothing about the server.
    assert not is_from_cluster(RedisUnavailable(text))
    assert describe(RedisUnavailable(text)) == text


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("123456789", 12739),
        ("asgi{17}", 12304),
        ("asgi{17}:group:x", 12304),
        ("é", 10180),
    ],
)
def test_the_slot_of_a_key(key: str, slot: int) -> None:
    """It is that of the hash tag, if there is one."""
    assert slot_of(key) == slot
