"""Which of several Redis hosts keeps what belongs to a name.

Django's channels_redis places names on the same ring, so that both find each other.
"""

import zlib
from collections.abc import Iterable

__all__ = ["names_by_shard", "shard_of"]

_RING = 4096


def shard_of(name: str | bytes, shards: int) -> int:
    """Return the shard of a name: the index of its host in the list of hosts.

    All of the name counts. So the name of a channel is to be cut at its ``!`` before,
    to its non-local part: receivers wait where that part leads, and ``group_send()``
    sends one value for all channels of a process to that one place. With the whole
    name hashed, a message to a single channel would go to a shard of its own, where
    in most cases nobody looks; channels_redis loses messages in this way. Names
    without a local part are hashed as they are: those of groups, and in the pub/sub
    layer those of Redis channels, with their prefix.

    Args:
        name: The name of a group, the non-local part of the name of a channel, or the
            name of a Redis channel.
        shards: How many hosts there are.
    """
    if shards == 1:
        return 0
    # The division is one of floats, as in channels_redis: it decides where the
    # borders are when 4096 is no multiple of the number of shards.
    data = name.encode() if isinstance(name, str) else name
    return int(zlib.crc32(data) % _RING / (_RING / shards))


def names_by_shard(names: Iterable[str], shards: int) -> dict[int, list[str]]:
    """Return the shards that some names belong to, each with its names in order."""
    by_shard: dict[int, list[str]] = {}
    for name in names:
        by_shard.setdefault(shard_of(name, shards), []).append(name)
    return by_shard
