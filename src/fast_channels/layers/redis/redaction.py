"""What errors may show of a value in which a password can be anywhere.

A password that a user has written in the wrong place, or without the encoding that it
needs there, must not reach a log. Errors therefore show what is certain to be a place:
the host, the port, the path of a socket. Everything else becomes ``***`` or ``...``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

__all__ = ["redacted", "redacted_url"]

# Arguments of redis-py whose values say where a host is, or are no secret anyway.
_SHOWN = frozenset(
    {"address", "host", "master_name", "path", "sentinels", "ssl", "unix_socket_path"}
)
_NUMBERS = frozenset({"db", "port", "socket_connect_timeout", "socket_timeout"})
_SCHEMES = frozenset({"redis", "rediss", "unix"})
_HOST = re.compile(r"\[[^\]@]*\]|[^:/?#]*")
_PLAIN_HOST = re.compile(r"\[[\w:.%]*\]|[\w.-]*")
_PORT = re.compile(r":\d+(?![^/?#])")
_SOCKET = re.compile(r"/[\w./-]*")
_DB = re.compile(r"/\d*(?![^?#])")


def redacted_url(url: str) -> str:
    """Return a URL without what is a password, or can be meant as one.

    That is everything from the first ``:`` to the last ``@``, whatever a parser makes
    of it: a password with a ``/`` in it splits a URL in other places. Without an ``@``
    it is what follows a ``:`` and is not a port. A query can hold a password too, so
    what follows a ``?`` is left out.
    """
    head, mark, rest = url.partition("://")
    if not mark:
        head, rest = "", url
    elif head.lower() not in _SCHEMES:
        return "..."
    login, at, place = rest.rpartition("@")
    path = _SOCKET if head.lower() == "unix" else _DB
    if not at:
        return head + mark + _place(place, path)
    user, colon, _ = login.partition(":")
    user = _place(user, path)
    # If the "@" is not what ends a login, then what follows may be the end of a secret.
    cut = user.endswith("...") or re.search("[?#]", login)
    place = "..." if cut else _place(place, path)
    return f"{head}{mark}{user}{':***' if colon else ''}@{place}"


def _place(text: str, path: re.Pattern[str]) -> str:
    """Return a host, a port and a path, as far as they are nothing else."""
    found = _HOST.match(text)
    assert found, "it may be empty"
    kept = found.group()
    if not _PLAIN_HOST.fullmatch(kept):
        return "..."
    for part in (_PORT, path):
        if more := part.match(text, len(kept)):
            kept += more.group()
    return kept if kept == text else f"{kept}..."


def redacted(value: object) -> str:
    """Return the repr of a value, without what can be a password."""
    if isinstance(value, str):
        return repr(redacted_url(value))
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return f"{{{_joined(_pair(name, each) for name, each in pairs)}}}"
    if isinstance(value, list | tuple):
        all_items = cast("Sequence[object]", value)
        items = [*map(redacted, all_items[:1]), *map(_number, all_items[1:2])]
        if len(all_items) > len(items):
            # What comes third may be a password, as it does in other libraries.
            items.append("...")
        if isinstance(value, list):
            return f"[{_joined(items)}]"
        return f"({_joined(items)}{',' if len(items) == 1 else ''})"
    return f"a value of type {type(value).__name__}"


def _number(value: object) -> str:
    """Return what is shown of a value that should be a number, such as a port."""
    if isinstance(value, str) and not value.isdecimal():
        return "***"
    return redacted(value)


def _pair(name: object, value: object) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        return "...: ***"
    shown = "***"
    if name in _SHOWN:
        shown = redacted(value)
    elif name in _NUMBERS:
        shown = _number(value)
    return f"{name!r}: {shown}"


def _joined(items: Iterable[str]) -> str:
    return ", ".join(items)
