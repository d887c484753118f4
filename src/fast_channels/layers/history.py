"""The history of a group: its numbered messages, and what a member has missed.

A layer numbers the messages of a group that has a :class:`History`. The position of a
message is ``<epoch>.<offset>``: offsets count up by one, and the epoch is a random word
that changes whenever the numbering starts anew, for example because Redis has lost its
data. Positions come back from clients, so nothing relies on them being true.

:class:`Ring` holds the latest messages of one group in this process. It has no hole:
what follows a position is either all in the ring, or known to be lost, or unknown.
"""

import fnmatch
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, cast

from .notices import Notice
from .options import require_finite, require_positive_int

__all__ = [
    "GAP",
    "NOTHING",
    "ONCE_SECONDS",
    "POSITION_SECONDS",
    "Gap",
    "GroupHistory",
    "GroupMessage",
    "Histories",
    "History",
    "Numbered",
    "Replay",
    "Resumed",
    "Ring",
    "compile_histories",
    "parse_position",
    "require_once",
]

GAP = "group.gap"
"""Type of the message that a member gets when it misses messages of a group."""

POSITION_SECONDS = 7 * 86_400
"""Minimum seconds to keep the position of a group without new messages.

It outlives the messages, so that a client that was away while nothing was sent is
certain to have missed nothing."""

ONCE_SECONDS = 300
"""Seconds in which a message is not sent again with the same ``once`` key."""

_POSITION = re.compile(r"([0-9a-f]{8})\.(0|[1-9][0-9]{0,14})")


@dataclass(frozen=True, slots=True)
class History:
    """How much of the history of a group a layer keeps.

    Args:
        messages: Maximum number of messages to keep.
        seconds: Seconds after the latest message until all of them are dropped.

    Raises:
        TypeError: An argument is not a number.
        ValueError: A number is not positive, or not finite.
    """

    messages: int = 200
    """Maximum number of messages to keep."""
    seconds: float = 600
    """Seconds after the latest message until all of them are dropped."""

    def __post_init__(self) -> None:
        require_positive_int("History.messages", self.messages)
        require_finite("History.seconds", self.seconds)


Histories: TypeAlias = Sequence[tuple[re.Pattern[str], History]]
"""Compiled patterns of groups, each with its history; the first match applies."""


def compile_histories(history: object) -> Histories:
    """Return the option ``history`` of a layer with every glob compiled to a pattern.

    Raises:
        TypeError: It is not a dict of globs or compiled patterns to ``History``.
    """
    if not isinstance(history, Mapping):
        raise TypeError(
            "history must be a dict of globs or compiled patterns to History, such as "
            f"{{'room.*': History()}}, not {history!r}"
        )
    compiled: list[tuple[re.Pattern[str], History]] = []
    for pattern, kept in cast("Mapping[object, object]", history).items():
        if not isinstance(kept, History):
            raise TypeError(f"history[{pattern!r}] must be a History, not {kept!r}")
        if isinstance(pattern, str):
            compiled.append((re.compile(fnmatch.translate(pattern)), kept))
        elif isinstance(pattern, re.Pattern):
            compiled.append((cast("re.Pattern[str]", pattern), kept))
        else:
            raise TypeError(
                "history maps globs or compiled patterns to History; "
                f"{pattern!r} is neither a str nor a re.Pattern"
            )
    return compiled


def require_once(once: object) -> str:
    """Return the key of a message that is sent once; raise unless it is a str.

    Raises:
        TypeError: It is not a str.
        ValueError: It is empty.
    """
    if not isinstance(once, str):
        raise TypeError(f"once must be a str, not {once!r}")
    if not once:
        raise ValueError("once must not be empty; pass None to send in any case")
    return once


class Position(NamedTuple):
    """A position that has the right form."""

    epoch: str
    """The epoch in which the group's messages are numbered."""
    offset: int
    """The number of a message, or of the latest one before some moment."""


def parse_position(position: object) -> Position | None:
    """Return a position, or None for anything that is not one."""
    if not isinstance(position, str):
        return None
    match = _POSITION.fullmatch(position)
    return None if match is None else Position(match[1], int(match[2]))


class GroupMessage(dict[str, Any]):
    """A message of a group that has a history. It is a dict, equal to any other."""

    __slots__ = ("group", "position")

    def __init__(self, message: Mapping[str, Any], group: str, position: str) -> None:
        super().__init__(message)
        self.group: str = group
        """The group that it was sent to."""
        self.position: str = position
        """Its position: resuming from here continues with the next message."""


class GroupHistory(list[GroupMessage]):
    """Messages of a group in the order of sending, and what they mean."""

    __slots__ = ("complete", "position")

    def __init__(
        self, messages: Iterable[GroupMessage], position: str, *, complete: bool
    ) -> None:
        super().__init__(messages)
        self.position: str = position
        """The position of the group at that moment."""
        self.complete: bool = complete
        """Whether the first message is the one after ``since``. If not, some are lost,
        and the list is empty."""


