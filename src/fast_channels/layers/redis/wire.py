"""What the layers use of redis-py, typed, with every option set.

redis-py opens connections, authenticates, and parses replies. No other module imports
it, except ``utils``, whose functions from release 1 return objects of redis-py.

redis-py's defaults differ between releases: 8.0 introduced a timeout for every read,
RESP3, and automatic retries of commands that may already have been executed. Every
option that matters is therefore set here.
"""

import asyncio
import functools
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, cast

from redis import exceptions
from redis.asyncio import connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AuthenticationError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from .hosts import Host

__all__ = [
    "WRITE_CLUSTER",
    "Address",
    "AuthenticationError",
    "Connection",
    "MasterDownError",
    "NoPermissionError",
    "NoScriptError",
    "ReadOnlyError",
    "RedisConnectionError",
    "RedisError",
    "Reply",
    "ResponseError",
    "Word",
    "ask",
    "connection_options",
    "describe",
    "is_cluster_node",
    "is_from_cluster",
    "is_in_transit",
    "is_refusal",
    "is_replica",
    "is_unready",
    "located_connection",
    "moved_slot",
    "pack",
    "plain_connection",
    "redirection",
    "slot_of",
    "starting_with",
    "stream_of",
]

Address: TypeAlias = tuple[str, int]
"""A host and a port."""

Reply: TypeAlias = Any
"""A parsed reply; the code that sent the command knows its shape."""

Word: TypeAlias = str | bytes | float
"""A part of a command."""

# Seconds to wait for a server to accept a connection, by default.
_CONNECT_TIMEOUT = 5.0
# Seconds without traffic before TCP probes a connection, unless the user sets
# health_check_interval: firewalls and load balancers silently drop idle connections
# after a minute or more. A dead connection is closed after it has missed all probes.
_IDLE = 30
_PROBES = {"TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
# Values of ssl_cert_reqs that turn off the verification of certificates.
_UNCHECKED = ("none", ssl.CERT_NONE)
# redis-py's description of itself for the server. Later releases read their version
# from a file for each connection that lacks it, which blocks the event loop.
_DRIVER = {
    name: value
    for name, value in vars(redis_connection.Connection()).items()
    if name == "driver_info"
}


class Connection(Protocol):
    """A connection to Redis, Sentinel or a compatible server."""

    @property
    def is_connected(self) -> bool:
        """Whether the server has accepted, even if authentication goes on."""
        ...

    async def connect(self) -> None:
        """Connect and authenticate."""

    async def disconnect(self, nowait: bool) -> None:
        """Close; ``nowait``, always True, means not to wait for the transport."""

    async def send_packed_command(self, command: bytes, check_health: bool) -> None:
        """Send the bytes of commands; ``check_health`` is always False."""

    async def read_response(self, *, disconnect_on_error: bool) -> Reply:
        """Return the next reply; ``disconnect_on_error`` is always False."""


async def ask(connection: Connection, *words: Word) -> Reply:
    """Send a command and return the reply.

    Raises:
        ResponseError: The reply is an error.
    """
    await connection.send_packed_command(pack(words), check_health=False)
    return await connection.read_response(disconnect_on_error=False)


def stream_of(connection: Connection) -> asyncio.StreamReader:
    """Return the stream that an open connection reads from."""
    # The attribute is private, and has had this name since redis-py 5.
    stream = getattr(connection, "_reader", None)
    assert isinstance(stream, asyncio.StreamReader), (
        f"a {type(connection).__name__} has no stream: it is not open, or this "
        "release of redis-py keeps it elsewhere"
    )
    return stream


# Connections


def plain_connection(host: Host) -> Connection:
    """Return a connection to a TCP port or a Unix socket, not open yet."""
    options = connection_options(host)
    if host.kind == "unix":
        return redis_connection.UnixDomainSocketConnection(**options)
    kind = redis_connection.SSLConnection if host.tls else redis_connection.Connection
    return kind(**options)


def located_connection(
    host: Host,
    locate: Callable[[], Awaitable[Address]],
    verify: Callable[[Connection, Address], Awaitable[None]],
) -> Connection:
    """Return a connection to an address that is looked up when it connects.

    Args:
        host: Has the options, but no address.
        locate: Returns the address.
        verify: Called with the open connection, which is closed if it raises.
    """
    kind = _LocatedSSLConnection if host.tls else _LocatedConnection
    return kind(locate, verify, connection_options(host))


class _Located(redis_connection.AbstractConnection):
    def __init__(
        self,
        locate: Callable[[], Awaitable[Address]],
        verify: Callable[[Connection, Address], Awaitable[None]],
        options: dict[str, Any],
    ) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType] # redis-py leaves it untyped
        self._locate = locate
        self._verify = verify

    async def connect(self) -> None:
        self.host, self.port = await self._locate()
        await super().connect()  # type: ignore[no-untyped-call] # as above
        try:
            await self._verify(self, (self.host, self.port))
        except BaseException:
            await self.disconnect(nowait=True)
            raise


