"""Which channels of this process were deleted, at the cost of one bit for each.

A copy that was sent to a group may arrive after its channel was deleted, and would then
wait for a receiver that never comes. So the channels of a process are numbered, and the
number is part of the name. Bits at the beginning that are all set are left out: what
remains spans the channels since the oldest one that is not deleted.
"""

import secrets

__all__ = ["DeletedChannels"]

# Eight channels that are all deleted.
_ALL = b"\xff"


class DeletedChannels:
    """Numbers the channels that are made, and remembers which are deleted.

    Not safe in several threads: its owner holds a lock.
    """

    def __init__(self) -> None:
        # How many channels were made, and how many of them are forgotten.
        self._made = self._forgotten = 0
        # The number of the channel that the first bit is for; all before are deleted.
        self._first = 0
        self._bits = bytearray()

    def new_name(self) -> str:
        """Return how the name of a new channel ends: unique, and not to be guessed."""
        number = self._made
        self._made += 1
        return f"{number:x}.{secrets.token_hex(8)}"

    def add(self, channel: str) -> None:
        """Note that a channel is deleted; any name that was not made here is ignored.

        Args:
            channel: The name, which ends as ``new_name()`` said.
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
        """Forget the channels that were made so far."""
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
        """Return the number of a channel, or -1 if nothing is known of it."""
        try:
            number = int(channel.rpartition("!")[2].partition(".")[0], 16)
        except ValueError:
            return -1
        return number if self._forgotten <= number < self._made else -1
