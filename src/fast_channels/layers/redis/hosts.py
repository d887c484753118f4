"""The hosts of Redis: every accepted spelling is parsed into a ``Host``.

A host can be written as

* a URL: ``redis://user:password@host:6379/0``, ``rediss://`` for TLS, ``unix://`` and a
  path for a socket; the query can have arguments of redis-py. ``valkey://`` and
  ``valkeys://`` mean the same;
* a pair: ``("host", 6379)``;
* a dict of redis-py's arguments: ``{"host": "host", "port": 6379, "db": 0}``, or
  ``{"address": url}`` with more arguments;
* a dict for a master that Sentinel watches:
  ``{"sentinels": [("host", 26379)], "master_name": "name"}``, which can also have
  arguments for the master, and arguments for the Sentinels in ``"sentinel_kwargs"``.

This module does not import redis-py, which is needed only to open connections. No error
and no ``repr`` here shows a password.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, cast

from .host_options import (
    Options,
    require_dict,
    require_host,
    require_int,
    require_list,
    split_options,
)
from .host_urls import parse_url
from .redaction import redacted, redacted_url

__all__ = ["Host", "HostSpelling", "parse_hosts"]

HostSpelling: TypeAlias = str | Sequence[Any] | Mapping[str, Any]
"""Any accepted spelling of a host."""

_REDIS_PORT = 6379
_SENTINEL_PORT = 26379


# Arguments for the place of one host, which connection_kwargs cannot have.
_PLACES = frozenset(
    {"address", "host", "master_name", "path", "port", "sentinels", "unix_socket_path"}
)
# Arguments that redis-py refuses for Unix sockets.
_TCP_ONLY = frozenset(
    {
        "health_check_interval",
        "socket_keepalive",
        "socket_keepalive_options",
        "socket_type",
    }
)


@dataclass(frozen=True, repr=False)
class Host:
    """The place of a Redis server; two spellings of one place are equal."""

    kind: Literal["tcp", "unix", "sentinel", "cluster"]
    """What to connect to: a TCP port, a Unix socket, the master that Sentinels name, or
    the nodes of a cluster."""
    options: Mapping[str, Any] = field(hash=False)
    """The arguments for redis-py's ``Connection``.

    Always with ``db``, for TCP also with ``host`` and ``port``, for a Unix socket with
    ``path``; never with arguments that the layers set, such as the timeout of reads.
    """
    tls: bool = False
    """Whether the connection is encrypted."""
    command_timeout: float | None = None
    """Maximum seconds for a command: the user's ``socket_timeout``.

    It is not among the options, since it must never end a read that waits for messages.
    """
    master_name: str | None = None
    """Sentinel's name for the master."""
    sentinels: "tuple[Host, ...]" = ()
    """The Sentinels to ask, each with the options for connecting to it."""
    nodes: "tuple[Host, ...]" = ()
    """Nodes of the cluster to ask for the others, which share the options of this."""

    def at(self, address: tuple[str, int]) -> "Host":
        """Return the host with the same options at a TCP port."""
        options = {**self.options, "host": address[0], "port": address[1]}
        return Host("tcp", MappingProxyType(options), self.tls, self.command_timeout)

    def __str__(self) -> str:
        username = self.options.get("username", "")
        # redis-py accepts bytes too.
        user = username if isinstance(username, str) else "***"
        password = ":***" if "password" in self.options else ""
        login = f"{user}{password}@" if user or password else ""
        secure = "s" if self.tls else ""
        db = self.options["db"]
        if self.kind == "unix":
            return f"unix://{login}{self.options['path']}?db={db}"
        if self.kind == "tcp":
            return f"redis{secure}://{login}{_netloc(self)}/{db}"
        if self.kind == "cluster":
            nodes = ",".join(map(_netloc, self.nodes))
            return f"cluster redis{secure}://{login}{nodes}"
        sentinels = ",".join(map(_netloc, self.sentinels))
        return f"sentinel{secure}://{login}{sentinels}/{self.master_name}?db={db}"

    def __repr__(self) -> str:
        return f"<Host {self}>"


