"""Channel layers, which carry messages between consumers, workers and scripts."""

from typing import TYPE_CHECKING, Any

from .base import BaseChannelLayer
from .delivery import Delivery
from .history import GroupHistory, GroupMessage, History, Resumed
from .in_memory import InMemoryChannelLayer
from .listening import Messages
from .registry import (
    ChannelLayerRegistry,
    channel_layers,
    get_channel_layer,
    has_layers,
    register_channel_layer,
    unregister_channel_layer,
)
from .sync import SyncChannelLayer

if TYPE_CHECKING:
    from .redis import RedisChannelLayer, RedisPubSubChannelLayer

__all__ = [
    "BaseChannelLayer",
    "ChannelLayerRegistry",
    "Delivery",
    "GroupHistory",
    "GroupMessage",
    "History",
    "InMemoryChannelLayer",
    "Messages",
    "RedisChannelLayer",
    "RedisPubSubChannelLayer",
    "Resumed",
    "SyncChannelLayer",
    "channel_layers",
    "get_channel_layer",
    "has_layers",
    "register_channel_layer",
    "unregister_channel_layer",
]

_IN_REDIS = frozenset({"RedisChannelLayer", "RedisPubSubChannelLayer"})


def __getattr__(name: str) -> Any:
    # Import the layers for Redis lazily: the package works without redis installed.
    if name in _IN_REDIS:
        from . import redis  # noqa: PLC0415

        return getattr(redis, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
