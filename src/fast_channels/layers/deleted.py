"""The deleted channels of this process, at the cost of one bit per channel.

A copy that was sent to a group can arrive after its channel was deleted, and would then
wait for a receiver that never comes. Channels of a process are therefore numbered, and
the number is part of the name. Leading bytes whose bits are all set are removed: the
rest starts at the oldest channels that are not all deleted.
"""

import secrets

__all__ = ["DeletedChannels"]

# The byte for eight channels that are all deleted.
_ALL = b"\xff"


class DeletedChannels:
    """A record of the channels that were made, and of those that were deleted.

    It is not thread-safe: its owner must hold a lock.
    """

    def __init__(self) -> None:
        # The number of channels made so far, and how many of them are forgotten.
        self._made = self._forgotten = 0
        # The number of the first bit's channel; all before are deleted or forgotten.
        self._first = 0
        self._bits = bytearray()

    def new_name(self) -> str:
        """Return the end of a new channel's name, which is unique and unguessable."""
        number = self._made
        self._made += 1
        return f"{number:x}.{secrets.token_hex(8)}"

    def add(self, channel: str) -> None:
        """Record that a channel is deleted; ignore names that were not made here.

        Args:
            channel: The name, which ends with a result of ``new_name()``.
        """
        number = self._number(channel)
        if number < self._first:
            return
        place, bit = divmod(number - self._first, 8)
        self._bits.extend(bytes(max(place + 1 - len(self._bits), 0)))
        self._bits[place] |= 1 << bit
        if self._bits.startswith(_ALL):
            before = len(self._bits)
            self._bits = self._bits.lstrip(_ALL)
            self._first += 8 * (before - len(self._bits))

    def clear(self) -> None:
        """Forget all channels that were made so far."""
        self._first = self._forgotten = self._made
        self._bits = bytearray()

    def __contains__(self, channel: str) -> bool:
        number = self._number(channel)
        if number < self._first:
            return number >= 0
        place, bit = divmod(number - self._first, 8)
        return place < len(self._bits) and bool(self._bits[place] >> bit & 1)

    def __sizeof__(self) -> int:
        return super().__sizeof__() + self._bits.__sizeof__()

    def _number(self, channel: str) -> int:
        """Return the number of a channel, or -1 if it is unknown or forgotten."""
        try:
            number = int(channel.rpartition("!")[2].partition(".")[0], 16)
        except ValueError:
            return -1
        return number if self._forgotten <= number < self._made else -1
