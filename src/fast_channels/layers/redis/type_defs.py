"""The types of what the layers for Redis take."""

from typing import Any, TypeAlias

from .hosts import Host, HostSpelling

__all__ = [
    "ChannelDecodedRedisHost",
    "ChannelRawRedisHost",
    "Host",
    "HostSpelling",
    "SymmetricEncryptionKeys",
]

ChannelRawRedisHost: TypeAlias = HostSpelling
"""What a user may write for a host, by its name in release 1."""

ChannelDecodedRedisHost: TypeAlias = dict[str, Any]
"""A host as a dict of redis-py's arguments, or with its URL as ``address``."""

SymmetricEncryptionKeys: TypeAlias = list[str | bytes]
"""The secrets that messages are encrypted with."""
