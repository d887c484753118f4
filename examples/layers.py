"""The channel layer of the chat: in memory, or through Redis if REDIS_URL is set.

REDIS_LAYER chooses how: "queue" keeps messages in Redis until they are received, and
"pubsub" publishes them to whoever listens at that moment.
"""

import os

from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    register_channel_layer,
)

LAYERS: dict[str, type[RedisChannelLayer | RedisPubSubChannelLayer]] = {
    "queue": RedisChannelLayer,
    "pubsub": RedisPubSubChannelLayer,
}


def register_layers() -> None:
    """Register the layer, under the alias that the consumers name."""
    register_channel_layer("chat", make_layer())


def make_layer() -> BaseChannelLayer:
    """Return the layer; Redis is asked for nothing before somebody uses it."""
    url = os.environ.get("REDIS_URL")
    kind = os.environ.get("REDIS_LAYER", "queue")
    if not url:
        return InMemoryChannelLayer()
    if kind not in LAYERS:
        raise SystemExit(f"REDIS_LAYER: {kind!r} is neither 'queue' nor 'pubsub'")
    try:
        return LAYERS[kind](hosts=[url])
    except ValueError as exc:
        raise SystemExit(f"REDIS_URL: {exc}") from None
