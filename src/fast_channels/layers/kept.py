"""The histories that the layer in memory keeps.

All of it is guarded by the lock of the mailboxes, so that a message is numbered, kept
and delivered in one step: a member that resumes can miss nothing in between.
"""

import secrets
from collections.abc import Callable, Collection
from typing import Any

from .feed import Feed
from .history import (
    NOTHING,
    ONCE_SECONDS,
    POSITION_SECONDS,
    GroupHistory,
    History,
    Numbered,
    Replay,
    Resumed,
    Ring,
)
from .mailboxes import Mailboxes

__all__ = ["Kept", "KeptGroups"]


class Kept:
    """The history of one group.

    Args:
        feed: Delivers to the members.
        mailboxes: Their mailboxes.
        now: The time on the clock of mailboxes.
    """

    def __init__(self, feed: Feed, mailboxes: Mailboxes, now: float) -> None:
        self._feed = feed
        self._mailboxes = mailboxes
        self._ring = Ring(feed.history, secrets.token_hex(4), 0, lost=0, now=now)
        # Positions by the keys of messages that are sent once, each with the time at
        # which to forget it; the oldest first.
        self._once: dict[str, tuple[str, float]] = {}
        self.used: float = now
        """The time of its latest use."""

    def send(
        self,
        members: Collection[str],
        copies: Callable[[], dict[str, Any]],
        now: float,
        once: str | None,
    ) -> tuple[tuple[int, list[str]], str]:
        """Number a message, keep it and deliver it.

        Returns:
            The result of ``Mailboxes.put_each()``, and the position of the message.
        """
        ring = self._ring
        if once is not None:
            self._forget_old(now)
            if once in self._once:
                return (0, []), self._once[once][0]
        message = Numbered(copies, self._feed.group, ring.epoch, ring.last + 1)
        ring.append(message, now)
        if once is not None:
            self._once[once] = message.position, now + ONCE_SECONDS
        put = self._feed.put([(self._mailboxes, members)], message, now)
        return put, message.position

    def resume(
        self,
        channel: str,
        since: object,
        last: int | None,
        *,
        is_member: bool,
        now: float,
    ) -> Resumed:
        """Deliver what a member missed, and return where it is."""
        ring, feed = self._ring, self._feed
        if since is None and last is None:
            waiting = feed.waiting(self._mailboxes, channel) if is_member else None
            return Resumed(waiting or ring.position, complete=True, replayed=0)
        replay = self._find(since, last, now)
        feed.replay(self._mailboxes, channel, replay, now)
        return Resumed(ring.position, replay.complete, len(replay.messages))

    def read(self, since: object, limit: int, now: float) -> GroupHistory:
        """Return messages of the group."""
        replay = self._find(since, limit if since is None else None, now)
        messages = [message() for message in replay.messages[:limit]]
        return GroupHistory(messages, self._ring.position, complete=replay.complete)

    def sweep(self, now: float) -> None:
        """Drop what is too old."""
        self._ring.drop_old(now)
        self._forget_old(now)

    def _find(self, since: object, last: int | None, now: float) -> Replay:
        ring = self._ring
        return ring.find(since, last, now) or ring.without(last) or NOTHING

    def _forget_old(self, now: float) -> None:
        while self._once:
            key, (_, until) = next(iter(self._once.items()))
            if until > now:
                break
            del self._once[key]


class KeptGroups:
    """The histories of all groups.

    Args:
        mailboxes: The mailboxes of members.
        expiry: Seconds after which an unreceived message is dropped.
    """

    def __init__(self, mailboxes: Mailboxes, expiry: float) -> None:
        self._mailboxes = mailboxes
        self._expiry = expiry
        self._by_group: dict[str, Kept] = {}

    def of(self, group: str, history: History, now: float) -> Kept:
        """Return the history of a group, which has a position from now on."""
        kept = self._by_group.get(group)
        if kept is None:
            feed = Feed(group, history, self._expiry)
            kept = self._by_group[group] = Kept(feed, self._mailboxes, now)
        kept.used = now
        return kept

    def sweep(self, now: float) -> None:
        """Drop messages and positions that are too old."""
        for group, kept in list(self._by_group.items()):
            if kept.used + POSITION_SECONDS <= now:
                del self._by_group[group]
            else:
                kept.sweep(now)

    def clear(self) -> None:
        """Forget all of them; new positions have other epochs."""
        self._by_group.clear()