class _LocatedConnection(_Located, redis_connection.Connection):
    pass


class _LocatedSSLConnection(_Located, redis_connection.SSLConnection):
    pass


def connection_options(host: Host) -> dict[str, Any]:
    """Return the arguments for redis-py's connection to a host."""
    # redis-py 5 does not check host names in certificates by default.
    checks: dict[str, Any] = {}
    if host.tls and host.options.get("ssl_cert_reqs") not in _UNCHECKED:
        checks["ssl_check_hostname"] = True
    options = dict(host.options)
    idle = options.pop("health_check_interval", _IDLE)
    probes: dict[str, Any] = {}
    if host.kind != "unix":
        probes["socket_keepalive"] = idle > 0
        probes["socket_keepalive_options"] = _probes(idle)
    return {
        **_DRIVER,
        **checks,
        **probes,
        "socket_connect_timeout": _CONNECT_TIMEOUT,
        **options,
        "redis_connect_func": functools.partial(
            _greet, options.get("redis_connect_func")
        ),
        # RESP2 is cheaper to parse than RESP3, and every server supports it.
        "protocol": 2,
        "decode_responses": False,
        # A read can wait any length of time for a message. Code that waits for a reply
        # has its own timeout.
        "socket_timeout": None,
        "health_check_interval": 0,
        # No retries: the layers know which commands can be sent again, and when.
        "retry": Retry(NoBackoff(), 0),
    }


async def _greet(
    own: Callable[[redis_connection.AbstractConnection], Awaitable[None] | None] | None,
    connection: redis_connection.AbstractConnection,
) -> None:
    """Authenticate and set up a connection; keep the password out of errors.

    A server without the command AUTH quotes its arguments in the error.

    Args:
        own: The user's ``redis_connect_func``, called instead of redis-py's own.
        connection: The connection.
    """
    try:
        greeting = connection.on_connect() if own is None else own(connection)
        if greeting is not None:
            await greeting
    except ResponseError as exc:
        exc.args = tuple(map(_without_arguments, exc.args))
        raise


def _without_arguments(text: object) -> object:
    return re.sub(r",? with args .*", "", text) if isinstance(text, str) else text


def _probes(idle: int) -> dict[int, int]:
    """Return the socket options that control when TCP sends probes."""
    # TCP_KEEPIDLE is for Linux and Windows, TCP_KEEPALIVE for macOS.
    names = {"TCP_KEEPIDLE": idle, "TCP_KEEPALIVE": idle, **_PROBES}
    return {
        getattr(socket, name): value
        for name, value in names.items()
        if hasattr(socket, name)
    }


# Commands

Pack: TypeAlias = Callable[[tuple[Word, ...]], bytes]

_packer = redis_connection.Connection()


def _pack_in_python(command: tuple[Word, ...]) -> bytes:
    return b"".join(_packer.pack_command(*command))


try:
    # Several times faster. redis-py uses it for blocking connections only.
    import hiredis

    _pack = cast("Pack", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType] # its stub says Tuple
except ImportError:
    _pack = _pack_in_python

pack: Pack = _pack
"""Function that encodes a command."""

# Characters with a special meaning in a pattern.
_WILD = re.compile(r"([*?\[\]\\^-])")


def starting_with(prefix: str) -> str:
    """Return the pattern of ``SCAN`` and ``PSUBSCRIBE`` for names with this prefix."""
    return _WILD.sub(r"\\\1", prefix) + "*"


def slot_of(key: str) -> int:
    """Return the slot of a key in a Redis Cluster."""
    return key_slot(key.encode())


# Errors

