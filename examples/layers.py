"""The channel layer of the chat."""

import os

from fast_channels.layers import InMemoryChannelLayer, register_channel_layer


def register_layers() -> None:
    """Register the layer, under the alias that the consumers name."""
    if os.environ.get("REDIS_URL"):
        raise SystemExit(
            "REDIS_URL is set, but this release has no channel layer for Redis yet: "
            "unset REDIS_URL to run the chat in one process."
        )
    register_channel_layer("chat", InMemoryChannelLayer())
