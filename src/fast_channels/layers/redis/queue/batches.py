"""Decides what a reader of queues requests from Redis, and interprets the replies.

Plain code without I/O: the inbox sends what :meth:`Queue.ask` returns and passes the
replies to :meth:`Queue.accept`.

The queue of a process has one reader. Redis keeps a batch until the reader's next
request confirms that it has received the batch::

    in the queue --> kept by Redis as batch N --> received --> gone
                          ^          |
                          +----------+  asked again: the reply was lost

In ``plain_queue``, the same is done for plain channels. In both cases, the state in
Redis is compared with that of the reader, so a lost reply, a late command or a server
that has lost its latest data makes no difference: the reader loses no message, and
receives none twice.
"""

import abc
import enum
import itertools
import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from typing_extensions import override

from fast_channels.layers.redis.keys import private_key, queue_key
from fast_channels.layers.redis.scripts import POP, Script

__all__ = [
    "Call",
    "Outcome",
    "Popped",
    "ProcessQueue",
    "Queue",
    "Recent",
    "Terms",
]

Call: TypeAlias = tuple[Script, list[str], list[str | bytes | float]]
"""A script to run, its keys and its arguments."""

_KEPT = 100.0
"""Extra seconds to keep a batch after its messages could have expired."""

_numbers = itertools.count(1)


class Recent:
    """Remembers which messages were received lately, by a hash of each.

    Args:
        size: Size of each of two sets of messages; the older one is dropped.
    """

    __slots__ = ("_latest", "_older", "_size")

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._latest: set[int] = set()
        self._older: set[int] = set()

    def has(self, queue: str, value: bytes, score: bytes) -> bool:
        """Return whether a message is remembered."""
        key = _hash(queue, value, score)
        return key in self._latest or key in self._older

    def add(self, queue: str, value: bytes, score: bytes) -> bool:
        """Remember a message; return whether it is new."""
        key = _hash(queue, value, score)
        if key in self._latest or key in self._older:
            return False
        self._latest.add(key)
        if len(self._latest) >= self._size:
            self._older, self._latest = self._latest, set()
        return True


def _hash(queue: str, value: bytes, score: bytes) -> int:
    # Scores are times and seldom equal: the beginning tells equal ones apart.
    return hash((queue, value[:64], score))


@dataclass(frozen=True, slots=True)
class Terms:
    """Options that all queues of an inbox share."""

    prefix: str
    """Prefix of all keys."""
    receiver: str
    """Unique name of the inbox."""
    expiry: float
    """Seconds that a message can wait in Redis."""
    lease: float
    """Seconds after which a receiver that has not renewed its lease counts as dead."""
    max_deliveries: int
    """Deliveries after which a message is a dead letter, if each receiver died.

    0 means no limit.
    """
    batch: int
    """Maximum number of messages per request."""
    quick: float
    """Seconds per message within which a quick reader of a plain channel asks again."""
    batch_bytes: int = 1_000_000
    """Maximum number of bytes per request, unless a single message is larger."""
    recent: Recent = field(default_factory=Recent, compare=False)
    """What was received lately, also by queues that were given up meanwhile."""

    def key(self, kind: str, name: str, *rest: str) -> str:
        """Return a private key of a queue."""
        return ":".join((private_key(self.prefix, kind, name), *rest))


class Outcome(enum.Enum):
    """What became of a message."""

    ACKNOWLEDGED = enum.auto()
    """It was handled."""
    UNREAD = enum.auto()
    """No reader has received it."""
    GIVEN_BACK = enum.auto()
    """A reader has received it, and has not handled it."""


@dataclass(frozen=True, slots=True, eq=False)
class Popped:
    """A message that was taken from a queue."""

    queue: "Queue"
    value: bytes
    score: bytes
    left: float
    """Seconds that it can still wait."""

    def acknowledge(self, *, soon: bool = True) -> None:
        """Acknowledge that the message was handled; a second call has no effect.

        Args:
            soon: Whether to send a request for it, rather than wait for the next one.
        """
        self.queue.settle(self, Outcome.ACKNOWLEDGED, soon=soon)

    def give_back(self, *, unread: bool = False) -> None:
        """Leave the message to others; no effect if it was acknowledged.

        Args:
            unread: Whether no reader has received it: then its time goes on.
        """
        outcome = Outcome.UNREAD if unread else Outcome.GIVEN_BACK
        self.queue.settle(self, outcome, soon=True)


