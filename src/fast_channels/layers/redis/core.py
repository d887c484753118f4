"""The queue layer, under the name that its module has in channels_redis."""

from fast_channels.exceptions import ChannelFull

from .queue.layer import RedisChannelLayer

__all__ = ["ChannelFull", "RedisChannelLayer"]
