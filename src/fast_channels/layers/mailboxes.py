"""The mailboxes of the channels that are read in this process, by name.

One lock guards them. No code waits for anything while it holds it, and uncontended it
costs less than a dict look-up; with it a layer may be used from several event loops in
several threads at once.
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from fast_channels.forks import released

from .deleted import DeletedChannels
from .mailbox import Mailbox

__all__ = ["Mailboxes"]


class Mailboxes:
    """A mailbox for each channel in which a message or a receiver waits.

    Args:
        capacity_of: Returns how many messages may wait in a channel.
        interval: For how many seconds mailboxes that nobody reads, and in which all has
            expired, are kept at least.
    """

    def __init__(self, capacity_of: Callable[[str], int], interval: float) -> None:
        self.lock: threading.RLock = released(threading.RLock())
        """Guards the mailboxes; a layer may guard with it what belongs to them.

        Reentrant, since the garbage collector may end a forgotten receiver in the
        middle of anything.
        """
        self.by_channel: dict[str, Mailbox] = {}
        """The mailboxes."""
        # What still comes for these is lost.
        self._deleted = DeletedChannels()
        self._capacity_of = capacity_of
        self._interval = interval
        # When to look again for what nobody will fetch any more.
        self._next_sweep = time.monotonic() + interval

    def waiting(self) -> int:
        """Return how many messages wait in all of them."""
        with self.lock:
            return sum(map(len, self.by_channel.values()))

    def put(
        self, channel: str, message: Callable[[], dict[str, Any]], deadline: float
    ) -> bool:
        """Add a message, as ``Mailbox.put()`` does; False if there is no room."""
        with self.lock:
            return self._mailbox(channel).put(message, deadline)

    def put_each(
        self,
        channels: Iterable[str],
        message: Callable[[], dict[str, Any]],
        deadline: float,
    ) -> tuple[int, list[str]]:
        """Add a message to several channels, except those that are buried.

        Returns:
            How many have it, and which had no room.
        """
        delivered = 0
        full: list[str] = []
        item = (deadline, message)
        by_channel = self.by_channel
        with self.lock:
            for channel in channels:
                mailbox = by_channel.get(channel)
                if mailbox is None:
                    if channel in self._deleted:
                        continue
                    mailbox = self._mailbox(channel)
                if mailbox.put_item(item):
                    delivered += 1
                else:
                    full.append(channel)
        return delivered, full

    def not_stalled(self, channels: Iterable[str]) -> list[str]:
        """Return those full channels that a sender has a reason to wait for.

        It has none if one has waited already and nothing was taken since.
        """
        with self.lock:
            return [
                channel
                for channel in channels
                if (mailbox := self.by_channel.get(channel)) is None
                or mailbox.stalled_at is not mailbox.oldest
            ]

    def note_stalled(self, channels: Iterable[str]) -> None:
        """Note that a sender has waited for room in vain."""
        with self.lock:
            for channel in channels:
                mailbox = self.by_channel.get(channel)
                if mailbox is not None:
                    mailbox.stalled_at = mailbox.oldest

    def open(self, channel: str) -> Mailbox:
        """Return the mailbox of a channel for a reader, who is to ``close()`` it."""
        with self.lock:
            mailbox = self._mailbox(channel)
            mailbox.readers += 1
            return mailbox

    def close(self, channel: str, mailbox: Mailbox) -> None:
        """Let go of what ``open()`` returned."""
        with self.lock:
            mailbox.readers -= 1
            if (
                not mailbox.readers
                and not mailbox
                and self.by_channel.get(channel) is mailbox
            ):
                del self.by_channel[channel]

    def attach(self, channel: str, listener: Callable[[], None]) -> Mailbox:
        """Return the mailbox of a channel for a reader that does not wait."""
        with self.lock:
            mailbox = self._mailbox(channel)
            if mailbox.listener is None:
                mailbox.readers += 1
            mailbox.listener = listener
            return mailbox

    def delete(self, channel: str) -> bool:
        """Drop a channel's messages and its listener.

        Returns:
            Whether there was a listener.
        """
        with self.lock:
            mailbox = self.by_channel.get(channel)
            if mailbox is None:
                return False
            mailbox.drain()
            attached = mailbox.listener is not None
            if attached:
                mailbox.listener = None
                mailbox.readers -= 1
            if not mailbox.readers:
                self.by_channel.pop(channel, None)
            return attached

    def new_name(self) -> str:
        """Return how the name of a new channel ends, so that it can be buried."""
        with self.lock:
            return self._deleted.new_name()

    def bury(self, channel: str) -> None:
        """Delete a channel for good: what comes for it from now on is lost.

        Args:
            channel: A channel of this process, whose name ends as ``new_name()`` said.
        """
        with self.lock:
            self.delete(channel)
            # Readers that are still there wait for ever, as for any deleted channel.
            self.by_channel.pop(channel, None)
            self._deleted.add(channel)

    def forget_buried(self) -> None:
        """Release what is known of the channels that were made so far."""
        with self.lock:
            self._deleted.clear()

    def clear(self) -> None:
        """Drop every message; whoever receives goes on waiting."""
        with self.lock:
            for channel, mailbox in list(self.by_channel.items()):
                mailbox.drain()
                if not mailbox.readers:
                    self.by_channel.pop(channel, None)

    def sweep_if_due(self, now: float, patience: float = 0) -> bool:
        """Drop what nobody will fetch any more, from time to time.

        Args:
            now: The time on the clock of mailboxes.
            patience: For how many seconds more to leave it.

        Returns:
            Whether it was time to.
        """
        with self.lock:
            if now < self._next_sweep + patience:
                return False
            self._next_sweep = now + self._interval
            for channel, mailbox in list(self.by_channel.items()):
                if not mailbox.readers and mailbox.lapsed:
                    self.by_channel.pop(channel, None)
            return True

    def _mailbox(self, channel: str) -> Mailbox:
        mailbox = self.by_channel.get(channel)
        if mailbox is None:
            mailbox = Mailbox(self._capacity_of(channel))
            if channel not in self._deleted:
                self.by_channel[channel] = mailbox
        return mailbox
