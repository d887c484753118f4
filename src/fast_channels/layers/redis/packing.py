"""Encodes commands in the protocol of Redis."""

from collections.abc import Callable
from typing import TypeAlias, cast

from redis.asyncio.connection import Connection

__all__ = ["pack"]

Pack: TypeAlias = Callable[[tuple[str | bytes | float, ...]], bytes]

_connection = Connection()


def _pack_in_python(command: tuple[str | bytes | float, ...]) -> bytes:
    return b"".join(_connection.pack_command(*command))


try:
    # Several times faster. redis-py uses it for blocking connections only.
    import hiredis

    _pack = cast("Pack", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType] # its stub says Tuple
except ImportError:
    _pack = _pack_in_python

pack: Pack = _pack
"""Function that encodes a command."""
