"""How hosts are written, and which of them has what."""

from .hosts import parse_hosts
from .sharding import shard_of

__all__ = ["parse_hosts", "shard_of"]
