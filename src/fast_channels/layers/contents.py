"""The values that a message can hold, which are the same for every layer.

A message is checked when it is sent, not when it arrives: the sender gets an error that
names the value, and receivers get only values that they can copy and read. The rules:

1. A message is a dict with str keys. It holds None, bool, int of 64 bits, float, str,
   bytes, list, and dict with str or bytes keys.
2. Subclasses of these types, tuples, bytearrays and contiguous memoryviews arrive as
   the corresponding builtin type: a str enum as a str, a tuple as a list.
3. Lists and dicts are nested at most ``MAX_DEPTH`` levels deep, the message included.
   This also rules out values that contain themselves.
4. A str has no lone surrogate: neither UTF-8 nor a WebSocket can encode it.
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
    "nested_values",
    "plain",
    "require_carried",
    "require_shallow",
    "shortened",
]

MAX_DEPTH = 100
"""Maximum nesting depth of lists and dicts; the message itself is the first level.

Far below the recursion limits of Python and of decoders, on any stack."""

_Refusal: TypeAlias = Callable[[Any, bool], str | None]
"""Returns the problem with a key, or with a value that holds no others; or None."""
_Path: TypeAlias = tuple[Any, ...]
"""The keys and indexes that lead to a value."""
_Found: TypeAlias = tuple[_Path, Any]
"""The path to a list or dict, and the list or dict itself."""

_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1
# Types whose values are all carried unchanged.
_FREE = frozenset({bool, bytes, float, type(None)})
# Types whose values a shallow copy can share, because they are immutable.
_IMMUTABLE = _FREE | {int, str}
# Declared as Any, so that type checkers don't narrow the values of messages.
_type_of: Callable[[object], Any] = type
_DICT: Any = dict
_HOLDERS: Any = (dict, list, tuple)
_BYTES: Any = (bytes, bytearray, memoryview)
# Number of lists and dicts on one level from which repeated ones are removed.
_MANY = 1000
# Steps of a path that an error shows at its beginning, and at its end.
_SHOWN = 4

_HOLDS = "a message holds None, bool, int of 64 bits, float, str, bytes, list and dict"
# Methods of well-known types of objects, and the calls that return a value to send.
_CONVERSIONS = {
    "isoformat": "isoformat()",
    "model_dump": 'model_dump(mode="json")',
}

# Not str() and int(): a subclass, such as an enum, can override the methods they call.
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
    """Return whether a message holds only immutable values."""
    return _IMMUTABLE.issuperset(map(type, message.values()))


def require_carried(message: object) -> None:
    """Check that every layer can carry a message.

    Raises:
        TypeError: It cannot; the error gives the value, its place and an alternative.
    """
    if nested_values(message) is None:
        _require(message)


def plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message made of builtin types only, as it arrives at a receiver.

    Args:
        message: A message that ``require_carried()`` accepts. If it is already made of
            builtin types, the message itself is returned.
    """
    if nested_values(message) is not None:
        return message
    return cast("dict[str, Any]", _plain(message))


def require_shallow(message: object) -> None:
    """Check that a message is a dict with str keys, and is not nested too deep.

    For layers with a serializer that decides which values it accepts.

    Raises:
        TypeError: It is no such dict, or is nested too deep; the error shows where.
    """
    _require_dict(message)
    if is_deep(cast("dict[str, Any]", message)):
        problem = _find(cast("dict[str, Any]", message), _accept)
        raise TypeError(f"this message cannot be sent: {problem}")


def is_deep(message: dict[str, Any]) -> bool:
    """Return whether lists and dicts are nested more than ``MAX_DEPTH`` levels deep."""
    level: list[Any] = [message]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            values = _values(container)
            # Most hold only values that hold no others, which this finds out faster.
            if not _IMMUTABLE.issuperset(map(type, values)):
                below += [value for value in values if isinstance(value, _HOLDERS)]
        if not below:
            return False
        level = _distinct(below)
    return True


def find_bytes(message: Mapping[str, Any]) -> str | None:
    """Return where a message holds bytes, or None, for a format without bytes."""
    return _find(message, _refuse_bytes)


# Level by level instead of recursively, so that no depth can exhaust the stack


def nested_values(message: Any) -> list[Any] | None:
    """Return the lists and dicts that a message holds directly, after a check.

    Returns:
        None unless the message can be carried and is made of builtin types only. Most
        messages hold no lists and dicts: receivers can share the values of those.
    """
    kind = _type_of(message)
    if kind is not dict or not _are_plain_keys(message):
        return None
    below: list[Any] = []
    if not _are_plain(message.values(), below):
        return None
    return below if not below or _are_plain_below(below) else None


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
        # Keys that are bytes are rare, and take the slow path.
        if type(key) is not str or not (key.isascii() or _encodes(key)):
            return False
    return True


def _are_plain(values: Iterable[Any], below: list[Any]) -> bool:
    """Return whether values are plain; append the lists and dicts to ``below``."""
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
    """Remove repeated objects from a level, if it is large.

    A list that contains itself twice would occur a million times after twenty levels.
    """
    if len(level) < _MANY:
        return level
    return list({id(value): value for value in level}.values())


# The slow path: for messages that are refused, or not made of builtin types only


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
    """Return a value that can be carried, converted to builtin types."""
    if isinstance(value, _DICT):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, _HOLDERS):
        return [_plain(item) for item in value]
    for base, convert in _BUILTINS.items():
        if isinstance(value, base):
            return convert(value)
    return value


def _find(message: Mapping[str, Any], refuse: _Refusal) -> str | None:
    """Return the place of the first refused value or key and the reason, or None."""
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
    """Check one list or dict; add the lists and dicts that it holds to ``below``."""
    items: Any = enumerate(container)
    if isinstance(container, _DICT):
        items = container.items()
        for key in container:
            problem = refuse(key, True)
            if problem is not None:
                return f"the key {shortened(key)} of {_place(path)} is {problem}"
    for step, value in items:
        if isinstance(value, _HOLDERS):
            # An object that occurs repeatedly is checked once per level.
            below.setdefault(id(value), ((*path, step), value))
            continue
        problem = refuse(value, False)
        if problem is not None:
            return f"{_place((*path, step))} is {problem}"
    return None


def _place(path: _Path) -> str:
    """Return the Python expression for a value of a message."""
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
    """Accept every value, for checks of the depth alone."""


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
