"""The mapping of names to shards, the Redis hosts of a layer.

Django's channels_redis hashes names in the same way, so that both find the same host.
"""

import zlib

__all__ = ["shard_of"]

_RING = 4096


def shard_of(name: str | bytes, shards: int) -> int:
    """Return the shard of a name: the index of its host in the list of hosts.

    The whole argument is hashed, so cut the name of a channel after its ``!`` first:
    receivers wait on the shard of this non-local part, and ``group_send()`` sends one
    value there for all channels of a process. With the whole name hashed, a message
    to a single channel would go to a shard where most likely no receiver waits;
    channels_redis loses messages in this way. Pass names without a local part as they
    are: those of groups, and in the pub/sub layer those of Redis channels, with their
    prefix.

    Args:
        name: The name of a group, the non-local part of the name of a channel, or the
            name of a Redis channel.
        shards: The number of hosts.
    """
    if shards == 1:
        return 0
    # A division of floats, as in channels_redis: it determines the boundaries when
    # 4096 is not a multiple of the number of shards.
    data = name.encode() if isinstance(name, str) else name
    return int(zlib.crc32(data) % _RING / (_RING / shards))
