"""The URLs of Redis: their parts, as redis-py's arguments.

No error shows a password.
"""

import contextlib
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from .host_options import Options

__all__ = ["parse_url"]

# Valkey's own schemes for what is the same protocol.
_ALIASES = {"valkey": "redis", "valkeys": "rediss"}
_FALSE = frozenset({"0", "F", "FALSE", "N", "NO"})


def _is_true(value: str) -> bool:
    return value.upper() not in _FALSE


# How redis-py converts its arguments in a query; all others stay str.
_TYPES: Mapping[str, Callable[[str], float | bool]] = {
    **dict.fromkeys(("db", "socket_read_size", "ssl_min_version"), int),
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout"), float),
    **dict.fromkeys(("socket_keepalive", "ssl", "ssl_check_hostname"), _is_true),
}

_ENCODE = (
    "check what follows its host, and percent-encode the characters / ? # @ % : [ ] "
    "of a password or a path"
)


def parse_url(url: str, shown: str) -> Options:
    """Return the options that a URL has.

    Args:
        url: The URL.
        shown: The URL as errors show it, without a password.
    """
    scheme, mark, _ = url.partition("://")
    scheme = _ALIASES.get(scheme.lower(), scheme.lower())
    if not mark or scheme not in {"redis", "rediss", "unix"}:
        # The str is not shown, since it may be a password in the wrong place.
        raise ValueError(
            "a str that begins with another scheme, or none, is not a host; write "
            "redis://host:6379, rediss://host:6379 for TLS, or unix:///path/to/socket"
        )
    parts, query = _split_url(url, shown)
    place = _socket_of if scheme == "unix" else _address_of
    options = {**place(parts, shown), **_typed(query, shown)}
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    if scheme == "rediss":
        options["ssl"] = True
    return options


def _split_url(url: str, shown: str) -> tuple[SplitResult, dict[str, str]]:
    """Return the parts of a URL, and its query."""
    # The parser's errors quote the password, so the new error must not refer to them.
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        _ = parts.port
        # Strict, since a field without "=" is the end of a password with a "?" in it.
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
        # Otherwise the URL was split within a password, whose end would be the place.
        if not parts.fragment and "@" not in parts.path + parts.query:
            return parts, {name: values[0] for name, values in query.items()}
    raise ValueError(f"{shown} is not a valid URL; {_ENCODE}")


def _socket_of(parts: SplitResult, shown: str) -> Options:
    if parts.hostname:
        raise ValueError(
            f"{shown} has a host where a path should begin; write unix:///path, with "
            "three slashes"
        )
    return {"path": unquote(parts.path)}


def _address_of(parts: SplitResult, shown: str) -> Options:
    address: Options = {}
    if parts.hostname:
        address["host"] = unquote(parts.hostname)
    if parts.port is not None:
        address["port"] = parts.port
    if db := unquote(parts.path).strip("/"):
        if not db.isdecimal():
            raise ValueError(
                f"{shown} has a path that is not the number of a db; {_ENCODE}"
            )
        address["db"] = int(db)
    return address


def _typed(query: Mapping[str, str], shown: str) -> Options:
    """Return the arguments of a URL's query, converted as redis-py does."""
    options: Options = dict(query)
    for name, value in query.items():
        if kind := _TYPES.get(name):
            with contextlib.suppress(ValueError):
                options[name] = kind(value)
                continue
            # The value is not shown, since it may contain the rest of the query.
            raise ValueError(f"{name} of {shown} must be a number")
    return options
