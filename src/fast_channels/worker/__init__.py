"""Handle messages of plain channels, without a connection.

Run it with ``python -m fast_channels.worker package.module:application channel ...``.
"""

from .worker import Worker

__all__ = ["Worker"]
