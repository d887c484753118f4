"""The channel layer of the chat: in memory, or through Redis if REDIS_URL is set."""

import os

from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisChannelLayer,
    register_channel_layer,
)


def register_layers() -> None:
    """Register the layer, under the alias that the consumers name."""
    register_channel_layer("chat", make_layer())


def make_layer() -> InMemoryChannelLayer | RedisChannelLayer:
    """Return the layer; Redis is asked for nothing before somebody uses it."""
    url = os.environ.get("REDIS_URL")
    if not url:
        return InMemoryChannelLayer()
    try:
        return RedisChannelLayer(hosts=[url])
    except ValueError as exc:
        raise SystemExit(f"REDIS_URL: {exc}") from None