class Queue(abc.ABC):
    """A reader's view of a queue in Redis.

    Args:
        name: The plain channel, or the common part of a process's channel names.
        terms: Options that all queues share.
    """

    def __init__(self, name: str, terms: Terms) -> None:
        self.name: str = name
        """The plain channel, or the common part of a process's channel names."""
        self.key: str = queue_key(terms.prefix, name)
        """The key of the queue."""
        self.readers: int = 0
        """Number of readers that wait for a message."""
        self.changed: bool = True
        """Whether the queue may contain messages."""
        self.asked: bool = False
        """Whether a request was sent and its reply is pending."""
        self.checks: bool = False
        """Whether to send a periodic request, to renew a lease or confirm a batch."""
        self.ask_again: float = -math.inf
        """Earliest time to ask again after a refusal, on the event loop's clock."""
        self._terms = terms
        self._recent = terms.recent
        # When nothing was in it, on the clock of the event loop.
        self._emptied = -math.inf
        # Whether it may hold messages that were received before: a server that has lost
        # its latest data has them again, until it was seen empty.
        self._may_repeat = True
        # Where messages are kept that were taken, and for how long.
        self._held = terms.key("inflight", name, terms.receiver)
        self._kept = math.ceil((terms.expiry + _KEPT) * 1000)

    @property
    @abc.abstractmethod
    def idle(self) -> bool:
        """Whether no request is needed, now or later."""

    def due(self, now: float) -> bool:
        """Return whether to send a request, with or without waiting readers."""
        return now >= self.ask_again and self._is_due()

    @abc.abstractmethod
    def ask(self, now: float) -> list[Call]:
        """Return the next request: scripts, the last of which takes messages."""

    @abc.abstractmethod
    def accept(self, replies: list[Any], waiting: int, now: float) -> list[Popped]:
        """Return the messages in a reply, and update the state.

        Args:
            replies: One for each script of the request.
            waiting: Number of messages that are now in the queue.
            now: The time on the event loop's clock.
        """

    @abc.abstractmethod
    def leave(self) -> Call:
        """Return the final request, which confirms or gives back, and takes nothing."""

    @abc.abstractmethod
    def settle(self, popped: Popped, outcome: Outcome, *, soon: bool) -> None:
        """Note what became of a message."""

    def fail(self) -> None:
        """Record that Redis has refused the request."""
        self.asked = False
        self.changed = True

    def note_change(self, now: float) -> None:
        """Record that the queue may contain messages."""
        if not (self.changed or self.asked):
            self._emptied = now
        self.changed = True

    def reconnected(self) -> None:
        """Record that Redis may hold older data than before."""
        self.changed = self._may_repeat = True
        self._emptied = -math.inf

    def _is_due(self) -> bool:
        return self.asked or (self.changed and self.readers > 0)

    def _sent(self) -> None:
        self.changed = self.checks = False
        self.asked = True

    def _received(self, waiting: int, now: float) -> None:
        self.asked = False
        if waiting:
            self.changed = True
            return
        self._may_repeat = False
        if not self.changed:
            self._emptied = now

    def _drops_old(self, now: float) -> int:
        # A message sent after the queue was seen empty cannot have waited for longer
        # than since then, even if its sender's clock differs.
        return int(now - self._emptied >= self._terms.expiry)


class ProcessQueue(Queue):
    """The queue of this process, which has no other readers."""

    def __init__(self, name: str, terms: Terms) -> None:
        super().__init__(name, terms)
        # Number of the last batch that was received; 0 if Redis keeps none.
        self._last = 0

    @property
    @override
    def idle(self) -> bool:
        return not (self.readers or self.asked or self._last)

    @override
    def _is_due(self) -> bool:
        # Without readers, a periodic request confirms the last batch.
        return super()._is_due() or (self.checks and self._last > 0)

    @override
    def ask(self, now: float) -> list[Call]:
        call = self._pop(self._terms.batch if self.readers else 0, now)
        self._sent()
        return [call]

    @override
    def leave(self) -> Call:
        return self._pop(0, 0)

    @override
    def settle(self, popped: Popped, outcome: Outcome, *, soon: bool) -> None:
        """Do nothing: its messages are done when they have been received."""

    @override
    def accept(self, replies: list[Any], waiting: int, now: float) -> list[Popped]:
        time, number, *messages = replies[-1]
        self._last = int(number) if messages else 0
        left_at_least = self._terms.expiry - (now - self._emptied)
        may_repeat = self._may_repeat
        self._received(waiting, now)
        taken: list[Popped] = []
        for value, score in zip(messages[::2], messages[1::2], strict=True):
            if self._recent.add(self.key, value, score) or not may_repeat:
                left = float(score) + self._terms.expiry - float(time)
                left = min(max(left, left_at_least), self._terms.expiry)
                taken.append(Popped(self, value, score, left))
        return taken

    def _pop(self, count: int, now: float) -> Call:
        return (
            POP,
            [self.key, self._held],
            [
                next(_numbers),
                self._last,
                count,
                self._terms.batch_bytes,
                self._terms.expiry,
                self._drops_old(now),
                self._kept,
            ],
        )
