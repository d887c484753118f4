"""Find the method that handles a message, and keep messages from all others."""

import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, TypeVar

from fast_channels.type_defs import ChannelMessage

__all__ = [
    "awaitable",
    "find_method",
    "get_handler_name",
    "names_of",
    "require_reachable",
]

_Result = TypeVar("_Result")

# The handlers that the base classes define; no message may call any other method of
# these classes.
_EVENT_HANDLERS = frozenset(
    {
        "websocket_connect",
        "websocket_receive",
        "websocket_disconnect",
        "http_request",
        "http_disconnect",
    }
)
_PACKAGE = __name__.rpartition(".")[0]

# Attributes of a class that are not callable, but become methods of its instances.
_METHODS = (classmethod, functools.partialmethod, functools.singledispatchmethod)


# The names of the handlers of each class, by message type.
_names: "weakref.WeakKeyDictionary[type, dict[str, str]]" = weakref.WeakKeyDictionary()


def names_of(consumer_class: type) -> dict[str, str]:
    """Return the known handlers of a class: a dict of message type to name."""
    names = _names.get(consumer_class)
    if names is None:
        names = _names[consumer_class] = {}
    return names


def get_handler_name(message: ChannelMessage) -> str:
    """Return the name of the handler for a message: its type, with ``_`` for ``.``.

    Raises:
        ValueError: The message has no type, or its type cannot name a handler.
    """
    message_type = message.get("type")
    if not isinstance(message_type, str):
        raise ValueError(  # noqa: TRY004 # as for any message without a handler
            "a message needs a 'type', a str that names its handler; "
            f"this one has {message_type!r}: {message!r}"
        )
    name = message_type.replace(".", "_")
    if not name or name.startswith("_"):
        raise ValueError(
            f"malformed message type {message_type!r}: "
            "it must not be empty nor start with '.' or '_'"
        )
    return name


def require_reachable(consumer_class: type, name: str, message_type: str) -> None:
    """Check that messages may call the method of this name.

    Raises:
        ValueError: The name is a method or attribute that every consumer has.
    """
    if name not in _EVENT_HANDLERS and any(
        name in vars(base) or name in inspect.get_annotations(base)
        for base in consumer_class.__mro__
        if base.__module__.startswith(f"{_PACKAGE}.")
    ):
        raise ValueError(
            f"no handler for message type {message_type!r}: {name!r} is a method or "
            "attribute that every consumer has, which no message may reach"
        )


def find_method(consumer: object, name: str) -> Callable[..., Any] | None:
    """Return a method of a consumer, or None; properties are not evaluated."""
    missing = object()
    static = inspect.getattr_static(consumer, name, missing)
    if (
        static is not missing
        and not isinstance(static, _METHODS)
        and (isinstance(static, type) or not callable(static))
    ):
        return None
    method: object = getattr(consumer, name, None)
    return method if callable(method) else None


def awaitable(
    result: Awaitable[_Result], consumer: object, method: str
) -> Awaitable[_Result]:
    """Return the result of a consumer's method, checked to be awaitable.

    Raises:
        TypeError: The result is not awaitable.
    """
    # Most results are coroutines, for which the first check is enough, and fast.
    kind: object = type(result)
    if kind is not CoroutineType and not inspect.isawaitable(result):
        raise TypeError(
            f"{type(consumer).__qualname__}.{method}() must be a coroutine function: "
            f"write 'async def {method}'; it returned {result!r}, which cannot be "
            "awaited"
        )
    return result
