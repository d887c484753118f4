"""The layer that keeps messages in Redis until they are received.

``layer`` has the class for users, ``endpoint`` its part in one event loop, and
``inbox`` the reader of queues. ``pubsub`` has the same structure.
"""

from .layer import RedisChannelLayer

__all__ = ["RedisChannelLayer"]
