"""Copies of a message, so that every receiver has a dict of its own."""

import copy
import functools
import marshal
from collections.abc import Callable
from typing import Any

from fast_channels.type_defs import ChannelMessage

from .contents import is_flat, plain

__all__ = ["copies_as_carried", "copies_of"]


def copies_of(message: ChannelMessage) -> Callable[[], dict[str, Any]]:
    """Return a function that returns a new copy of a message at every call.

    The message is read now: changing it afterwards changes no copy. Neither this
    function nor the one that it returns ever raises: receivers call that one, and they
    may be deep in the stack.

    Args:
        message: A message that is made of builtin types, or that the serializer of an
            application has decoded. Objects of other types are copied by
            ``copy.deepcopy()``, and shared by all copies if that fails.
    """
    own = dict(message)
    if is_flat(own):
        return own.copy
    try:
        # Copies nested dicts and lists several times faster than deepcopy(), and has a
        # limit of depth of its own, far beyond that of messages.
        return functools.partial(marshal.loads, marshal.dumps(own))
    except ValueError:
        return functools.partial(_copy_deeply, _copy_deeply(own))


def copies_as_carried(message: ChannelMessage) -> Callable[[], dict[str, Any]]:
    """Do as ``copies_of()`` does with a message that is sent.

    Args:
        message: A message that ``require_carried()`` accepts. Its copies are made of
            builtin types, as if it had been encoded and decoded.
    """
    own = dict(message)
    if is_flat(own):
        return own.copy
    return functools.partial(marshal.loads, marshal.dumps(plain(own)))


def _copy_deeply(message: dict[str, Any]) -> dict[str, Any]:
    try:
        return copy.deepcopy(message)
    # Objects of the application run code of theirs.
    except Exception:  # noqa: BLE001
        return dict(message)
