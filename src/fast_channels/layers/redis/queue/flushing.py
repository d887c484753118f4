"""Deletes the keys of a prefix, and no others.

The key of a queue does not show where its prefix ends; all other keys do, and each
layer sets such a key before it sends (see ``keys``). A key that can also belong to a
longer prefix is kept if such a key shows that this prefix is in use.
"""

import re
from typing import cast

from fast_channels.layers.redis.keys import SIGN
from fast_channels.layers.redis.shards import Shard
from fast_channels.layers.redis.wire import starting_with

__all__ = ["flush_keys"]

# Number of keys to scan, or to delete, with one command.
_STEP = 1000
_SIGNS = re.compile(rb"(.+)" + SIGN)


async def flush_keys(shard: Shard, prefix: str) -> None:
    """Delete the keys of a prefix, and no others.

    Raises:
        RedisUnavailable: Redis cannot be reached, or did not reply.
    """
    start = prefix.encode()
    found = await _find(shard, prefix)
    own = re.compile(re.escape(start) + SIGN)
    signs = map(_SIGNS.fullmatch, (key for key in found if not own.fullmatch(key)))
    longer = tuple({sign[1] for sign in signs if sign})
    keys = [key for key in found if not key.startswith(longer)]
    for first in range(0, len(keys), _STEP):
        await shard.commands.execute("UNLINK", *keys[first : first + _STEP])


async def _find(shard: Shard, prefix: str) -> list[bytes]:
    pattern = starting_with(prefix)
    found: set[bytes] = set()
    cursor = b"0"
    execute = shard.commands.execute
    while True:
        cursor, page = cast(
            "tuple[bytes, list[bytes]]",
            await execute("SCAN", cursor, "MATCH", pattern, "COUNT", _STEP),
        )
        found.update(page)
        if cursor == b"0":
            return list(found)
