"""The channel layers: in memory, or through Redis if REDIS_URL is set.

Each has its alias, by which consumers name it, and its purpose:

* ``chat``: everybody in a room, at that moment. REDIS_LAYER=queue keeps its messages
  in Redis until they are received; by default they are published.
* ``queue``: what must not be lost, the news of background jobs.
* ``notifications``: everybody who looks at that moment.
* ``analytics``: events that wait for a worker, up to an hour.
"""

import os

from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    has_layers,
    register_channel_layer,
)

KINDS: dict[str, type[RedisChannelLayer | RedisPubSubChannelLayer]] = {
    "pubsub": RedisPubSubChannelLayer,
    "queue": RedisChannelLayer,
}


def redis_url() -> str | None:
    """Return where Redis is; None says to do without."""
    return os.environ.get("REDIS_URL") or None


def setup_layers(*, force: bool = False) -> None:
    """Register all layers, unless that was done; Redis is not yet asked for anything.

    Args:
        force: Register them anew.
    """
    if has_layers() and not force:
        return
    url = redis_url()
    try:
        layers = _in_memory() if url is None else _through_redis(url)
    except ValueError as exc:
        raise SystemExit(f"REDIS_URL: {exc}") from None
    for alias, layer in layers.items():
        register_channel_layer(alias, layer)


def _in_memory() -> dict[str, BaseChannelLayer]:
    return {
        "chat": InMemoryChannelLayer(),
        "queue": InMemoryChannelLayer(capacity=1000),
        "notifications": InMemoryChannelLayer(),
        "analytics": InMemoryChannelLayer(expiry=3600, capacity=5000),
    }


def _through_redis(url: str) -> dict[str, BaseChannelLayer]:
    kind = os.environ.get("REDIS_LAYER", "pubsub")
    if kind not in KINDS:
        raise SystemExit(f"REDIS_LAYER: {kind!r} is neither 'queue' nor 'pubsub'")
    # Prefixes keep the layers apart, which share one Redis.
    return {
        "chat": KINDS[kind](hosts=[url], prefix="chat"),
        "queue": RedisChannelLayer(
            hosts=[url], prefix="queue", expiry=900, capacity=1000
        ),
        "notifications": RedisPubSubChannelLayer(hosts=[url], prefix="notify"),
        "analytics": RedisChannelLayer(
            hosts=[url], prefix="analytics", expiry=3600, capacity=5000
        ),
    }
