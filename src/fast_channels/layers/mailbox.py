"""The queue in which the messages of one channel wait.

Whatever carries a message, it ends in a :class:`Mailbox` of the receiving process:
bounded, expiring, and emptied either by tasks that await :meth:`Mailbox.get` or by
the loop of a consumer, which sets a ``listener`` and calls :meth:`Mailbox.take`.

The rules:

1. A message leaves only in ``take()``, which does not wait. A task that is cancelled
   while it sleeps in ``get()`` has therefore taken nothing; and if it was woken
   already, it wakes the next sleeper in its place.
2. ``put()`` may be called in any event loop of any thread. The message is appended
   first and the sleepers are looked at second; a sleeper registers first and looks at
   the messages second. Whichever way two threads interleave, one sees the other.
3. A future belongs to the event loop of the task that sleeps on it, and is resolved
   in that loop only.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from fast_channels.forks import released
from fast_channels.waking import wake

__all__ = ["Mailbox"]

# A deadline, and a message.
_Item: TypeAlias = tuple[float, Callable[[], dict[str, Any]]]

# Guards the making of deques.
_making = released(threading.Lock())


class Mailbox:
    """A bounded queue of messages that expire.

    A message is put as a function that returns it, called for each receiver when it
    takes the message: many mailboxes share one message while it waits, and every
    receiver gets a dict of its own.

    Args:
        capacity: How many messages may wait.
        clock: What deadlines are measured with, in seconds.
    """

    __slots__ = (
        "_clock",
        "_messages",
        "_sleepers",
        "capacity",
        "listener",
        "readers",
        "stalled_at",
    )

    def __init__(
        self, capacity: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity: int = capacity
        """How many messages may wait."""
        self.listener: Callable[[], None] | None = None
        """Called after each ``put()`` for which no task sleeps in ``get()``."""
        self.readers: int = 0
        """For the layer to count who reads it, and to keep it while somebody does."""
        self.stalled_at: object = None
        """The oldest message when a sender last waited for room in vain."""
        self._clock = clock
        # Oldest first; deadlines never decrease. None before the first one: an empty
        # deque takes 700 bytes, for each consumer.
        self._messages: deque[_Item] | None = None
        # One future for each task that sleeps in get(), in order of arrival.
        self._sleepers: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._messages or ())

    @property
    def oldest(self) -> object:
        """The message that has waited longest, as something to compare; or None."""
        messages = self._messages
        try:
            return None if messages is None else messages[0]
        except IndexError:
            return None

    @property
    def lapsed(self) -> bool:
        """Whether it holds nothing that has not expired."""
        messages = self._messages
        return not messages or messages[-1][0] <= self._clock()

    def put(
        self, message: Callable[[], dict[str, Any]], deadline: float = math.inf
    ) -> bool:
        """Add a message and wake whoever waits for it.

        Args:
            message: Returns the message.
            deadline: When it expires, on the mailbox's clock.

        Returns:
            False if the mailbox is full; it is left as it was.
        """
        return self.put_item((deadline, message))

    def put_item(self, item: _Item) -> bool:
        """Do as ``put()`` does with a pair that several mailboxes may share."""
        messages = self._messages
        if messages is None:
            messages = self._make_room()
        elif len(messages) >= self.capacity and not self._drop_expired(messages):
            return False
        messages.append(item)
        if self._sleepers:
            self._wake_next()
        elif self.listener is not None:
            self.listener()
        return True

    def take(self) -> dict[str, Any] | None:
        """Return the oldest message that has not expired, or None without waiting."""
        messages = self._messages
        while messages:
            try:
                deadline, message = messages.popleft()
            except IndexError:
                # A receiver in another thread has just taken the last one.
                break
            if deadline > self._clock():
                return message()
        return None

    async def get(self) -> dict[str, Any]:
        """Return the oldest message that has not expired; wait until there is one.

        Any number of tasks may wait; each message goes to one of them. Cancelling a
        waiting task is safe: no message is lost.
        """
        loop = asyncio.get_running_loop()
        while (message := self.take()) is None:
            sleeper: asyncio.Future[None] = loop.create_future()
            self._sleepers.append(sleeper)
            if self._messages:
                # Put by another thread, between take() and the line above.
                wake(sleeper)
            try:
                await sleeper
            except BaseException:
                # Cancelled, or thrown away with its event loop.
                if not self._forget(sleeper):
                    self._wake_next()
                raise
            self._forget(sleeper)
        return message

    def drain(self) -> list[Callable[[], dict[str, Any]]]:
        """Take every message out as it was put; whoever waits goes on waiting."""
        self.stalled_at = None
        messages = self._messages
        drained: list[Callable[[], dict[str, Any]]] = []
        # IndexError: receivers in other threads took what was left.
        with contextlib.suppress(IndexError):
            while messages:
                drained.append(messages.popleft()[1])
        return drained

    def _make_room(self) -> deque[_Item]:
        with _making:
            # Another thread may have been first.
            made = self._messages
            self._messages = deque() if made is None else made
            return self._messages

    def _drop_expired(self, messages: deque[_Item]) -> bool:
        """Return whether there is room now for one message more."""
        # Whoever takes it in another thread in the meantime makes room as well.
        with contextlib.suppress(IndexError, ValueError):
            oldest = messages[0]
            if oldest[0] > self._clock():
                return False
            messages.remove(oldest)
        return True

    def _wake_next(self) -> None:
        # IndexError: another thread has just woken the last one.
        with contextlib.suppress(IndexError):
            while self._sleepers:
                sleeper = self._sleepers.pop(0)
                if not sleeper.done() and wake(sleeper):
                    return
        if self.listener is not None:
            self.listener()

    def _forget(self, sleeper: asyncio.Future[None]) -> bool:
        """Return whether the sleeper was still there: whether nobody chose it."""
        try:
            self._sleepers.remove(sleeper)
        except ValueError:
            return False
        return True