def parse_hosts(
    hosts: Sequence[HostSpelling] | None,
    *,
    sentinels: Sequence[HostSpelling] | None = None,
    service_name: str | None = None,
    sentinel_kwargs: Mapping[str, Any] | None = None,
    connection_kwargs: Mapping[str, Any] | None = None,
    cluster: Sequence[HostSpelling] | None = None,
) -> tuple[Host, ...]:
    """Return the hosts that the arguments of a layer describe.

    Args:
        hosts: Addresses of Redis, in any accepted spelling; by default this machine.
        sentinels: Sentinels to ask for the address of Redis, instead of ``hosts``.
        service_name: Name of the Redis service that these Sentinels monitor.
        sentinel_kwargs: redis-py's arguments for connections to these Sentinels.
        connection_kwargs: redis-py's arguments for connections to all hosts; a host's
            own arguments take precedence.
        cluster: Some nodes of a Redis Cluster, instead of ``hosts``. The user, the
            password and all other arguments of the first one are used for every node.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is invalid, or conflicts with another one.
    """
    shared = require_dict(
        "connection_kwargs", {} if connection_kwargs is None else connection_kwargs
    )
    if misplaced := sorted(_PLACES & shared.keys()):
        raise ValueError(
            f"connection_kwargs are for all hosts and cannot have {misplaced[0]!r}; "
            "write that into hosts"
        )
    if cluster is not None:
        others = {
            "hosts": hosts,
            "sentinels": sentinels,
            "service_name": service_name,
            "sentinel_kwargs": sentinel_kwargs,
        }
        for name, value in others.items():
            if value is not None:
                raise ValueError(
                    f"cluster= and {name}= cannot be given both; write cluster= alone, "
                    'with some nodes of one Redis Cluster: ["redis://node:6379"]'
                )
        return (_cluster_host(cluster, shared),)
    if sentinels is None and service_name is None:
        if sentinel_kwargs is not None:
            raise ValueError(
                "sentinel_kwargs are for sentinels=; a host of hosts= has its own, in "
                "its dict"
            )
        localhost = [("localhost", _REDIS_PORT)]
        spellings = require_list("hosts", localhost if hosts is None else hosts)
        return tuple(_parse_host(spelling, shared) for spelling in spellings)
    if hosts is not None:
        raise ValueError(
            "hosts= and sentinels= cannot be given both; for several masters, put "
            'dicts into hosts: {"sentinels": [...], "master_name": "name"}'
        )
    keywords = {
        "sentinels": sentinels,
        "master_name": service_name,
        "sentinel_kwargs": sentinel_kwargs,
    }
    return (_sentinel_host(keywords, shared, name="service_name"),)


def _parse_host(
    spelling: object, shared: Mapping[str, Any], port: int = _REDIS_PORT
) -> Host:
    """Return the host that one spelling describes."""
    if isinstance(spelling, str):
        return _url_host(spelling, shared, port)
    if isinstance(spelling, Mapping):
        own = require_dict("a host", cast("object", spelling))
        if "sentinels" in own or "master_name" in own:
            return _sentinel_host(own, shared)
        if "address" in own:
            address = own.pop("address")
            if not isinstance(address, str):
                raise TypeError(
                    f"the address of a host must be a URL, not {redacted(address)}"
                )
            # As in redis-py, the URL takes precedence over the other arguments.
            return _url_host(address, {**shared, **own}, port)
        return _make_host({**shared, **own}, port, shown=redacted(own))
    if isinstance(spelling, list | tuple):
        pair = spelling = cast("Sequence[object]", spelling)
        if len(pair) == 2:  # noqa: PLR2004 # host and port
            place = {"host": pair[0], "port": pair[1]}
            return _make_host({**shared, **place}, port, shown=redacted(pair))
    raise TypeError(
        f"{redacted(spelling)} is not a host; write "
        '"redis://host:6379", ("host", 6379) or {"host": "host", "port": 6379}'
    )


