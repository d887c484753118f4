"""Which method of a consumer handles a message, and which ones no message can reach."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, TypeVar

from fast_channels.type_defs import ChannelMessage

__all__ = ["awaitable", "find_method", "get_handler_name", "require_reachable"]

_Result = TypeVar("_Result")

# The handlers that the base classes themselves have; no message may call anything else
# that these classes define.
_EVENT_HANDLERS = frozenset(
    {
        "websocket_connect",
        "websocket_receive",
        "websocket_disconnect",
        "http_request",
        "http_disconnect",
    }
)
_PACKAGE = __name__.partition(".")[0]

# Attributes of a class that become methods of its instances, beside callables.
_METHODS = (classmethod, functools.partialmethod, functools.singledispatchmethod)


def get_handler_name(message: ChannelMessage) -> str:
    """Return the name of the method for a message: its type, with ``_`` for ``.``.

    Raises:
        ValueError: The message has no type, or one that names no method.
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
    """Return if messages of a type may reach the method of a name.

    Raises:
        ValueError: It is a method that every consumer has.
    """
    if name not in _EVENT_HANDLERS and any(
        name in vars(base) or name in inspect.get_annotations(base)
        for base in consumer_class.__mro__
        if base.__module__.partition(".")[0] == _PACKAGE
    ):
        raise ValueError(
            f"no handler for message type {message_type!r}: {name!r} is a method or "
            "attribute that every consumer has, which no message may reach"
        )


def find_method(consumer: object, name: str) -> Callable[..., Any] | None:
    """Return a method of a consumer, without evaluating properties; None for others."""
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
    """Return what a method of a consumer has returned, if it can be awaited.

    Raises:
        TypeError: It cannot.
    """
    # The first is what most are, and quick.
    if type(result) is not CoroutineType and not inspect.isawaitable(result):
        raise TypeError(
            f"{type(consumer).__qualname__}.{method}() must be a coroutine function: "
            f"write 'async def {method}'; it returned {result!r}, which cannot be "
            "awaited"
        )
    return result  # pyright: ignore[reportUnknownVariableType] # narrowed by its type
