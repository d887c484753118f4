"""The channel layers: in memory, or through Redis if REDIS_URL is set.

Consumers choose a layer by its alias. Each has its purpose:

* ``chat``: messages to everyone in a room, with a history for those who come later. By
  default they are published; REDIS_LAYER=queue sends them through queues.
* ``answers``: the parts of answers, with a history from their beginning to their end.
* ``queue``: messages that must not be lost, the progress of background jobs.
* ``notifications``: messages to every page that is open at the moment.
* ``analytics``: events that wait for a worker for up to an hour.
"""

import os

from fast_channels.layers import (
    BaseChannelLayer,
    History,
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    has_layers,
    register_channel_layer,
)

# How much the groups of these layers keep.
CHAT = {"room.*": History(messages=200, seconds=86_400)}
ANSWERS = {"answer.*": History(messages=1000, seconds=3600)}

KINDS: dict[str, type[RedisChannelLayer | RedisPubSubChannelLayer]] = {
    "pubsub": RedisPubSubChannelLayer,
    "queue": RedisChannelLayer,
}


def redis_url() -> str | None:
    """Return the URL of Redis, or None to work without it."""
    return os.environ.get("REDIS_URL") or None


def setup_layers(*, force: bool = False) -> None:
    """Register all layers, if that is not done yet; this does not connect to Redis.

    Args:
        force: Register them again.
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
        "chat": InMemoryChannelLayer(history=CHAT),
        "answers": InMemoryChannelLayer(history=ANSWERS),
        "queue": InMemoryChannelLayer(capacity=1000),
        "notifications": InMemoryChannelLayer(),
        "analytics": InMemoryChannelLayer(expiry=3600, capacity=5000),
    }


def _through_redis(url: str) -> dict[str, BaseChannelLayer]:
    kind = os.environ.get("REDIS_LAYER", "pubsub")
    if kind not in KINDS:
        raise SystemExit(f"REDIS_LAYER: {kind!r} is neither 'queue' nor 'pubsub'")
    # Prefixes separate the layers, which share one Redis.
    return {
        "chat": KINDS[kind](hosts=[url], prefix="chat", history=CHAT),
        "answers": KINDS[kind](hosts=[url], prefix="answers", history=ANSWERS),
        "queue": RedisChannelLayer(
            hosts=[url], prefix="queue", expiry=900, capacity=1000
        ),
        "notifications": RedisPubSubChannelLayer(hosts=[url], prefix="notify"),
        "analytics": RedisChannelLayer(
            hosts=[url], prefix="analytics", expiry=3600, capacity=5000
        ),
    }
