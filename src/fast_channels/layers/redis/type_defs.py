"""The types of what the layers for Redis take."""

from .hosts import Host, HostSpelling

__all__ = ["Host", "HostSpelling"]