# Redis refuses commands for many reasons: too few replicas, a full disk, no memory, a
# script that runs too long, a restart, an access list. Each reason has its own error
# code, and ends when an operator has dealt with it.
_WRONG_LOGIN = (AuthenticationError, exceptions.AuthenticationWrongNumberOfArgsError)
# redis-py has classes for some codes and removes those codes from the text.
_REFUSALS = (
    *_WRONG_LOGIN,
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,
    MasterDownError,
    NoPermissionError,
    exceptions.OutOfMemoryError,
    ReadOnlyError,
    exceptions.TryAgainError,
)
# Other codes are in the text: at its start, or, for an error inside a script before
# Redis 7, after a "-". Redis 7 words ACL refusals inside a script differently.
_CODES = re.compile(
    r"(?:^|-)(?:BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOPERM|NOREPLICAS|"
    r"OOM|READONLY|TRYAGAIN|UNKILLABLE|WRONGPASS)\b"
    r"|can't access at least one of the keys|max number of clients reached"
    r"|No permissions to access a key"
)


def is_refusal(error: BaseException) -> bool:
    """Return whether Redis refused a command for a temporary reason.

    Trying again later can succeed; trying again at once cannot. False for errors that
    need a change of our code or of the data: a key of the wrong type, a script that
    Redis does not know.
    """
    return isinstance(error, _REFUSALS) or (
        isinstance(error, ResponseError) and _CODES.search(str(error)) is not None
    )


# A node of a cluster names the node to ask instead; before redis-py 6, only some of its
# connections have classes for that. The host is missing, or "?", if it is not known.
_REDIRECTION = re.compile(r"(MOVED |ASK )?\d+ \??(.*):(\d+)")
# Errors about what works on a single server.
_ONLY_IN_CLUSTERS = re.compile("hash to the same slot|access a non local key")
# How scripts fail while the keys that they use are being moved.
_TRANSIT = re.compile("^TRYAGAIN |access a non local key")
_UNREADY = (exceptions.ClusterDownError, exceptions.BusyLoadingError)


def redirection(error: BaseException) -> tuple[bool, Address] | None:
    """Return the node of a cluster that an error refers to; None for other errors.

    Returns:
        Whether the slot has moved there, rather than being about to; and the address,
        whose host is empty if it is that of the node that was asked.
    """
    found = _REDIRECTION.fullmatch(str(error))
    if found is None or not isinstance(error, ResponseError):
        return None
    code, host, port = found.groups()
    if code is None and not isinstance(error, exceptions.AskError):
        return None
    moved = code == "MOVED " or isinstance(error, exceptions.MovedError)
    return moved, (host, int(port))


def moved_slot(error: BaseException) -> int | None:
    """Return the slot that has moved to another node; None for other errors."""
    redirected = redirection(error)
    if redirected is None or not redirected[0]:
        return None
    return int(str(error).removeprefix("MOVED ").partition(" ")[0])


def is_from_cluster(error: BaseException) -> bool:
    """Return whether an error shows that a server is a node of a Redis Cluster."""
    return redirection(error) is not None or (
        isinstance(error, ResponseError)
        and _ONLY_IN_CLUSTERS.search(str(error)) is not None
    )


def is_unready(error: BaseException) -> bool:
    """Return whether a node of a cluster has refused a command that it will accept.

    The cluster elects a master, or a master reads its data from disk.
    """
    down = isinstance(error, _UNREADY) or str(error).startswith("CLUSTERDOWN ")
    return down or is_in_transit(error)


def is_in_transit(error: BaseException) -> bool:
    """Return whether a slot is being moved to another node, which takes a moment."""
    if isinstance(error, exceptions.TryAgainError) or _TRANSIT.search(str(error)):
        return True
    redirected = redirection(error)
    return redirected is not None and not redirected[0]


WRITE_CLUSTER: str = (
    "it is a node of a Redis Cluster; write cluster=[...] instead of hosts=[...]"
)
"""What is wrong with a host that is a node of a cluster."""


def is_cluster_node(hello: Reply) -> bool:
    """Return whether a server has answered HELLO like a node of a Redis Cluster."""
    return isinstance(hello, list) and b"cluster" in hello


def is_replica(hello: Reply) -> bool:
    """Return whether a server has answered HELLO like a replica."""
    return isinstance(hello, list) and b"replica" in hello


def describe(error: BaseException) -> str:
    """Return the text of a failure for logs and errors, never empty."""
    text = str(error)
    if is_from_cluster(error):
        return f"{WRITE_CLUSTER} ({text})"
    if isinstance(error, _WRONG_LOGIN):
        return f"it refuses the username or the password ({text})"
    if isinstance(error, TimeoutError) and not text:
        return "it did not reply in time"
    return text or type(error).__name__
