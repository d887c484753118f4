"""The layer that publishes messages to the processes that listen at that moment.

``layer`` has the public class, ``endpoint`` its state in one event loop, and
``subscriber`` the connection that reads. ``queue`` has the same structure.
"""

from .layer import RedisPubSubChannelLayer

__all__ = ["RedisPubSubChannelLayer"]
