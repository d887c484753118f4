"""The checks of the options of a host, whose errors show no password."""

import ipaddress
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from fast_channels.layers.options import is_int, is_number

from .redaction import redacted

__all__ = [
    "Options",
    "require_dict",
    "require_host",
    "require_int",
    "require_list",
    "split_options",
]

Options: TypeAlias = dict[str, Any]
"""Arguments of redis-py, by name."""

# Arguments that the layers set: other values would break their use of connections.
_DROPPED = frozenset(
    {
        "auto_close_connection_pool",
        "decode_responses",
        "encoding",
        "encoding_errors",
        "legacy_responses",
        "max_connections",
        "protocol",
        "single_connection_client",
        "timeout",
    }
)
# Maximum seconds on Linux until TCP probes an idle connection.
_LONGEST_PAUSE = 32767


def split_options(options: Options, shown: str) -> tuple[Options, bool, float | None]:
    """Return redis-py's options, whether to use TLS, and the timeout of commands.

    Args:
        options: All options of a host but its place; changed.
        shown: The host as errors show it, without a password.
    """
    tls = bool(options.pop("ssl", False))
    command_timeout = _require_timeout(options.pop("socket_timeout", None), shown)
    kept = {
        name: value
        for name, value in options.items()
        if name not in _DROPPED and not name.startswith("retry")
    }
    kept["db"] = require_int("db", kept.get("db", 0), 0, math.inf, shown)
    if (name := "health_check_interval") in kept:
        kept[name] = require_int(name, kept[name], 0, _LONGEST_PAUSE, shown)
    for name in ("username", "password"):
        if not kept.get(name):
            kept.pop(name, None)
        else:
            _require_encodable(name, kept[name], shown)
    for name in kept:
        if name in {"connection_class", "connection_pool"}:
            raise ValueError(
                f"{shown} has {name!r}, which the layer chooses; for TLS write "
                'rediss:// or "ssl": True, for a Unix socket unix:// or "path"'
            )
        if name.startswith("ssl_") and not tls:
            raise ValueError(
                f"{shown} has {name!r} but no TLS; write rediss:// or "
                '"ssl": True for TLS, or leave it out'
            )
    return kept, tls, command_timeout


def require_list(name: str, value: object) -> Sequence[object]:
    """Return a list of hosts or Sentinels; raise unless it has at least one."""
    example = '[("host", 26379)]' if name == "sentinels" else '["redis://host:6379"]'
    if not isinstance(value, list | tuple):
        raise TypeError(
            f"{name} must be a list, not {redacted(value)}; write {example}"
        )
    if not value:
        raise ValueError(f"{name} must not be empty; write {example}, or leave it out")
    return cast("Sequence[object]", value)


def require_dict(name: str, value: object) -> Options:
    """Return a copy of a dict of arguments; raise unless its keys are str."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, not {redacted(value)}")
    arguments = cast("Mapping[object, Any]", value)
    for key in arguments:
        if not isinstance(key, str):
            raise TypeError(
                f"the keys of {name} must be str, names of redis-py's arguments; not "
                f"{redacted(key)}"
            )
    return dict(cast("Mapping[str, Any]", arguments))


def require_host(value: object, shown: str) -> str:
    """Return the name or the address of a host; raise unless it is one alone.

    Args:
        value: The value.
        shown: The host as errors show it, without a password.
    """
    if not isinstance(value, str) or not value:
        raise TypeError(f"the host of {shown} must be a str, and not empty")
    if "://" in value:
        raise ValueError(
            f"the host of {shown} must be a name or an address; write a URL as it is, "
            'or as "address" of a dict'
        )
    if not value.isprintable() or {*"@/?# "} & {*value} or not _is_address(value):
        raise ValueError(
            f"the host of {shown} must be a name or an address alone; a password goes "
            'into a URL, redis://user:password@host:6379, or is "password" of a dict'
        )
    return value


def _is_address(value: str) -> bool:
    """Return whether a host has no colon, or is an IPv6 address."""
    try:
        return ":" not in value or bool(ipaddress.IPv6Address(value))
    except ValueError:
        return False


def _require_encodable(name: str, value: object, shown: str) -> None:
    """Refuse a value that redis-py would refuse later, with an error that shows it."""
    if isinstance(value, str) and value != value.encode(errors="replace").decode():
        raise ValueError(f"the {name} of {shown} cannot be encoded")


def require_int(name: str, value: object, low: int, high: float, shown: str) -> int:
    """Return an int, given as one or as a str of digits; raise if it is out of range.

    Args:
        name: The name of the option.
        value: Its value.
        low: The lowest valid value.
        high: The highest valid value.
        shown: The host as errors show it, without a password.
    """
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not is_int(value):
        # A str is not shown, since it may be a password in the place of a port.
        found = "a str" if isinstance(value, str) else redacted(value)
        raise TypeError(f"the {name} of {shown} must be an int, not {found}")
    if not low <= value <= high:
        raise ValueError(f"the {name} of {shown} must not be {value}")
    return value


def _require_timeout(value: object, shown: str) -> float | None:
    if value is None:
        return None
    if not is_number(value):
        # As with a port.
        found = "a str" if isinstance(value, str) else redacted(value)
        raise TypeError(
            f"socket_timeout of {shown} must be a number or None, not {found}"
        )
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not 0 < seconds < math.inf:
        raise ValueError(
            f"socket_timeout of {shown} must be positive and finite, not {seconds!r}; "
            "None is no limit"
        )
    return seconds
