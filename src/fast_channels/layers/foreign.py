"""Foreign layers, which were written for Django Channels instead of this library.

Such a layer has the methods of the specification, but does not derive from
BaseChannelLayer. The registry stores and returns it unchanged. ``as_layer()`` adds the
methods of the base class that the specification does not have.
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
    # A class has the methods too, but cannot be used as a layer.
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in _REQUIRED
    )


def as_layer(value: object) -> BaseChannelLayer:
    """Return a layer that has every method of the base class."""
    return value if isinstance(value, BaseChannelLayer) else _ForeignLayer(value)


class _ForeignLayer(BaseChannelLayer):
    """A layer with the methods of a foreign layer and the defaults of the base class.

    Only methods of the specification are taken from the foreign layer: another method
    of the same name could do something else.
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
        """Close the foreign layer, if it has a method for that."""
        close = getattr(self._foreign, "close", None)
        if callable(close):
            # Some layers have a plain function for it.
            result = close()
            if inspect.isawaitable(result):
                await result
