import os

from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisChannelLayer,
    register_channel_layer,
)


def register_layers():
    redis_url = os.environ.get("REDIS_URL")
    if redis_url:
        layer = RedisChannelLayer(hosts=[redis_url])
    else:
        layer = InMemoryChannelLayer()
    register_channel_layer("chat", layer)
