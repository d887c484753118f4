"""The layers that carry messages through Redis."""

try:
    from .connections import RedisUnavailable
    from .pubsub import RedisPubSubChannelLayer
    from .queue import RedisChannelLayer
except ImportError as exc:
    missing = (exc.name or "").partition(".")[0]
    if missing not in {"msgpack", "redis"}:
        raise
    raise ImportError(
        f"the layers for Redis need {missing}, which cannot be imported; install it: "
        "pip install 'fast-channels[redis]'",
        name=exc.name,
    ) from exc

__all__ = ["RedisChannelLayer", "RedisPubSubChannelLayer", "RedisUnavailable"]