class Resumed(NamedTuple):
    """The result of joining a group."""

    position: str
    """The position up to which the member has the messages of the group, including
    those that are replayed. Empty if the group has no history, or if Redis is away.

    Send it to a client only if nothing is replayed: the replayed messages follow, each
    with its own position.
    """
    complete: bool
    """Whether nothing is missing between ``since`` and the next message."""
    replayed: int
    """Number of messages that are delivered again."""


class Numbered:
    """A message of a group with its position; calling it returns the member's copy."""

    __slots__ = ("_copies", "group", "offset", "position")

    def __init__(
        self, copies: Callable[[], dict[str, Any]], group: str, epoch: str, offset: int
    ) -> None:
        self._copies = copies
        self.group: str = group
        """The group."""
        self.offset: int = offset
        """The number of the message."""
        self.position: str = f"{epoch}.{offset}"
        """Its position."""

    @property
    def before(self) -> str:
        """The position of the message before it."""
        return f"{self.position.partition('.')[0]}.{self.offset - 1}"

    def __call__(self) -> GroupMessage:
        """Return a copy of the message."""
        return GroupMessage(self._copies(), self.group, self.position)


class Gap:
    """The message to a member that misses messages, in their place."""

    __slots__ = ("before", "group")

    def __init__(self, group: str, before: str) -> None:
        self.group: str = group
        """The group."""
        self.before: str = before
        """The position of the last message before the gap."""

    def __call__(self) -> Notice:
        """Return the message."""
        return Notice(type=GAP, group=self.group, position=self.before)


class Replay(NamedTuple):
    """The messages for a member that resumes."""

    messages: list[Numbered]
    """What it gets, up to the latest message."""
    complete: bool
    """Whether nothing is missing before the first of them."""


NOTHING: Replay = Replay([], complete=False)
"""What a member gets whose messages are lost."""


class Ring:
    """The latest messages of a group, with consecutive offsets.

    It is not thread-safe. Times are those of ``time.monotonic()``.

    Args:
        history: How much to keep.
        epoch: The epoch.
        last: The offset of the latest message so far, which the ring doesn't have.
        lost: Messages up to this offset cannot be had from anywhere.
    """

    __slots__ = ("_changed", "_history", "_lost", "_messages", "epoch", "last")

    def __init__(
        self, history: History, epoch: str, last: int, *, lost: int, now: float
    ) -> None:
        self._history = history
        self._lost = lost
        self._messages: deque[Numbered] = deque(maxlen=history.messages)
        # The time of the latest message.
        self._changed = now
        self.epoch: str = epoch
        """The epoch."""
        self.last: int = last
        """The offset of the latest message."""

    @property
    def position(self) -> str:
        """The position of the latest message."""
        return f"{self.epoch}.{self.last}"

    def append(self, message: Numbered, now: float) -> None:
        """Add the next message."""
        assert message.offset == self.last + 1
        self.last = message.offset
        if now >= self._changed + self._history.seconds:
            self._messages.clear()
            self._lost = message.offset - 1
        self._messages.append(message)
        self._changed = now

    def prepend(self, messages: Sequence[Numbered], lost: int) -> None:
        """Add messages before those in the ring, as far as there is room.

        Args:
            messages: Messages with consecutive offsets.
            lost: Messages up to this offset cannot be had from anywhere.
        """
        self._lost = max(self._lost, lost)
        before = self.last - len(self._messages)
        for message in reversed(messages):
            if len(self._messages) == self._history.messages:
                break
            if message.offset == before:
                self._messages.appendleft(message)
                before -= 1

    def drop_old(self, now: float) -> None:
        """Drop all messages if the latest one is too old."""
        if now >= self._changed + self._history.seconds:
            self._messages.clear()
            self._lost = self.last
        self._lost = max(self._lost, self.last - self._history.messages)

    def find(self, since: object, latest: int | None, now: float) -> Replay | None:
        """Return the messages for a member that resumes; None if they are unknown here.

        Args:
            since: The position after which the messages begin, if there is one. It is
                not trusted.
            latest: Number of latest messages to return if there is no ``since``, or if
                messages after it are lost.
            now: The time.
        """
        self.drop_old(now)
        if since is None:
            return self._latest(latest or 0, complete=True)
        position = parse_position(since)
        if position is not None:
            if position.epoch != self.epoch or position.offset > self.last:
                return None
            missed = self.last - position.offset
            if missed <= len(self._messages):
                return Replay(self._tail(missed), True)
            if position.offset >= self._lost:
                return None
        return self.without(latest)

    def without(self, latest: int | None) -> Replay | None:
        """Return what ``find()`` returns if messages after ``since`` are lost."""
        return self._latest(latest or 0, complete=False)

    def _latest(self, count: int, *, complete: bool) -> Replay | None:
        known = len(self._messages)
        if known < min(count, self.last - self._lost):
            return None
        return Replay(self._tail(min(count, known)), complete)

    def _tail(self, count: int) -> list[Numbered]:
        skipped = len(self._messages) - count
        return [each for number, each in enumerate(self._messages) if number >= skipped]
