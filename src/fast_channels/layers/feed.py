"""The messages of a group with a history, for its members in this process.

A member's mailbox has a limited capacity. If a numbered message doesn't fit, a
:class:`~fast_channels.layers.history.Gap` takes its place, whatever the capacity: one
for all messages in a row that the member misses. So members never miss a message
without a notice, and a client that has the position before the gap can resume there.
"""

import sys
from collections.abc import Callable, Collection, Iterable

from .history import Gap, History, Numbered, Replay
from .mailboxes import Mailboxes
from .shared import SharedMessage

__all__ = ["Feed"]


class Feed:
    """Delivers the numbered messages of a group to members in this process.

    Args:
        group: The group.
        history: Its history.
        expiry: Seconds after which an unreceived message of other groups is dropped.
    """

    __slots__ = ("_behind", "_patience", "group", "history")

    def __init__(self, group: str, history: History, expiry: float) -> None:
        self.group: str = group
        """The group."""
        self.history: History = history
        """How much of its history is kept."""
        # A member that is slow gets what it could get by resuming as well.
        self._patience = max(expiry, history.seconds)
        # Members whose latest message was replaced with a gap.
        self._behind: frozenset[str] = frozenset()

    def put(
        self,
        places: Iterable[tuple[Mailboxes, Collection[str]]],
        message: Numbered,
        now: float,
    ) -> tuple[int, list[str]]:
        """Put a message into the mailboxes of all members.

        Args:
            places: Mailboxes, and the members whose mailboxes are among them.
            message: The message.
            now: The time on the clock of mailboxes.

        Returns:
            The number of channels that got it, and the full channels.
        """
        item = now + self._patience, message, SharedMessage(message(), message)
        delivered, missed = 0, list[str]()
        before, self._behind = self._behind, frozenset()
        for mailboxes, channels in places:
            put = mailboxes.put_some(iter(channels), item, sys.maxsize)
            delivered += put[0]
            if put[1]:
                missed += put[1]
                self._behind = self._behind.union(put[1])
                new = [channel for channel in put[1] if channel not in before]
                self.report(mailboxes, new, message.before, now)
        return delivered, missed

    def report(
        self, mailboxes: Mailboxes, channels: Collection[str], before: str, now: float
    ) -> None:
        """Report to members that they miss the messages after a position."""
        gap = Gap(self.group, before)
        for channel in channels:
            mailboxes.insert(channel, gap, now + self._patience)

    def replay(
        self, mailboxes: Mailboxes, channel: str, replay: Replay, now: float
    ) -> None:
        """Put old messages into a mailbox; they replace those that wait there."""
        self._behind -= {channel}
        mailboxes.replace(channel, self.sent, replay.messages, now + self._patience)

    def waiting(self, mailboxes: Mailboxes, channel: str) -> str | None:
        """Return the position before the first message that waits, or None."""
        found = mailboxes.find(channel, self.sent)
        return found.before if isinstance(found, Numbered | Gap) else None

    @property
    def sent(self) -> Callable[[object], bool]:
        """A function that returns whether a message is one of this group."""
        group = self.group
        return lambda item: isinstance(item, Numbered | Gap) and item.group == group
