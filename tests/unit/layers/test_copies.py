"""Each receiver gets its own copy of a message."""

import datetime as dt
import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fast_channels.layers.copies import copies_as_carried, copies_of

NESTED: dict[str, Any] = {"a": [{"b": [1, b"2", "3", 4.5, None, True]}], "c": {1: []}}


class Point:
    """A user's object."""

    def __init__(self) -> None:
        self.where = [1, 2]


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"type": "a", "number": 1, "data": b"\0", "none": None},
        NESTED,
        {"when": dt.date(2020, 2, 29), "in": [{1, 2}], "pair": (1, [2])},
    ],
    ids=["empty", "flat", "nested", "objects"],
)
def test_copies_are_equal_and_independent(message: dict[str, Any]) -> None:
    """Every call returns a new dict that is equal to the original message."""
    was = repr(message)
    copies = copies_of(message)
    message["more"] = 1
    first, second = copies(), copies()
    del message["more"]
    assert first is not second
    assert repr(first) == repr(second) == was


def test_values_in_a_copy_are_copied_too() -> None:
    """Lists, dicts and users' objects are not shared between copies."""
    point = Point()
    copies = copies_of({"plain": [{"a": 1}], "objects": [point]})
    nested = copies_of(NESTED)
    point.where.append(3)
    first, second = copies(), copies()
    first["objects"][0].where.clear()
    first["plain"][0]["a"] = 2
    assert second["objects"][0].where == [1, 2]
    assert second["plain"] == [{"a": 1}]
    nested()["a"][0]["b"].clear()
    assert nested() == NESTED


class Stubborn:
    """An object that cannot be copied."""

    def __deepcopy__(self, memo: object) -> "Stubborn":
        raise RecursionError


def test_objects_that_cannot_be_copied_are_shared() -> None:
    """Delivery never fails: an object that cannot be copied is shared."""
    stubborn = Stubborn()
    copies = copies_of({"objects": [stubborn]})
    first, second = copies(), copies()
    assert first is not second
    assert first["objects"][0] is second["objects"][0] is stubborn


@pytest.mark.parametrize("make", [copies_of, copies_as_carried])
def test_copies_need_no_stack(make: Callable[[Any], Callable[[], Any]]) -> None:
    """A receiver can be as deep in the stack as Python allows."""
    value: list[Any] = []
    for _ in range(98):
        value = [value]
    message = {"value": value}

    def at_depth(frames: int) -> Any:
        return at_depth(frames - 1) if frames else make(message)()

    frames = sys.getrecursionlimit() - len(inspect.stack(0)) - 20
    assert at_depth(frames) == message


def test_copies_have_builtin_types() -> None:
    """Copies consist of builtin types, as if the message had been encoded."""
    pair = [1, 2]
    copies = copies_as_carried({"pair": tuple(pair), "list": pair})
    pair.append(3)
    assert copies() == {"pair": [1, 2], "list": [1, 2]}
    assert copies_as_carried({"flat": 1})() == {"flat": 1}
