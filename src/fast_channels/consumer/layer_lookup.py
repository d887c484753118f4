"""Find the layer of a consumer, and explain why there is none."""

import logging
import weakref
from typing import TYPE_CHECKING

from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.registry import channel_layers

from .signals import leaves

if TYPE_CHECKING:
    from .base import AsyncConsumer

__all__ = ["explain_missing", "find_layer", "layer_of", "note_missing"]

_logger = logging.getLogger(f"{__package__}.base")

# Classes whose missing layer has been logged.
_warned: "weakref.WeakSet[type[AsyncConsumer]]" = weakref.WeakSet()


def find_layer(consumer: "AsyncConsumer") -> BaseChannelLayer | None:
    """Return the registered layer of a consumer; warn once if it is missing."""
    alias = consumer.channel_layer_alias
    layer = channel_layers.get(alias)
    if layer is None and alias is not None and type(consumer) not in _warned:
        _warned.add(type(consumer))
        _logger.warning("%s has no channel layer: %s", *explain_missing(consumer))
    return layer


def layer_of(consumer: "AsyncConsumer") -> BaseChannelLayer | None:
    """Return ``channel_layer`` with its true type, which includes None."""
    return consumer.channel_layer


def explain_missing(consumer: "AsyncConsumer") -> tuple[str, str]:
    """Return the class of a consumer, and the reason why it has no layer."""
    name, alias = type(consumer).__qualname__, consumer.channel_layer_alias
    if alias is None:
        return name, "its channel_layer_alias is None"
    registered = ", ".join(map(repr, channel_layers)) or "none"
    return name, (
        f"no layer is registered for its channel_layer_alias {alias!r} "
        f"(registered: {registered})"
    )


def note_missing(consumer: "AsyncConsumer", error: BaseException) -> None:
    """Add a note to each error caused by a ``channel_layer`` of None."""
    if layer_of(consumer) is not None:
        return
    for each in leaves(error):
        if (
            isinstance(each, AttributeError)
            and each.obj is None
            and hasattr(BaseChannelLayer, each.name or "")
        ):
            name, reason = explain_missing(consumer)
            alias = consumer.channel_layer_alias
            advice = (
                "set it to the alias of a registered layer"
                if alias is None
                else f"call register_channel_layer({alias!r}, ...) before connections "
                "are served"
            )
            each.add_note(f"{name}.channel_layer is None, since {reason}: {advice}")
