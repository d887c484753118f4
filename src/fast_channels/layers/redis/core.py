"""The queue layer, by the name that its module has in channels_redis."""

from .queue import RedisChannelLayer

__all__ = ["RedisChannelLayer"]
