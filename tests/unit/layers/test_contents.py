"""The values that a message can hold."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fast_channels.layers.contents import (
    MAX_DEPTH,
    find_bytes,
    is_deep,
    plain,
    require_carried,
    require_shallow,
    shortened,
)

WRAPS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [value],
    "dict": lambda value: {"a": value},
    "tuple": lambda value: (value,),
}


def nested(depth: int, kind: str = "list") -> dict[str, Any]:
    """Return a message that is nested this deeply."""
    value: Any = 1
    for _ in range(depth - 1):
        value = WRAPS[kind](value)
    return {"a": value}


@pytest.mark.parametrize("kind", WRAPS)
def test_depth(kind: str) -> None:
    """A message can have a hundred levels, itself included."""
    for check in (require_carried, require_shallow):
        check(nested(MAX_DEPTH, kind))
        with pytest.raises(TypeError, match=r"\[\.\.\.\].* more than 100 levels deep"):
            check(nested(MAX_DEPTH + 1, kind))
    assert not is_deep(nested(MAX_DEPTH, kind))
    assert is_deep(nested(MAX_DEPTH + 1, kind))


@pytest.mark.parametrize("check", [require_carried, require_shallow])
def test_message_that_contains_itself(check: Any) -> None:
    """A message that contains itself a thousand times is refused as quickly as one."""
    ring: list[Any] = []
    ring.extend([ring] * 2000)
    message: dict[str, Any] = {"ring": ring}
    ring.append(message)
    with pytest.raises(TypeError, match=r"contains itself; send a flatter message"):
        check(message)


def test_shared_values() -> None:
    """A value that occurs repeatedly is checked once per level."""
    value: list[Any] = [1]
    for _ in range(90):
        value = [value, value]
    require_carried({"a": value})
    assert not is_deep({"a": value})
    with pytest.raises(TypeError, match=r"is of type set"):
        require_carried({"a": value, "b": functools.reduce(list_of, range(50), {1})})


def list_of(value: Any, _: int) -> list[Any]:
    """Return a list that holds a value twice."""
    return [value, value]


def test_refusing_needs_no_stack() -> None:
    """A message is checked and refused at any depth of the stack."""

    def at_depth(frames: int) -> None:
        if frames:
            at_depth(frames - 1)
            return
        require_carried(nested(MAX_DEPTH))
        with pytest.raises(TypeError, match=r"100 levels deep"):
            require_carried(nested(10_000))

    at_depth(sys.getrecursionlimit() - len(inspect.stack(0)) - 60)


def test_message_of_builtin_types_is_not_copied() -> None:
    """Only a message that contains other types is rebuilt."""
    message: dict[str, Any] = {
        "a": [{"b": [1, b"2", "\u00e9", 4.5, None, True]}],
        "\u00e9": {},
    }
    assert plain(message) is message
    rebuilt = plain({"pair": (1, [None, 2.5]), "yes": True})
    assert rebuilt == {"pair": [1, [None, 2.5]], "yes": True}


def test_where_bytes_are() -> None:
    """For a format without bytes, the location of the first bytes is reported."""
    assert find_bytes({"a": [1, "b"]}) is None
    assert find_bytes({"a": [1, b"b"]}) == "message['a'][1] is of type bytes"
    assert find_bytes({"a": {b"b": 1}}) == (
        "the key b'b' of message['a'] is of type bytes"
    )


class Model:
    """An object that can be dumped, like a model of pydantic."""

    def model_dump(self) -> dict[str, int]:
        """Return the data of the model."""
        return {}


def test_advice() -> None:
    """The error says what to send instead of a model, as for pydantic."""
    with pytest.raises(TypeError, match=r"Model; .* its model_dump\(mode=\"json\"\)"):
        require_carried({"a": Model()})


def test_shortened() -> None:
    """A long value is shortened."""
    assert shortened("short") == "'short'"
    assert len(shortened({"a": ["x" * 1000] * 1000})) < 1000
