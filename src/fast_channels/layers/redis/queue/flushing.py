"""Deletes the keys of a prefix, and no others.

The key of a queue does not show where its prefix ends; all other keys do, and each
layer sets such a key before it sends (see ``keys``). A key that can also belong to a
longer prefix is kept if such a key shows that this prefix is in use.
"""

import asyncio
import re

from fast_channels.layers.redis.keys import SIGN
from fast_channels.layers.redis.shards import Shard, Shards

__all__ = ["flush_keys"]

# Number of keys to delete with one command.
_STEP = 1000
_SIGNS = re.compile(rb"(.+)" + SIGN)


async def flush_keys(shards: Shards) -> None:
    """Delete the keys of the prefix of a layer, and no others.

    Raises:
        RedisUnavailable: Redis cannot be reached, or did not reply.
    """
    await asyncio.gather(*[_flush(*each) for each in await shards.find()])


async def _flush(shard: Shard, found: list[bytes]) -> None:
    start = shard.prefix.encode()
    own = re.compile(re.escape(start) + SIGN)
    signs = map(_SIGNS.fullmatch, (key for key in found if not own.fullmatch(key)))
    longer = tuple({sign[1] for sign in signs if sign})
    keys = [key for key in found if not key.startswith(longer)]
    for first in range(0, len(keys), _STEP):
        await shard.commands.execute("UNLINK", *keys[first : first + _STEP])
