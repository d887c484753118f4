"""The queue in which the messages of one channel wait.

Every layer delivers messages into a :class:`Mailbox` of the receiving process. It is
bounded, its messages expire, and it is read either by tasks that await
:meth:`Mailbox.get` or by a consumer's loop, which sets a ``listener`` and calls
:meth:`Mailbox.take`. The rules:

1. Receivers get messages only from ``take()``, which does not wait. A task that is
   cancelled while it waits in ``get()`` has therefore taken no message; if it was
   already woken, it wakes the next waiting task in its place.
2. ``put()`` can be called in any event loop of any thread. A writer stores the message
   before it looks for waiting tasks; a task registers as waiting before it looks for
   messages. However two threads interleave, one of them sees the other.
3. A future belongs to the event loop of the task that waits on it, and is resolved
   in that loop only.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from fast_channels.forks import released
from fast_channels.waking import wake

if TYPE_CHECKING:
    from fast_channels.frames import Outlet

    from .shared import SharedMessage

__all__ = ["Item", "Mailbox"]

Item: TypeAlias = tuple[float, Callable[[], dict[str, Any]], "SharedMessage | None"]
"""A deadline, a function that returns the message, and what several mailboxes share."""

# Guards the creation of deques.
_making = released(threading.Lock())


class Mailbox:
    """A bounded queue of messages that expire.

    A message is stored as a function that returns it, called when a receiver takes
    the message: many mailboxes can share one waiting message, and every receiver gets
    its own dict.

    Args:
        capacity: Maximum number of waiting messages.
        clock: Returns the time for deadlines, in seconds.
    """

    __slots__ = (
        "_clock",
        "_sleepers",
        "capacity",
        "direct",
        "listener",
        "messages",
        "readers",
        "stalled_at",
    )

    def __init__(
        self, capacity: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity: int = capacity
        """Maximum number of waiting messages."""
        self.messages: deque[Item] | None = None
        """The messages with their deadlines, which never decrease; the oldest first.

        None until the first one, since an empty deque takes 700 bytes, for each
        consumer."""
        self.listener: Callable[[], None] | None = None
        """Called after each ``put()`` that wakes no task in ``get()``."""
        self.direct: Outlet | None = None
        """Takes broadcasts past the mailbox while it is empty. Its only reader, a
        consumer, sets this while it waits."""
        self.readers: int = 0
        """Number of readers, set by the layer, which keeps a mailbox with readers."""
        self.stalled_at: object = None
        """The oldest message at the time a sender last gave up waiting for room."""
        self._clock = clock
        # A future for each task that waits in get(), in order of arrival.
        self._sleepers: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self.messages or ())

    @property
    def oldest(self) -> object:
        """The message that has waited longest, to be compared by identity; or None."""
        messages = self.messages
        try:
            return None if messages is None else messages[0]
        except IndexError:
            return None

    @property
    def full(self) -> bool:
        """Whether ``put()`` would return False."""
        messages = self.messages
        return (
            messages is not None
            and len(messages) >= self.capacity
            and not self._drop_expired(messages)
        )

    @property
    def lapsed(self) -> bool:
        """Whether it is empty, or all its messages have expired."""
        messages = self.messages
        return not messages or messages[-1][0] <= self._clock()

    def put(
        self, message: Callable[[], dict[str, Any]], deadline: float = math.inf
    ) -> bool:
        """Add a message, and wake a waiting task or call the listener.

        Args:
            message: Returns the message.
            deadline: The time at which it expires, on the mailbox's clock.

        Returns:
            False if the mailbox is full; the message is not added then.
        """
        return self.put_item((deadline, message, None))

    def put_item(self, item: Item) -> bool:
        """Add an item, which several mailboxes can share."""
        messages = self.messages
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

    def insert(self, message: Callable[[], dict[str, Any]], deadline: float) -> None:
        """Add a message as ``put()`` does, even if the mailbox is full."""
        messages = self._make_room() if self.messages is None else self.messages
        messages.append((deadline, message, None))
        self._wake_next()

    def find(
        self, matches: Callable[[object], bool]
    ) -> Callable[[], dict[str, Any]] | None:
        """Return the oldest message that matches, as it was put; None if none does."""
        found = [item for _, item, _ in list(self.messages or ()) if matches(item)]
        return found[0] if found else None

    def replace(
        self,
        matches: Callable[[object], bool],
        messages: Sequence[Callable[[], dict[str, Any]]],
        deadline: float,
        *,
        room: int,
    ) -> None:
        """Replace the messages that match with any number of others, at the end.

        Args:
            matches: Returns whether to remove a message, given as it was put.
            messages: The others.
            deadline: The time at which they expire.
            room: Minimum number of messages for which there is room after these.
        """
        waiting = self.messages or deque()
        for item in list(waiting):
            if matches(item[1]):
                # ValueError: a receiver in another thread has just taken it.
                with contextlib.suppress(ValueError):
                    waiting.remove(item)
        for message in messages:
            self.insert(message, deadline)
        self.capacity = max(self.capacity, len(self) + room)

    def take(self) -> dict[str, Any] | None:
        """Return the oldest message that has not expired, or None; never wait."""
        messages = self.messages
        while messages:
            try:
                deadline, message, _ = messages.popleft()
            except IndexError:
                # A receiver in another thread has just taken the last message.
                break
            if deadline > self._clock():
                return message()
        return None

    def take_shared(self) -> "dict[str, Any] | SharedMessage | None":
        """Do the same, but return what several mailboxes share if there is such."""
        messages = self.messages
        while messages:
            try:
                deadline, message, shared = messages.popleft()
            except IndexError:
                # A receiver in another thread has just taken the last message.
                break
            if deadline > self._clock():
                return message() if shared is None else shared
        return None

    async def get(self) -> dict[str, Any]:
        """Return the oldest message that has not expired; wait until there is one.

        Any number of tasks can wait; each message goes to one of them. Cancelling a
        waiting task is safe: no message is lost.
        """
        loop = asyncio.get_running_loop()
        while (message := self.take()) is None:
            sleeper: asyncio.Future[None] = loop.create_future()
            self._sleepers.append(sleeper)
            if self.messages:
                # Another thread has put it between take() and the line above.
                wake(sleeper)
            try:
                await sleeper
            except BaseException:
                # Cancelled, or closed together with its event loop.
                if not self._forget(sleeper):
                    self._wake_next()
                raise
            self._forget(sleeper)
        return message

    def drain(self) -> list[Callable[[], dict[str, Any]]]:
        """Remove and return all messages as they were put; receivers keep waiting."""
        self.stalled_at = None
        messages = self.messages
        drained: list[Callable[[], dict[str, Any]]] = []
        # IndexError: a receiver in another thread took the last message.
        with contextlib.suppress(IndexError):
            while messages:
                drained.append(messages.popleft()[1])
        return drained

    def _make_room(self) -> deque[Item]:
        with _making:
            # Another thread may have been first.
            made = self.messages
            self.messages = deque() if made is None else made
            return self.messages

    def _drop_expired(self, messages: deque[Item]) -> bool:
        """Drop the oldest message if it has expired; return whether there is room."""
        # A receiver in another thread that takes it meanwhile makes room as well.
        with contextlib.suppress(IndexError, ValueError):
            oldest = messages[0]
            if oldest[0] > self._clock():
                return False
            messages.remove(oldest)
        return True

    def _wake_next(self) -> None:
        # IndexError: another thread has just woken the last waiting task.
        with contextlib.suppress(IndexError):
            while self._sleepers:
                sleeper = self._sleepers.pop(0)
                if not sleeper.done() and wake(sleeper):
                    return
        if self.listener is not None:
            self.listener()

    def _forget(self, sleeper: asyncio.Future[None]) -> bool:
        """Remove a future; return False if ``_wake_next()`` has already taken it."""
        try:
            self._sleepers.remove(sleeper)
        except ValueError:
            return False
        return True
