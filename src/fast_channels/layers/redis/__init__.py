"""The layers that carry messages through Redis."""

from fast_channels.exceptions import RedisUnavailable

try:
    from .pubsub.layer import RedisPubSubChannelLayer
    from .queue.layer import RedisChannelLayer
except ImportError as _exc:
    _missing = (_exc.name or "").partition(".")[0]
    if _missing not in {"msgpack", "redis"}:
        raise
    raise ImportError(
        f"the layers for Redis need {_missing}, which cannot be imported; install it: "
        "pip install 'fast-channels[redis]'",
        name=_exc.name,
    ) from _exc

__all__ = ["RedisChannelLayer", "RedisPubSubChannelLayer", "RedisUnavailable"]
