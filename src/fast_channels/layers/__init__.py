"""Channel layers: how consumers, workers and scripts send to one another."""

from .base import BaseChannelLayer
from .in_memory import InMemoryChannelLayer
from .registry import (
    ChannelLayerRegistry,
    channel_layers,
    get_channel_layer,
    has_layers,
    register_channel_layer,
    unregister_channel_layer,
)

__all__ = [
    "BaseChannelLayer",
    "ChannelLayerRegistry",
    "InMemoryChannelLayer",
    "channel_layers",
    "get_channel_layer",
    "has_layers",
    "register_channel_layer",
    "unregister_channel_layer",
]
