"""Reads the histories of groups from Redis."""

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from fast_channels.exceptions import UndecodableMessage
from fast_channels.layers.copies import copies_of
from fast_channels.layers.history import (
    ONCE_SECONDS,
    POSITION_SECONDS,
    History,
    Numbered,
)

from .keys import history_keys
from .scripts import HISTORY_READ, run
from .shards import Shard, Shards

__all__ = ["HistoryReader", "Read", "numbering_options"]

_Reply: TypeAlias = tuple[bytes, bytes, bytes, list[tuple[bytes, list[bytes]]]]


def numbering_options(history: History) -> list[str | int]:
    """Return the options of ``number()`` in the scripts that send a message."""
    return [
        secrets.token_hex(4),
        _position_milliseconds(history),
        history.messages,
        math.ceil(1000 * history.seconds),
        1000 * ONCE_SECONDS,
    ]


def _position_milliseconds(history: History) -> int:
    return math.ceil(1000 * max(POSITION_SECONDS, 10 * history.seconds))


@dataclass(frozen=True, slots=True)
class Read:
    """What was read from Redis."""

    epoch: str
    """The epoch of the group."""
    last: int
    """The offset of its latest message."""
    after: int
    """The offset after which messages were read."""
    entries: list[tuple[bytes, list[bytes]]]
    """What there was, as it was stored."""


class HistoryReader:
    """Reads histories in one event loop.

    Args:
        shards: The shards.
        decode: Returns the message in a stored value.
        complain: Called with a group and the problem of a message.
    """

    def __init__(
        self,
        shards: Shards,
        decode: Callable[[bytes], dict[str, Any]],
        complain: Callable[[str, str], None],
    ) -> None:
        self._shards = shards
        self._decode = decode
        self.complain: Callable[[str, str], None] = complain
        """Counts and logs a message that cannot be delivered."""

    def shard(self, name: str) -> Shard:
        """Return the shard of a group."""
        return self._shards.of(name)

    async def ask(
        self,
        name: str,
        history: History,
        after: int | None,
        count: int,
        known: tuple[str, int] = ("", 0),
    ) -> Read:
        """Read the position of a group and messages from Redis.

        Args:
            name: The name of the group in Redis.
            history: Its history.
            after: The offset after which to begin; None for none.
            count: Number of latest messages to read in any case.
            known: The epoch, and the latest offset in it, that this process knows.
        """
        shard = self._shards.of(name)
        reply = await run(
            shard.commands,
            HISTORY_READ,
            history_keys(shard.prefix, name),
            *known,
            "" if after is None else after,
            count,
            history.messages,
            secrets.token_hex(4),
            _position_milliseconds(history),
        )
        epoch, last, start, entries = cast("_Reply", reply)
        return Read(epoch.decode(), int(last), int(start), entries)

    def numbered(self, read: Read, group: str) -> list[Numbered]:
        """Return the latest of the messages that were read, as far as none is missing.

        The last one is the latest message of the group.
        """
        messages: list[Numbered] = []
        expected = read.last
        for name, (_, value) in reversed(read.entries):
            if int(name.partition(b"-")[0]) != expected:
                break
            try:
                message = self._decode(value)
            except UndecodableMessage as exc:
                self.complain(group, str(exc))
                break
            messages.append(Numbered(copies_of(message), group, read.epoch, expected))
            expected -= 1
        messages.reverse()
        return messages
