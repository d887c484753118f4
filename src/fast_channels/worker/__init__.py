"""Handle messages of plain channels, apart from any connection.

As a program: ``python -m fast_channels.worker package.module:application channel ...``
"""

from .worker import Worker

__all__ = ["Worker"]
