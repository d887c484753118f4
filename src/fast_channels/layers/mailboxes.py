"""The mailboxes of this process, by the name of the channel.

One lock guards them, so that event loops in several threads can use a layer at the same
time. No code waits while it holds the lock, and an uncontended lock costs less than a
dict look-up.
"""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fast_channels.forks import released
from fast_channels.waking import running_loop

from .deleted import DeletedChannels
from .mailbox import Item, Mailbox

if TYPE_CHECKING:
    from fast_channels.frames import Outlet

__all__ = ["SEND", "Mailboxes"]

SEND = 8
"""The work of sending to a client; that of putting a message into a mailbox is 1."""


class Mailboxes:
    """A mailbox for each channel that has a message or a receiver.

    Args:
        capacity_of: Returns the capacity of a channel.
        interval: Minimum seconds between two sweeps, which drop mailboxes without
            readers whose messages have all expired.
    """

    def __init__(self, capacity_of: Callable[[str], int], interval: float) -> None:
        self.lock: threading.RLock = released(threading.RLock())
        """Guards the mailboxes; a layer can guard related state with it.

        Reentrant, since the garbage collector can close an abandoned receiver at any
        point.
        """
        self.by_channel: dict[str, Mailbox] = {}
        """The mailboxes, by the name of the channel."""
        # Messages that still arrive for these channels are lost.
        self._deleted = DeletedChannels()
        self._capacity_of = capacity_of
        self._interval = interval
        # The earliest time of the next sweep.
        self._next_sweep = time.monotonic() + interval

    def waiting(self) -> int:
        """Return the number of messages waiting in all mailboxes."""
        with self.lock:
            return sum(map(len, self.by_channel.values()))

    def put(
        self, channel: str, message: Callable[[], dict[str, Any]], deadline: float
    ) -> bool:
        """Add a message to a channel; return False if its mailbox is full."""
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
            The number of channels that got it, and the full channels.
        """
        item = (deadline, message, None)
        return self.put_some(iter(channels), item, sys.maxsize)[:2]

    def put_some(
        self,
        channels: Iterator[str],
        item: Item,
        limit: int,
        members: Container[str] | None = None,
    ) -> tuple[int, list[str], int]:
        """Do the same for the next channels, until a limit of work is reached.

        A shared message goes past the mailbox, to its ``direct`` outlet, if nothing
        waits there and this is the outlet's event loop.

        Args:
            channels: The channels.
            item: The message.
            limit: The limit.
            members: The current members of the group. A channel that is none of them
                gets no new mailbox, as it may have been deleted.

        Returns:
            The number of channels that got it, the full channels, and the work done:
            1 for each mailbox, ``SEND`` for each outlet.
        """
        delivered = 0
        full: list[str] = []
        outlets: dict[str, Outlet] = {}
        by_channel = self.by_channel
        deadline, copies, shared = item
        # None has no outlets.
        here = None if shared is None else running_loop()
        with self.lock:
            for channel in itertools.islice(channels, limit):
                mailbox = by_channel.get(channel)
                if mailbox is None:
                    if channel in self._deleted or (
                        members is not None and channel not in members
                    ):
                        continue
                    mailbox = self._mailbox(channel)
                outlet = mailbox.direct
                if (
                    outlet is not None
                    and outlet.loop is here
                    and outlet.open
                    and not mailbox.messages
                ):
                    outlets[channel] = outlet
                    if len(outlets) * SEND >= limit:
                        break
                elif mailbox.put_item(item):
                    delivered += 1
                else:
                    full.append(channel)
        work = delivered + len(full) + len(outlets) * SEND
        if outlets and shared is not None:
            # Without the lock, since code of the user is called.
            left = shared.send(outlets, deadline)
            delivered += len(outlets) - len(left)
            if left:
                put = self.put_each(left, copies, deadline)
                delivered += put[0]
                full += put[1]
        return delivered, full, work

    def insert(
        self, channel: str, message: Callable[[], dict[str, Any]], deadline: float
    ) -> None:
        """Add a message to a channel, even if its mailbox is full."""
        with self.lock:
            self._mailbox(channel).insert(message, deadline)

    def find(
        self, channel: str, matches: Callable[[object], bool]
    ) -> Callable[[], dict[str, Any]] | None:
        """Return the oldest message of a channel that matches, as it was put."""
        with self.lock:
            mailbox = self.by_channel.get(channel)
            return None if mailbox is None else mailbox.find(matches)

    def replace(
        self,
        channel: str,
        matches: Callable[[object], bool],
        messages: Sequence[Callable[[], dict[str, Any]]],
        deadline: float,
    ) -> None:
        """Replace the messages of a channel that match with any number of others.

        After that, there is room for as many more as the channel's capacity.
        """
        with self.lock:
            self._mailbox(channel).replace(
                matches, messages, deadline, room=self._capacity_of(channel)
            )

    def not_stalled(self, channels: Iterable[str]) -> list[str]:
        """Return those full channels that are worth waiting for.

        Waiting is useless if a sender has waited and no message was taken since.
        """
        with self.lock:
            return [
                channel
                for channel in channels
                if (mailbox := self.by_channel.get(channel)) is None
                or mailbox.stalled_at is not mailbox.oldest
            ]

    def to_wait_for(self, channels: Iterable[str]) -> list[str]:
        """Return those channels that are full, and worth waiting for."""
        with self.lock:
            full = [
                channel
                for channel in channels
                if (mailbox := self.by_channel.get(channel)) is not None
                and mailbox.full
            ]
            return self.not_stalled(full)

    def note_stalled(self, channels: Iterable[str]) -> None:
        """Record that a sender has given up waiting for room in these channels."""
        with self.lock:
            for channel in channels:
                mailbox = self.by_channel.get(channel)
                if mailbox is not None:
                    mailbox.stalled_at = mailbox.oldest

    def open(self, channel: str) -> Mailbox:
        """Return the mailbox of a channel for a reader, which must ``close()`` it."""
        with self.lock:
            mailbox = self._mailbox(channel)
            mailbox.readers += 1
            return mailbox

    def close(self, channel: str, mailbox: Mailbox) -> None:
        """Release a mailbox that ``open()`` returned."""
        with self.lock:
            mailbox.readers -= 1
            if (
                not mailbox.readers
                and not mailbox
                and self.by_channel.get(channel) is mailbox
            ):
                del self.by_channel[channel]

    def attach(self, channel: str, listener: Callable[[], None]) -> Mailbox:
        """Return the mailbox of a channel, for a reader that does not wait."""
        with self.lock:
            mailbox = self._mailbox(channel)
            if mailbox.listener is None:
                mailbox.readers += 1
            mailbox.listener = listener
            return mailbox

    def delete(self, channel: str) -> bool:
        """Drop a channel's messages and its listener.

        Returns:
            Whether the channel had a listener.
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
        """Return the end of a new channel's name, by which ``bury()`` knows it."""
        with self.lock:
            return self._deleted.new_name()

    def bury(self, channel: str) -> None:
        """Delete a channel for good: messages that still arrive for it are lost.

        Args:
            channel: A channel whose name ends with a result of ``new_name()``.
        """
        with self.lock:
            self.delete(channel)
            # Readers that are still waiting wait forever: the channel never comes back.
            self.by_channel.pop(channel, None)
            self._deleted.add(channel)

    def is_buried(self, channel: str) -> bool:
        """Return whether a channel was buried."""
        with self.lock:
            return channel in self._deleted

    def forget_buried(self) -> None:
        """Forget all channels that were made so far, buried or not."""
        with self.lock:
            self._deleted.clear()

    def clear(self) -> None:
        """Drop all messages; receivers keep waiting."""
        with self.lock:
            for channel, mailbox in list(self.by_channel.items()):
                mailbox.drain()
                if not mailbox.readers:
                    self.by_channel.pop(channel, None)

    def sweep_if_due(self, now: float, patience: float = 0) -> bool:
        """Drop expired mailboxes without readers, if a sweep is due.

        Args:
            now: The time on the clock of mailboxes.
            patience: Extra seconds before a sweep is due.

        Returns:
            Whether a sweep was due.
        """
        if now < self._next_sweep + patience:
            return False
        with self.lock:
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
