"""The layer that keeps messages in Redis until they are received.

``layer`` is what a user sees, ``endpoint`` what a layer has in one event loop, and
``inbox`` the reader. ``pubsub`` is built in the same way.
"""

from .layer import RedisChannelLayer

__all__ = ["RedisChannelLayer"]
