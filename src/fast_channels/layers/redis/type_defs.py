"""The types of arguments of the layers for Redis."""

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
"""Any accepted spelling of a host, under its name from release 1."""

ChannelDecodedRedisHost: TypeAlias = dict[str, Any]
"""A host as a dict of redis-py's arguments, or with its URL as ``address``."""

SymmetricEncryptionKeys: TypeAlias = list[str | bytes]
"""The secrets to encrypt messages with."""
