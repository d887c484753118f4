"""Which channels are in which groups, looked up from either side."""

import itertools
from collections.abc import Callable

__all__ = ["Groups"]


class Groups:
    """The groups of some channels. It is not thread-safe."""

    def __init__(self) -> None:
        self.by_group: dict[str, dict[str, float]] = {}
        """The channels of each group, in the order in which they joined, each with a
        time."""
        self.by_channel: dict[str, set[str]] = {}
        """The groups of each channel."""
        # Called with each group whose last channel has left.
        self._emptied: Callable[[str], None] | None = None

    def watch(self, emptied: Callable[[str], None]) -> None:
        """Call a function with each group whose last channel has left."""
        self._emptied = emptied

    def add(self, group: str, channel: str, time: float = 0.0) -> bool:
        """Add a channel to a group, or set its time; return whether it is new."""
        members = self.by_group.get(group)
        if members is None:
            members = self.by_group[group] = {}
        is_new = channel not in members
        members[channel] = time
        if is_new:
            self.by_channel.setdefault(channel, set()).add(group)
        return is_new

    def discard(self, group: str, channel: str) -> bool:
        """Remove a channel from a group; return whether it was a member."""
        members = self.by_group.get(group, {})
        was_member = members.pop(channel, None) is not None
        if (
            not members
            and self.by_group.pop(group, None) is not None
            and self._emptied is not None
        ):
            self._emptied(group)
        groups = self.by_channel.get(channel, set())
        groups.discard(group)
        if not groups:
            self.by_channel.pop(channel, None)
        return was_member

    def discard_some(self, channel: str, limit: int) -> list[str]:
        """Remove a channel from some of its groups, and return those groups.

        A channel can be in so many groups that removing it from all of them at once
        would block the event loop.
        """
        groups = list(itertools.islice(self.by_channel.get(channel, ()), limit))
        for group in groups:
            self.discard(group, channel)
        return groups

    def clear(self) -> None:
        """Remove all channels from all groups."""
        self.by_group.clear()
        self.by_channel.clear()
