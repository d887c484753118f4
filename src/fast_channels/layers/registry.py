"""The registry of layers, by their aliases."""

import asyncio
import logging
from collections.abc import Iterator
from typing import cast

from fast_channels.exceptions import InvalidChannelLayerError
from fast_channels.type_defs import ChannelLayerProtocol

from .base import BaseChannelLayer
from .foreign import as_layer, is_layer
from .listening import end_listeners

__all__ = [
    "ChannelLayerRegistry",
    "channel_layers",
    "get_channel_layer",
    "has_layers",
    "register_channel_layer",
    "unregister_channel_layer",
]

_logger = logging.getLogger(__name__)


class ChannelLayerRegistry:
    """A mapping of aliases to layers.

    An application registers its layers, usually once at startup. A consumer looks up
    its ``channel_layer_alias`` for every new connection, so layers can also be
    registered, replaced or removed later; open connections keep their layer.

    A layer is an instance of :class:`BaseChannelLayer`, or any other object with the
    methods ``send``, ``receive`` and ``new_channel``, and for groups ``group_add``,
    ``group_discard`` and ``group_send``, such as the layers for Django Channels.
    """

    def __init__(self) -> None:
        self._layers: dict[str, BaseChannelLayer] = {}

    def register(self, alias: str, layer: ChannelLayerProtocol) -> None:
        """Register a layer under an alias, replacing any other layer there.

        Raises:
            TypeError: The alias is not a str, or the layer is not an instance with the
                methods of a layer.
            ValueError: The alias is empty.
        """
        _check_alias(alias)
        _check_layer(alias, layer)
        self._layers[alias] = cast("BaseChannelLayer", layer)

    def unregister(self, alias: str) -> None:
        """Remove an alias; do nothing if it is unknown. The layer stays open."""
        self._layers.pop(alias, None)

    def __getitem__(self, alias: str) -> BaseChannelLayer:
        """Return the layer of an alias.

        Raises:
            InvalidChannelLayerError: No layer is registered for the alias.
        """
        layer = self.get(alias)
        if layer is None:
            registered = ", ".join(map(repr, self._layers)) or "none"
            raise InvalidChannelLayerError(
                f"no layer is registered for the alias {alias!r} (registered: "
                f"{registered}); this process has to call register_channel_layer() too"
            )
        return layer

    def get(self, alias: str | None) -> BaseChannelLayer | None:
        """Return the layer of an alias, or None for an unknown alias and for None."""
        return None if alias is None else self._layers.get(alias)

    def list_aliases(self) -> list[str]:
        """Return the aliases, in the order of their first registration."""
        return list(self._layers)

    def clear(self) -> None:
        """Remove every alias. The layers stay open."""
        self._layers.clear()

    async def close(self, timeout: float = 5) -> None:
        """Close all layers; they stay registered, and can be used again.

        If a layer raises an error, it is logged, and the other layers are still closed.

        Args:
            timeout: Seconds to wait for each layer.
        """
        # Each layer once, with one of its aliases.
        layers = {id(layer): (alias, layer) for alias, layer in self._layers.items()}
        await asyncio.gather(
            *(_close(alias, layer, timeout) for alias, layer in layers.values())
        )

    def __contains__(self, alias: object) -> bool:
        return alias in self._layers

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        layers = ", ".join(
            f"{alias}={type(layer).__name__}" for alias, layer in self._layers.items()
        )
        return f"<ChannelLayerRegistry [{layers}]>"


async def _close(alias: str, layer: BaseChannelLayer, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            # A layer of the application can have a close() that does not do this.
            await end_listeners(layer)
            await as_layer(layer).close()
    except Exception:
        _logger.exception("the layer with alias %r could not be closed", alias)


def _check_alias(alias: object) -> None:
    if not isinstance(alias, str):
        raise TypeError(f"the alias of a layer must be a str, not {alias!r}")
    if not alias:
        raise ValueError("the alias of a layer must not be empty")


def _check_layer(alias: str, layer: object) -> None:
    if isinstance(layer, type):
        raise TypeError(
            f"the layer for alias {alias!r} must be an instance, but "
            f"{layer.__name__} is a class: write {layer.__name__}(...)"
        )
    if not is_layer(layer):
        raise TypeError(
            f"the layer for alias {alias!r} must be an instance of a subclass of "
            f"BaseChannelLayer, not {layer!r}"
        )


channel_layers: ChannelLayerRegistry = ChannelLayerRegistry()
"""The registry that consumers and the functions of this module use."""


def register_channel_layer(alias: str, layer: ChannelLayerProtocol) -> None:
    """Register a layer under an alias, replacing any other layer there.

    Raises:
        TypeError: The alias is not a str, or the layer is not an instance with the
            methods of a layer.
        ValueError: The alias is empty.
    """
    channel_layers.register(alias, layer)


def unregister_channel_layer(alias: str) -> None:
    """Remove an alias; do nothing if it is unknown. The layer stays open."""
    channel_layers.unregister(alias)


def get_channel_layer(alias: str | None = "default") -> BaseChannelLayer | None:
    """Return the layer of an alias, or None for an unknown alias and for None."""
    return channel_layers.get(alias)


def has_layers() -> bool:
    """Return whether any layer is registered."""
    return len(channel_layers) > 0
