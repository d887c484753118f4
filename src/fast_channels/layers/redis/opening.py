"""Creates redis-py connections from the user's options and ours.

redis-py's defaults differ between releases: 8.0 introduced a timeout for every read,
RESP3, and automatic retries of commands that may already have been executed. Every
option that matters is therefore set here.
"""

import functools
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from .hosts import Host

__all__ = ["connection_options", "plain_connection"]

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
    name: value for name, value in vars(Connection()).items() if name == "driver_info"
}


def plain_connection(host: Host) -> AbstractConnection:
    """Return a connection to a TCP port or a Unix socket, not open yet."""
    options = connection_options(host)
    if host.kind == "unix":
        return UnixDomainSocketConnection(**options)
    return (SSLConnection if host.tls else Connection)(**options)


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
    own: Callable[[AbstractConnection], Awaitable[None] | None] | None,
    connection: AbstractConnection,
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
