"""The layer that publishes messages to the processes that listen at that moment.

``layer`` is what a user sees, ``endpoint`` what a layer has in one event loop, and
``subscriber`` the reader. ``queue`` is built in the same way.
"""

from .layer import RedisPubSubChannelLayer

__all__ = ["RedisPubSubChannelLayer"]
