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
        # Channels that were deleted, and until when something may come for them.
        self._buried: dict[str, float] = {}
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
        now: float,
    ) -> tuple[int, int]:
        """Add a message to several channels, except those that are buried now.

        Returns:
            How many have it, and how many had no room.
        """
        delivered = dropped = 0
        item = (deadline, message)
        by_channel, buried = self.by_channel, self._buried
        with self.lock:
            for channel in channels:
                if channel in buried and self.is_buried(channel, now):
                    continue
                mailbox = by_channel.get(channel)
                if mailbox is None:
                    mailbox = self._mailbox(channel)
                if mailbox.put_item(item):
                    delivered += 1
                else:
                    dropped += 1
        return delivered, dropped

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
            if not mailbox.readers and not mailbox:
                self.by_channel.pop(channel, None)

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

    def bury(self, channel: str) -> None:
        """Delete a channel of which messages may be on their way, which are to be lost.

        ``put_each()`` leaves it out; ``put()`` does not ask.
        """
        now = time.monotonic()
        with self.lock:
            self.delete(channel)
            while self._buried and not self.is_buried(
                oldest := next(iter(self._buried)), now
            ):
                del self._buried[oldest]
            # At the end, where the latest are.
            self._buried.pop(channel, None)
            self._buried[channel] = now + self._interval

    def is_buried(self, channel: str, now: float) -> bool:
        """Return whether what comes for a channel at this time is to be lost."""
        until = self._buried.get(channel)
        return until is not None and until > now

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
            mailbox = self.by_channel[channel] = Mailbox(self._capacity_of(channel))
        return mailbox
