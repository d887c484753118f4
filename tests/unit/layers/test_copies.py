"""How the layer of a single process copies messages."""

import datetime as dt
import threading
from typing import Any

import pytest

from fast_channels.layers.copies import copies_of

NESTED: dict[str, Any] = {"a": [{"b": [1, b"2", "3", 4.5, None, True]}], "c": {1: []}}


class Point:
    """An object of a user."""

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
def test_copies_are_equal_and_apart(message: dict[str, Any]) -> None:
    """Every call returns a new dict that is equal to the message as it was."""
    was = repr(message)
    copies = copies_of(message)
    message["more"] = 1
    first, second = copies(), copies()
    del message["more"]
    assert first is not second
    assert repr(first) == repr(second) == was


def test_what_is_in_a_copy_is_copied_too() -> None:
    """Lists, dicts and objects of users are not shared between copies."""
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


def test_message_may_hold_itself() -> None:
    """A list that contains itself is copied, as copy.deepcopy() does."""
    ring: list[Any] = [1]
    ring.append(ring)
    copied = copies_of({"ring": ring})()["ring"]
    assert copied is not ring
    assert copied[1] is copied


def test_what_cannot_be_copied_is_refused() -> None:
    """The error says what could not be copied, and has the reason as its cause."""
    error = r"cannot be sent, as it cannot be copied \(cannot pickle .*lock.*\): {'a': "
    with pytest.raises(TypeError, match=error) as caught:
        copies_of({"a": [threading.Lock()]})
    assert isinstance(caught.value.__cause__, TypeError)
