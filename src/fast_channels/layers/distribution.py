"""Deliver messages to groups of any size without blocking the event loop.

A message for 20,000 members is more work than one turn of the event loop may contain. A
:class:`Distribution` does it in parts. What comes after it waits for its turn, so that
every channel gets all messages in the order in which they came.
"""

import asyncio
import operator
from collections import deque
from collections.abc import Container, Iterable

from .counters import Counters
from .mailbox import Item
from .mailboxes import Mailboxes

__all__ = ["WORK", "Distribution", "Posting"]

WORK = 512
"""The work that is done in one turn of the event loop, as ``put_some()`` counts it."""
# Messages that may wait. More are delivered at once, in a long turn: the connection
# that they come from is not read meanwhile.
_MOST = 100


class Posting:
    """A message on its way to some channels.

    Args:
        mailboxes: The mailboxes of the channels.
        channels: The channels.
        item: The message.
        group: The group that it was sent to, if known.
        members: The current members of the group, if the layer knows them.
    """

    __slots__ = (
        "_channels",
        "_done",
        "_item",
        "_mailboxes",
        "_members",
        "full",
        "group",
        "over",
    )

    def __init__(
        self,
        mailboxes: Mailboxes,
        channels: Iterable[str],
        item: Item,
        group: str | None,
        members: Container[str] | None,
    ) -> None:
        self._mailboxes = mailboxes
        self._channels = iter(channels)
        self._item = item
        self._members = members
        self.group: str | None = group
        """The group that it was sent to, if known."""
        self.full: list[str] = []
        """The channels that were full."""
        self.over: bool = False
        """Whether all channels have it, except those that were full."""
        self._done: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Wait until it is over, which it is not yet; cancelling does not stop it."""
        self._done = asyncio.get_running_loop().create_future()
        await self._done

    def advance(self, limit: int) -> tuple[int, int]:
        """Put it into the next mailboxes; return how many got it, and the work."""
        delivered, full, work = self._mailboxes.put_some(
            self._channels, self._item, limit, self._members
        )
        self.full += full
        if not operator.length_hint(self._channels):
            self.over = True
            if self._done is not None and not self._done.done():
                self._done.set_result(None)
        return delivered, work


class Distribution:
    """The messages that arrive in one event loop, in order.

    Args:
        counters: Counts the copies.
        drops: Whether channels that are full miss the message, which is counted, or its
            sender tries them again.
    """

    def __init__(self, counters: Counters, *, drops: bool = True) -> None:
        self._counters = counters
        self._drops = drops
        self._waiting: deque[Posting] = deque()
        # The work left for this turn of the event loop, and whether _go_on() is
        # scheduled, which begins the next one.
        self._left = WORK
        self._scheduled = False

    def put(
        self,
        mailboxes: Mailboxes,
        channels: Iterable[str],
        item: Item,
        group: str | None = None,
        members: Container[str] | None = None,
    ) -> Posting:
        """Add a message to the mailboxes of some channels, as soon as it is its turn.

        Args:
            mailboxes: The mailboxes.
            channels: The channels; they must not change.
            item: The message.
            group: The group that it was sent to, if known.
            members: The current members of the group, if the layer knows them.
        """
        posting = Posting(mailboxes, channels, item, group, members)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._go_on)
        if not self._waiting and self._left > 0:
            self._advance(posting, self._left)
        if not posting.over:
            self._waiting.append(posting)
            while len(self._waiting) > _MOST:
                self._work(WORK)
        return posting

    def clear(self) -> None:
        """Drop the messages that wait."""
        self._waiting.clear()

    def _go_on(self) -> None:
        self._left = WORK
        while self._waiting and self._left > 0:
            self._work(self._left)
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _work(self, limit: int) -> None:
        if self._advance(self._waiting[0], limit):
            self._waiting.popleft()

    def _advance(self, posting: Posting, limit: int) -> bool:
        """Work on a message; return whether it is over."""
        delivered, work = posting.advance(limit)
        self._left -= work
        self._counters.count((delivered, ()))
        if posting.over and posting.full and self._drops:
            self._counters.count((0, posting.full), posting.group)
        return posting.over
