"""Where the names of a layer are in a Redis Cluster, and who may use them there."""

import random
import re
from pathlib import Path

import pytest

from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.layers.redis.shards import Shard, open_shards
from tests.redis_servers.cluster import RedisCluster


def slot_of(layer: RedisChannelLayer, name: str) -> int:
    """Return the slot of a group, or of the queue of a channel."""
    shards = open_shards(layer.hosts, layer.prefix, _never, _never)
    return RedisCluster.slot_of(shards.of(layer.non_local_name(name)).prefix)


def pubsub_slot_of(layer: RedisPubSubChannelLayer, group: str) -> int:
    """Return the slot of a group of the pub/sub layer."""
    shards = open_shards(layer.hosts, layer.prefix, _never, _never)
    name = f"{layer.prefix}__group__{group}"
    return RedisCluster.slot_of(shards.of(name).prefix)


def move_anywhere(cluster: RedisCluster, slot: int, *, hold_open: float = 0) -> None:
    """Move a slot to another master."""
    source = cluster.owner(slot)
    others = [node for node in cluster.masters() if node is not source]
    cluster.move_slot(slot, random.choice(others), hold_open=hold_open)


def documented_users() -> list[list[str]]:
    """Return what the documentation gives to users with the prefix ``shop``.

    The first one is for the queue layer, and the second one for pub/sub.
    """
    page = Path(__file__).parents[3] / "docs" / "topics" / "cluster.rst"
    found = re.findall(
        r"ACL SETUSER shop (on(?:.+\n)+)", page.read_text(encoding="utf-8")
    )
    return [words.split() for words in found]


def _never(shard: Shard) -> None:
    pytest.fail(f"{shard.name} has changed")