def _cluster_host(spellings: object, shared: Mapping[str, Any]) -> Host:
    """Return the host that stands for all nodes of a cluster."""
    nodes = tuple(
        _parse_host(spelling, shared) for spelling in require_list("cluster", spellings)
    )
    for node in nodes:
        if node.kind != "tcp":
            raise ValueError(
                f"{node} is not a node of a cluster; write redis://node:6379"
            )
        if node.options["db"]:
            raise ValueError(
                f"{node} has a db, but a Redis Cluster has only db 0; leave it out"
            )
    first = nodes[0]
    options = {k: v for k, v in first.options.items() if k not in {"host", "port"}}
    return Host(
        kind="cluster",
        options=MappingProxyType(options),
        tls=first.tls,
        command_timeout=first.command_timeout,
        nodes=tuple(
            first.at((node.options["host"], node.options["port"])) for node in nodes
        ),
    )


def _sentinel_host(
    own: Mapping[str, Any], shared: Mapping[str, Any], name: str = "master_name"
) -> Host:
    """Return the host of a master that Sentinels watch."""
    options = {**shared, **own}
    master_name = options.pop("master_name", None)
    sentinels = options.pop("sentinels", None)
    sentinel_kwargs = options.pop("sentinel_kwargs", None)
    if not isinstance(master_name, str) or not master_name:
        raise TypeError(
            f"sentinels need {name}, their name for the master, as a str; not "
            f"{redacted(master_name)}"
        )
    if sentinels is None:
        raise TypeError(
            f"{name} {redacted(master_name)} needs sentinels to ask: "
            '[("host", 26379), ...]'
        )
    if sentinel_kwargs is None:
        # As in redis-py, the socket options of the master apply to the Sentinels too.
        to_sentinels = {k: v for k, v in options.items() if k.startswith("socket_")}
    else:
        to_sentinels = require_dict("sentinel_kwargs", sentinel_kwargs)
    if misplaced := sorted(_PLACES & options.keys()):
        raise ValueError(
            f"master {redacted(master_name)} cannot have {misplaced[0]!r}: sentinels "
            "provide its address"
        )
    options, tls, command_timeout = split_options(
        options, shown=f"master {redacted(master_name)}"
    )
    return Host(
        kind="sentinel",
        options=MappingProxyType(options),
        tls=tls,
        command_timeout=command_timeout,
        master_name=master_name,
        sentinels=tuple(
            _parse_sentinel(sentinel, to_sentinels)
            for sentinel in require_list("sentinels", sentinels)
        ),
    )


def _parse_sentinel(spelling: object, shared: Mapping[str, Any]) -> Host:
    host = _parse_host(spelling, shared, _SENTINEL_PORT)
    if host.kind != "tcp":
        raise ValueError(f'{host} is not a sentinel; write ("host", {_SENTINEL_PORT})')
    return host


def _url_host(url: str, beside: Mapping[str, Any], port: int) -> Host:
    """Return the host of a URL, which takes precedence over the other options."""
    shown = repr(redacted_url(url))
    return _make_host({**beside, **parse_url(url, shown)}, port, shown)


def _make_host(options: Options, port: int, shown: str) -> Host:
    """Return the host of these options, reached by TCP or by a Unix socket."""
    path = options.pop("unix_socket_path", None) or options.pop("path", None)
    if path is None:
        options["host"] = require_host(options.get("host", "localhost"), shown)
        options["port"] = require_int(
            "port", options.get("port", port), 1, 65535, shown
        )
        options, tls, command_timeout = split_options(options, shown)
        return Host("tcp", MappingProxyType(options), tls, command_timeout)
    if not isinstance(path, str) or not path:
        raise TypeError(f"the path of {shown} must be a str, and not empty")
    if "host" in options or "port" in options:
        raise ValueError(f"{shown} has a path and a host or port; leave one out")
    options, tls, command_timeout = split_options(options, shown)
    if tls:
        raise ValueError(f"{shown} has a path and TLS; Unix sockets have no TLS")
    options = {k: v for k, v in options.items() if k not in _TCP_ONLY}
    return Host(
        "unix", MappingProxyType({**options, "path": path}), tls, command_timeout
    )


def _netloc(host: Host) -> str:
    name, port = host.options["host"], host.options["port"]
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
