"""The dead letters of plain channels: messages whose receivers died too often.

``recover.lua`` puts them aside, in a key that belongs to the queue of the channel.
"""

import asyncio
import itertools
import math

from fast_channels.layers.redis.keys import private_key, queue_key
from fast_channels.layers.redis.scripts import REQUEUE, run
from fast_channels.layers.redis.shards import Shard, Shards

__all__ = ["read_dead_letters", "requeue_dead_letters"]


async def read_dead_letters(shards: Shards, channel: str, limit: int) -> list[bytes]:
    """Return the dead letters of a plain channel, not decoded.

    Args:
        shards: The shards of the layer.
        channel: The channel.
        limit: Maximum number of messages from each shard.

    Raises:
        RedisUnavailable: Redis does not reply, or refuses the command.
    """
    found: list[list[bytes]] = await asyncio.gather(
        *[
            shard.commands.execute("ZRANGE", _key(shard, channel), 0, limit - 1)
            for shard in shards.holding(channel)
        ]
    )
    return list(itertools.chain.from_iterable(found))


async def requeue_dead_letters(shards: Shards, channel: str, expiry: float) -> int:
    """Put the dead letters of a channel back into it; return their number.

    Args:
        shards: The shards of the layer.
        channel: The channel.
        expiry: Seconds that they can wait there.

    Raises:
        RedisUnavailable: Redis does not reply, or refuses the command.
    """
    moved = await asyncio.gather(
        *[
            run(
                shard.commands,
                REQUEUE,
                [queue_key(shard.prefix, channel), _key(shard, channel)],
                math.ceil(1000 * expiry),
            )
            for shard in shards.holding(channel)
        ]
    )
    return sum(moved)


def _key(shard: Shard, channel: str) -> str:
    return private_key(shard.prefix, "deadletters", channel)
