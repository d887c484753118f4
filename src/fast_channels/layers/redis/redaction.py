"""The redaction of values in errors, where a password can be anywhere in a value.

A password in the wrong place, or without the encoding that it needs there, must not
reach a log. Errors therefore show only parts that cannot be a password, such as the
host, the port and the path of a socket. Everything else becomes ``***`` or ``...``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

__all__ = ["redacted", "redacted_url"]

# Arguments of redis-py whose values locate a host, or are never secret.
_SHOWN = frozenset(
    {"address", "host", "master_name", "path", "sentinels", "ssl", "unix_socket_path"}
)
_NUMBERS = frozenset({"db", "port", "socket_connect_timeout", "socket_timeout"})
_SCHEMES = frozenset({"redis", "rediss", "unix", "valkey", "valkeys"})
_HOST = re.compile(r"\[[^\]@]*\]|[^:/?#]*")
_PLAIN_HOST = re.compile(r"\[[\w:.%]*\]|[\w.-]*")
_PORT = re.compile(r":\d+(?![^/?#])")
_SOCKET = re.compile(r"/[\w./-]*")
_DB = re.compile(r"/\d*(?![^?#])")


def redacted_url(url: str) -> str:
    """Return a URL without its password, and without anything meant as one.

    That is everything from the first ``:`` to the last ``@``, even where a parser sees
    something else: a ``/`` in a password makes it split the URL there. Without an
    ``@``, it is anything after a ``:`` that is not a port. Everything after a ``?`` is
    left out as well, since a query can hold a password too.
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
    # If the "@" does not end a login, the text after it may be the end of a password.
    cut = user.endswith("...") or re.search("[?#]", login)
    place = "..." if cut else _place(place, path)
    return f"{head}{mark}{user}{':***' if colon else ''}@{place}"


def _place(text: str, path: re.Pattern[str]) -> str:
    """Return the host, the port and the path that a text begins with."""
    found = _HOST.match(text)
    assert found, "_HOST matches an empty str too"
    kept = found.group()
    if not _PLAIN_HOST.fullmatch(kept):
        return "..."
    for part in (_PORT, path):
        if more := part.match(text, len(kept)):
            kept += more.group()
    return kept if kept == text else f"{kept}..."


def redacted(value: object) -> str:
    """Return the repr of a value, without anything that can be a password."""
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
            # The third item may be a password, as in other libraries.
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
