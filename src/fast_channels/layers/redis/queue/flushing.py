"""Which keys belong to a prefix, and how they are deleted.

A key is the prefix and a name, with nothing between: ``app2jobs`` may be channel
``jobs`` of prefix ``app2``, or channel ``2jobs`` of prefix ``app``. But there are keys
that tell of their prefix: those of groups, those that are ours alone, and the mark
that each layer of ours sets before it sends. A key is left alone if it may belong to a
longer prefix of which there is such a sign.
"""

import re
from typing import cast

from fast_channels.layers.redis.commands import CommandConnection
from fast_channels.layers.redis.patterns import starting_with

__all__ = ["flush_keys"]

# How many keys are looked at, or deleted, by one command.
_STEP = 1000
# What stands after the prefix in keys that tell of it. Names have no colons; the key of
# a queue, in braces, may have those of its prefix.
_SIGN = rb":(?:group:[^:]+|[a-z]+:\{.+\}(?::[^:{}]+)?|layer|processes)"
_SIGNS = re.compile(rb"(.+)" + _SIGN)


async def flush_keys(server: CommandConnection, prefix: str) -> None:
    """Delete the keys of a prefix, and of no other.

    Raises:
        RedisUnavailable: The server cannot be reached, or did not reply.
    """
    start = prefix.encode()
    found = await _find(server, prefix)
    own = re.compile(re.escape(start) + _SIGN)
    signs = map(_SIGNS.fullmatch, (key for key in found if not own.fullmatch(key)))
    longer = tuple({sign[1] for sign in signs if sign})
    keys = [key for key in found if not key.startswith(longer)]
    for first in range(0, len(keys), _STEP):
        await server.execute("UNLINK", *keys[first : first + _STEP])


async def _find(server: CommandConnection, prefix: str) -> list[bytes]:
    pattern = starting_with(prefix)
    found: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, page = cast(
            "tuple[bytes, list[bytes]]",
            await server.execute("SCAN", cursor, "MATCH", pattern, "COUNT", _STEP),
        )
        found.update(page)
        if cursor == b"0":
            return list(found)
