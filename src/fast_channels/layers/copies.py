"""Copies of a message, so that every receiver has a dict of its own."""

import copy
import functools
import marshal
from collections.abc import Callable
from typing import Any, cast

from fast_channels.type_defs import ChannelMessage

__all__ = ["copies_of"]

# What a shallow copy may share, because nobody can change it.
_IMMUTABLE = frozenset({bool, bytes, float, int, str, type(None)})
# What is nested deeper, or holds itself, is copied the slow way.
_DEEP = 50


def copies_of(message: ChannelMessage) -> Callable[[], dict[str, Any]]:
    """Return a function that returns a new copy of a message at every call.

    The message is read now: changing it afterwards changes no copy.

    Raises:
        TypeError: The message holds something that cannot be copied.
    """
    own = dict(message)
    if _IMMUTABLE.issuperset(map(type, own.values())):
        return own.copy
    try:
        if _is_plain(own, _DEEP):
            # Copies nested dicts and lists several times faster than deepcopy().
            return functools.partial(marshal.loads, marshal.dumps(own))
        return functools.partial(copy.deepcopy, copy.deepcopy(own))
    except Exception as exc:
        raise TypeError(
            f"this message cannot be sent, as it cannot be copied ({exc}): {message!r}"
        ) from exc


def _is_plain(value: Any, depth: int) -> bool:
    """Return whether a value is made of nothing but what JSON has, and bytes."""
    kind = cast("type[object]", type(value))
    if kind in _IMMUTABLE:
        return True
    if not depth:
        return False
    if kind is dict:
        return all(type(key) is str for key in value) and all(
            _is_plain(item, depth - 1) for item in value.values()
        )
    return kind is list and all(_is_plain(item, depth - 1) for item in value)
