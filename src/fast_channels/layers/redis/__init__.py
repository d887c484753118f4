"""The layers that carry messages through Redis."""

from .connections import RedisUnavailable
from .queue import RedisChannelLayer

__all__ = ["RedisChannelLayer", "RedisUnavailable"]
