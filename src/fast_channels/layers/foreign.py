"""Layers that were written for Django Channels and know nothing of this library.

Such a layer has the methods of the specification, and does not derive from
BaseChannelLayer. The registry keeps it and returns it as it is. What this library adds
to the specification comes from the base class, through ``as_layer()``.
"""

import inspect
from typing import Any

from .base import BaseChannelLayer

__all__ = ["as_layer", "is_layer"]

# https://channels.readthedocs.io/en/latest/channel_layer_spec.html
_REQUIRED = ("new_channel", "receive", "send")
_OPTIONAL = (
    "flush",
    "group_add",
    "group_discard",
    "group_send",
    "require_valid_channel_name",
    "require_valid_group_name",
)


def is_layer(value: object) -> bool:
    """Return whether a value can be used as a layer."""
    if isinstance(value, BaseChannelLayer):
        return True
    # The methods of a class need an instance.
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in _REQUIRED
    )


def as_layer(value: object) -> BaseChannelLayer:
    """Return a layer with every method of the base class."""
    return value if isinstance(value, BaseChannelLayer) else _ForeignLayer(value)


class _ForeignLayer(BaseChannelLayer):
    """The methods of a foreign layer, and the defaults of the base class.

    Methods that the specification does not have are not looked for: a foreign layer
    may have one of the same name that does something else.
    """

    def __init__(self, layer: object) -> None:
        super().__init__()
        self._foreign: Any = layer
        for name in (*_REQUIRED, *_OPTIONAL):
            method = getattr(layer, name, None)
            if callable(method):
                setattr(self, name, method)

    def __repr__(self) -> str:
        return repr(self._foreign)

    async def close(self) -> None:
        """Close the layer, if it can be closed."""
        close = getattr(self._foreign, "close", None)
        if callable(close):
            # Not all of them are coroutine functions.
            result = close()
            if inspect.isawaitable(result):
                await result
