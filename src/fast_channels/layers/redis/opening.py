"""How a connection of redis-py is made: with the user's options, and with ours.

redis-py's defaults differ between its releases: 8.0 brought a timeout for every read,
RESP3, and commands that are sent again when nobody knows whether they were carried out.
Whatever matters is therefore set here.
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

# For how many seconds to wait until a server accepts, unless the user says otherwise.
_CONNECT_TIMEOUT = 5.0
# Seconds without traffic after which TCP probes a connection, unless the user gives a
# health_check_interval: firewalls and load balancers drop idle connections without a
# word after a minute or more. A dead one is closed when it has missed all the probes.
_IDLE = 30
_PROBES = {"TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
# What users write so that no certificate is looked at.
_UNCHECKED = ("none", ssl.CERT_NONE)
# What redis-py tells the server about itself. Its later releases read their version
# from a file for each connection that is not given this, and block the event loop.
_DRIVER = {
    name: value for name, value in vars(Connection()).items() if name == "driver_info"
}


def plain_connection(host: Host) -> AbstractConnection:
    """Return a connection to a TCP port or a Unix socket, which is not open yet."""
    options = connection_options(host)
    if host.kind == "unix":
        return UnixDomainSocketConnection(**options)
    return (SSLConnection if host.tls else Connection)(**options)


def connection_options(host: Host) -> dict[str, Any]:
    """Return the arguments for redis-py's connection to a host."""
    # redis-py 5 would not look whose certificate it is.
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
        # Cheaper to read than RESP3, and what every server speaks.
        "protocol": 2,
        "decode_responses": False,
        # A read may wait for a message for as long as it takes. Whoever waits for a
        # reply has a timeout of its own.
        "socket_timeout": None,
        "health_check_interval": 0,
        # Once is enough: the layers know what may be sent again, and when.
        "retry": Retry(NoBackoff(), 0),
    }


async def _greet(
    own: Callable[[AbstractConnection], Awaitable[None] | None] | None,
    connection: AbstractConnection,
) -> None:
    """Log in, and do what else comes first, without an error that holds the password.

    A server that does not know the command AUTH quotes its arguments.

    Args:
        own: What the user wants done instead of what redis-py does.
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
    """Return the options of a socket that say when TCP probes it."""
    # Linux and Windows, or macOS.
    names = {"TCP_KEEPIDLE": idle, "TCP_KEEPALIVE": idle, **_PROBES}
    return {
        getattr(socket, name): value
        for name, value in names.items()
        if hasattr(socket, name)
    }
