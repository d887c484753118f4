"""Copies of a message, so that every receiver has its own dict."""

import copy
import functools
import marshal
from collections.abc import Callable
from typing import Any, cast

from fast_channels.type_defs import ChannelMessage

from .contents import is_flat, nested_values, plain, require_carried

__all__ = ["copies_as_carried", "copies_of"]


def copies_of(message: ChannelMessage) -> Callable[[], dict[str, Any]]:
    """Return a function that returns a new copy of a message at every call.

    The message is read now: changing it later affects no copy. Neither this function
    nor the returned one ever raises: receivers call the latter, possibly deep in the
    stack.

    Args:
        message: A message that is made of builtin types, or that an application's
            serializer has decoded. If it holds other types, ``copy.deepcopy()`` makes
            the copies; if that fails, all copies share the values.
    """
    own = dict(message)
    if is_flat(own):
        return own.copy
    try:
        # Several times faster than deepcopy(). marshal has its own limit of depth, far
        # above that of messages.
        return functools.partial(marshal.loads, marshal.dumps(own))
    except ValueError:
        return functools.partial(_copy_deeply, _copy_deeply(own))


def copies_as_carried(message: ChannelMessage) -> Callable[[], dict[str, Any]]:
    """Check a message that is sent; return a function like that of ``copies_of()``.

    The copies are made of builtin types, as if the message had been encoded and
    decoded.

    Raises:
        TypeError: Not every layer can carry the message.
    """
    own = cast("dict[str, Any]", message)
    nested = nested_values(own)
    if nested is None:
        require_carried(own)
        own = plain(own)
    elif not nested:
        return own.copy().copy
    return functools.partial(marshal.loads, marshal.dumps(own))


def _copy_deeply(message: dict[str, Any]) -> dict[str, Any]:
    try:
        return copy.deepcopy(message)
    # Copying runs methods of the application's objects.
    except Exception:  # noqa: BLE001
        return dict(message)
