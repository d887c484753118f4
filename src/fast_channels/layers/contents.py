"""What a message may hold, which is the same for every layer.

A message is checked when it is sent, not when it arrives: a sender gets an error that
names the value, and a receiver gets nothing that it cannot copy or read. The rule:

1. A message is a dict with str keys. It holds None, bool, int of 64 bits, float, str,
   bytes, list, and dict with keys of str or bytes.
2. Subclasses of these types, tuples, bytearrays and contiguous memoryviews are carried
   as the type that they stand for: a str enum arrives as a str, a tuple as a list.
3. Lists and dicts are nested at most ``MAX_DEPTH`` levels deep, the message included. A
   value that contains itself has no end, so this refuses it too.
4. A str has no lone surrogate: UTF-8 cannot encode it, and neither can a WebSocket.
"""

import enum
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

__all__ = [
    "MAX_DEPTH",
    "find_bytes",
    "is_deep",
    "is_flat",
    "plain",
    "require_carried",
    "require_shallow",
    "shortened",
]

MAX_DEPTH = 100
"""How deep lists and dicts may be nested, the message itself being the first level.

Far less than what makes Python's or a decoder's own recursion fail, on any stack."""

_Refusal: TypeAlias = Callable[[Any, bool], str | None]
"""Returns what is wrong with a value that holds no others, or with a key; or None."""
_Path: TypeAlias = tuple[Any, ...]
"""The keys and indexes that lead to a value."""
_Found: TypeAlias = tuple[_Path, Any]
"""Where a list or dict is, and the list or dict."""

_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1
# Of these types every value is carried as it is.
_FREE = frozenset({bool, bytes, float, type(None)})
# What a shallow copy may share, because it cannot change.
_IMMUTABLE = _FREE | {int, str}
# Declared so that checkers leave the values of messages what they are: Any.
_type_of: Callable[[object], Any] = type
_DICT: Any = dict
_HOLDERS: Any = (dict, list, tuple)
_BYTES: Any = (bytes, bytearray, memoryview)
# After so many lists and dicts on one level, look for those that are there repeatedly.
_MANY = 1000
# How many steps of a path an error shows at its beginning and at its end.
_SHOWN = 4

_HOLDS = "a message holds None, bool, int of 64 bits, float, str, bytes, list and dict"
# What objects of well-known libraries have to offer instead of themselves.
_CONVERSIONS = {
    "isoformat": "isoformat()",
    "model_dump": 'model_dump(mode="json")',
}

# Not str() and int(), which a subclass, such as an enum, may have replaced.
_BUILTINS: dict[Any, Callable[[Any], Any]] = {
    bool: bool,
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    _BYTES: lambda value: bytes(memoryview(value)),
}

_short = reprlib.Repr()
_short.maxdict = _short.maxlist = _short.maxtuple = 8
_short.maxstring = _short.maxother = 80


def shortened(value: object) -> str:
    """Return the repr of a value, cut if it is long."""
    return _short.repr(value)


def is_flat(message: dict[str, Any]) -> bool:
    """Return whether a message holds nothing that could be changed."""
    return _IMMUTABLE.issuperset(map(type, message.values()))


def require_carried(message: object) -> None:
    """Return if a message is one that every layer carries.

    Raises:
        TypeError: It is not; the error says where it holds what, and what to send.
    """
    if not _is_plain(message):
        _require(message)


def plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message of builtin types only, as it arrives at a receiver.

    Args:
        message: A message that ``require_carried()`` accepts; it is returned itself if
            it is made of builtin types already.
    """
    return message if _is_plain(message) else cast("dict[str, Any]", _plain(message))


def require_shallow(message: object) -> None:
    """Return if a message is a dict with str keys that is not nested too deep.

    For a message whose serializer decides what else it may hold.

    Raises:
        TypeError: It is not; the error says where it is nested how deep.
    """
    _require_dict(message)
    if is_deep(cast("dict[str, Any]", message)):
        problem = _find(cast("dict[str, Any]", message), _accept)
        raise TypeError(f"this message cannot be sent: {problem}")


def is_deep(message: dict[str, Any]) -> bool:
    """Return whether lists and dicts are nested more than ``MAX_DEPTH`` levels deep."""
    if is_flat(message):
        return False
    level: list[Any] = [message]
    for _ in range(MAX_DEPTH):
        level = [
            value
            for container in level
            for value in _values(container)
            if isinstance(value, _HOLDERS)
        ]
        if not level:
            return False
        level = _distinct(level)
    return True


def find_bytes(message: Mapping[str, Any]) -> str | None:
    """Return where a message holds bytes, for a format that does not carry them."""
    return _find(message, _refuse_bytes)


# Level by level, so that a message of any depth needs no stack of its own.


def _is_plain(message: Any) -> bool:
    """Return whether a message is carried, and is made of builtin types only."""
    kind = _type_of(message)
    if kind is not dict or not _are_plain_keys(message):
        return False
    below: list[Any] = []
    # Most messages are flat, and done with here.
    return _are_plain(message.values(), below) and (
        not below or _are_plain_below(below)
    )


def _are_plain_below(level: list[Any]) -> bool:
    for _ in range(1, MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            values = container
            kind = _type_of(container)
            if kind is dict:
                if not _are_plain_keys(container):
                    return False
                values = container.values()
            if not _are_plain(values, below):
                return False
        if not below:
            return True
        level = _distinct(below)
    return False


def _are_plain_keys(keys: Iterable[Any]) -> bool:
    for key in keys:
        # Keys of bytes, which few have, take the slow way.
        if type(key) is not str or not (key.isascii() or _encodes(key)):
            return False
    return True


def _are_plain(values: Iterable[Any], below: list[Any]) -> bool:
    """Return whether values are plain, and append those that hold others to a list."""
    for value in values:
        kind = _type_of(value)
        if kind is str:
            if not (value.isascii() or _encodes(value)):
                return False
        elif kind is int:
            if not _MIN_INT <= value <= _MAX_INT:
                return False
        elif kind is dict or kind is list:
            below.append(value)
        elif kind not in _FREE:
            return False
    return True


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _values(container: Any) -> Any:
    return container.values() if isinstance(container, _DICT) else container


def _distinct(level: list[Any]) -> list[Any]:
    """Return each object of a level once if there are many.

    What contains itself twice would be there a million times after twenty levels.
    """
    if len(level) < _MANY:
        return level
    return list({id(value): value for value in level}.values())


# What follows is for messages that are refused, or not of builtin types only.


def _require_dict(message: object) -> None:
    if not isinstance(message, dict):
        raise TypeError(
            f"a message must be a dict, not {type(message).__name__}: "
            f"{shortened(message)}"
        )
    for key in cast("dict[object, object]", message):
        if not isinstance(key, str):
            raise TypeError(
                f"the keys of a message must be str, but {shortened(key)} is of type "
                f"{type(key).__name__}"
            )


def _require(message: object) -> None:
    _require_dict(message)
    problem = _find(cast("dict[str, Any]", message), _refuse)
    if problem is not None:
        raise TypeError(f"this message cannot be sent: {problem}")


def _plain(value: Any) -> Any:
    """Return a value that is carried, made of builtin types."""
    if isinstance(value, _DICT):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, _HOLDERS):
        return [_plain(item) for item in value]
    for base, convert in _BUILTINS.items():
        if isinstance(value, base):
            return convert(value)
    return value


def _find(message: Mapping[str, Any], refuse: _Refusal) -> str | None:
    """Return where the first value or key is that is refused, and why; else None."""
    level: list[_Found] = [((), message)]
    for _ in range(MAX_DEPTH):
        below: dict[int, _Found] = {}
        for path, container in level:
            problem = _find_in(container, path, refuse, below)
            if problem is not None:
                return problem
        if not below:
            return None
        level = list(below.values())
    return (
        f"{_place(level[0][0])} is nested more than {MAX_DEPTH} levels deep, or "
        "contains itself; send a flatter message"
    )


def _find_in(
    container: Any, path: _Path, refuse: _Refusal, below: dict[int, _Found]
) -> str | None:
    """Look at one list or dict, and note the lists and dicts that it holds."""
    items: Any = enumerate(container)
    if isinstance(container, _DICT):
        items = container.items()
        for key in container:
            problem = refuse(key, True)
            if problem is not None:
                return f"the key {shortened(key)} of {_place(path)} is {problem}"
    for step, value in items:
        if isinstance(value, _HOLDERS):
            # What is there repeatedly is looked at once on each level.
            below.setdefault(id(value), ((*path, step), value))
            continue
        problem = refuse(value, False)
        if problem is not None:
            return f"{_place((*path, step))} is {problem}"
    return None


def _place(path: _Path) -> str:
    """Return how Python code would get at a value of a message."""
    steps = [f"[{shortened(step)}]" for step in path]
    if len(steps) > 2 * _SHOWN:
        steps[_SHOWN:-_SHOWN] = ["[...]"]
    return "message" + "".join(steps)


def _refuse(value: Any, is_key: bool) -> str | None:
    if isinstance(value, str):
        if value.isascii() or _encodes(value):
            return None
        return (
            "a str with a lone surrogate, which UTF-8 cannot encode; replace it: "
            "text.encode(errors='replace').decode()"
        )
    if is_key and not isinstance(value, bytes):
        return f"of type {_type_name(value)}; keys are str"
    if isinstance(value, int) and not _MIN_INT <= value <= _MAX_INT:
        return "an int beyond 64 bits (-2**63 to 2**64 - 1); send a str"
    if _is_leaf(value):
        return None
    return f"of type {_type_name(value)}; {_HOLDS}, so send {_instead_of(value)}"


def _is_leaf(value: Any) -> bool:
    if isinstance(value, memoryview):
        return value.c_contiguous
    return value is None or isinstance(value, int | float | bytes | bytearray)


def _accept(_: Any, _is_key: bool) -> None:
    """Accept every value, when only the depth is looked at."""


def _refuse_bytes(value: Any, _: bool) -> str | None:
    if isinstance(value, _BYTES):
        return f"of type {_type_name(value)}"
    return None


def _type_name(value: object) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _instead_of(value: object) -> str:
    kind = type(value)
    if isinstance(value, enum.Enum):
        return "its value"
    if isinstance(value, set | frozenset):
        return "a list of its items"
    for method, call in _CONVERSIONS.items():
        if hasattr(kind, method):
            return f"its {call}"
    return "its str(), or a dict of its parts"
