"""The logs of groups with a history: what this process has heard, in order.

Redis numbers the messages of such a group and stores the latest of them. A
:class:`GroupLog` puts together what arrives in one event loop, however it arrives: with
copies missing, twice, or in another order. The rules:

1. The ring of a log ends with the latest message that was delivered. The next message
   is delivered to all members as it arrives; an earlier one was delivered already.
2. If a message arrives that is not the next one, the log waits a moment for those in
   between, and then reads what follows its ring from Redis. It does so after each
   reconnect as well. Whatever the reply contains counts as arrived.
3. If messages are lost in Redis too, or the numbering has started anew, members get a
   notice of the gap in their place.
4. A member that resumes gets messages from the ring and becomes one of the members in
   one step of the event loop, so nothing can arrive in between. Only if the ring does
   not reach back to where it starts, the log reads what comes before it, once for all
   members that ask at the same time; the ring then has that too.

A log exists while this event loop has members in the group.
"""

import asyncio
import contextlib
import functools
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeAlias

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.feed import Feed
from fast_channels.layers.history import (
    GroupHistory,
    History,
    Resumed,
    parse_position,
)
from fast_channels.layers.mailboxes import Mailboxes

from .group_log import GroupLog, LogTiming
from .history_reader import HistoryReader
from .shards import Shard, Shards

__all__ = ["GroupLogs", "Places"]

Places: TypeAlias = Iterable[tuple[Mailboxes, Collection[str]]]
"""Mailboxes, and the members of a group whose mailboxes are among them."""


class GroupLogs:
    """The logs of the groups that this event loop has members in.

    Args:
        shards: The shards.
        expiry: Seconds after which an unreceived message of other groups is dropped.
        group_of: Returns the group with a name in Redis, as the application knows it,
            and its history; or None if it has no history.
        places: Returns the members of a group with a name in Redis.
        decode: Returns the message in a stored value.
        count: Called with the result of ``put_each()`` and the group.
        complain: Called with a name and a problem.
        timing: When to read.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        expiry: float,
        group_of: Callable[[str], tuple[str, History] | None],
        places: Callable[[str], Places],
        decode: Callable[[bytes], dict[str, Any]],
        count: Callable[[tuple[int, list[str]], str], None],
        complain: Callable[[str, str], None],
        timing: LogTiming,
    ) -> None:
        self._shards = shards
        self._expiry = expiry
        self._group_of = group_of
        self._places = places
        self._reader = HistoryReader(shards, decode, complain)
        self._count = count
        self._timing = timing
        self._by_name: dict[str, GroupLog] = {}
        # Members that are about to resume, which get no messages yet.
        self._joining: set[tuple[str, str]] = set()
        # The timer of the next check, and the groups that it leaves for later ones.
        self._timer: asyncio.TimerHandle | None = None
        self._unchecked: list[str] = []

    def heard(self, name: str, position: str, message: dict[str, Any]) -> bool:
        """Deliver a message that has arrived; return False if it is not numbered."""
        at = parse_position(position)
        log = None if at is None else self._log(name)
        if at is None or log is None:
            return False
        log.heard(at.epoch, at.offset, message)
        return True

    async def opened(self, name: str) -> None:
        """Wait until the position of a group is known, unless Redis is away."""
        log = self._log(name)
        if log is not None and log.ring is None:
            with contextlib.suppress(RedisUnavailable):
                await log.read()

    async def resume(
        self,
        name: str,
        channel: str,
        since: str | None,
        last: int | None,
        *,
        join: Callable[[], Any],
        is_member: bool,
    ) -> Resumed:
        """Join a group, and deliver what the channel missed.

        Args:
            name: The name of the group in Redis.
            channel: The channel.
            since: The position after which to begin.
            last: Number of latest messages to deliver without one.
            join: Joins the group.
            is_member: Whether the channel is a member already.

        Raises:
            RedisUnavailable: Redis cannot be asked, or did not reply.
        """
        key = name, channel
        if not is_member:
            self._joining.add(key)
        try:
            await join()
            log = self._log(name)
            if log is None:
                # The channel was deleted meanwhile.
                return Resumed("", complete=False, replayed=0)
            replay = await log.find(since, last)
            self._joining.discard(key)
            return log.resume(channel, replay, asked=since is not None or bool(last))
        except RedisUnavailable:
            if since is None and last is None:
                return Resumed("", complete=True, replayed=0)
            raise
        finally:
            self._joining.discard(key)

    async def read(
        self, name: str, group: str, history: History, since: str | None, limit: int
    ) -> GroupHistory:
        """Return messages of a group from Redis.

        Args:
            name: The name of the group in Redis.
            group: The group.
            history: Its history.
            since: The position after which to begin; by default, read the latest.
            limit: Maximum number of messages.
        """
        at = parse_position(since)
        if at is not None:
            after, count = at.offset, 0
        else:
            after, count = None, 0 if since is not None else limit
        read = await self._reader.ask(name, history, after, count)
        messages = self._reader.numbered(read, group)
        complete = since is None
        if at is not None and at.epoch == read.epoch and at.offset <= read.last:
            first = messages[0].offset if messages else read.last + 1
            complete = first <= at.offset + 1
        found = messages[:limit] if complete and since is not None else messages
        return GroupHistory(
            [each() for each in (found if complete else ())],
            f"{read.epoch}.{read.last}",
            complete=complete,
        )

    def check(self, name: str) -> None:
        """Read what a group may have missed during an interruption."""
        log = self._by_name.get(name)
        if log is not None:
            log.check()

    def check_shards(self, shards: Collection[Shard]) -> None:
        """Do so for all groups of some shards."""
        for name, log in self._by_name.items():
            if self._shards.of(name) in shards:
                log.check()

    def _check_some(self) -> None:
        """Check some groups, and drop their messages that are too old.

        A copy for this process can be dropped when it is the last one of its group, so
        that no later one shows that it is missing.
        """
        steps = self._timing.steps
        self._unchecked = self._unchecked or list(self._by_name)
        count = math.ceil(len(self._by_name) / steps)
        names, self._unchecked = self._unchecked[:count], self._unchecked[count:]
        for name in names:
            self.check(name)
        self._schedule_check()

    def _schedule_check(self) -> None:
        self._timer = None
        if self._by_name:
            pause = self._timing.check / self._timing.steps
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(pause, self._check_some)

    def drop(self, name: str) -> None:
        """Forget a group that has no members any more."""
        log = self._by_name.pop(name, None)
        if log is not None:
            log.close()

    def clear(self) -> None:
        """Forget all groups."""
        for name in list(self._by_name):
            self.drop(name)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _members(self, name: str) -> list[tuple[Mailboxes, Collection[str]]]:
        """Return the members of a group that get its messages."""
        joining = self._joining
        places = self._places(name)
        if not joining:
            return list(places)
        return [
            (boxes, [each for each in channels if (name, each) not in joining])
            for boxes, channels in places
        ]

    def _log(self, name: str) -> GroupLog | None:
        """Return the log of a group, if it has a history and members here."""
        log = self._by_name.get(name)
        if log is None and any(channels for _, channels in self._places(name)):
            own = self._group_of(name)
            if own is not None:
                log = self._by_name[name] = GroupLog(
                    name,
                    Feed(*own, self._expiry),
                    reader=self._reader,
                    places=functools.partial(self._members, name),
                    count=self._count,
                    timing=self._timing,
                )
                if self._timer is None:
                    self._schedule_check()
        return log
