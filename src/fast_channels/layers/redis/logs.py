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
import math
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from fast_channels.exceptions import RedisUnavailable, UndecodableMessage
from fast_channels.layers.copies import copies_of
from fast_channels.layers.feed import Feed
from fast_channels.layers.history import (
    ONCE_SECONDS,
    POSITION_SECONDS,
    GroupHistory,
    History,
    Numbered,
    Replay,
    Resumed,
    Ring,
    parse_position,
)
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.waking import resolve

from .keys import history_keys
from .scripts import HISTORY_READ, run
from .shards import Shard, Shards
from .wire import ResponseError

__all__ = ["GroupLogs", "LogTiming", "Places", "numbering_options"]

Places: TypeAlias = Iterable[tuple[Mailboxes, Collection[str]]]
"""Mailboxes, and the members of a group whose mailboxes are among them."""

_Reply: TypeAlias = tuple[bytes, bytes, bytes, list[tuple[bytes, list[bytes]]]]
_NOTHING = Replay([], complete=False)


@dataclass(frozen=True, slots=True)
class LogTiming:
    """When logs read from Redis, in seconds."""

    crossing: float = 0.03
    """Time to wait for messages between the latest and one that has arrived."""
    retry: tuple[float, float] = (0.02, 5.0)
    """Pauses between attempts to read while that fails: the first, and the longest."""
    check: float = 60.0
    """Interval between checks that nothing was missed silently, for each group."""
    steps: int = 16
    """Number of steps in which all groups are checked."""


def numbering_options(history: History) -> list[str | int]:
    """Return the options of ``number()`` in the scripts that send a message."""
    return [
        secrets.token_hex(4),
        _position_milliseconds(history),
        history.messages,
        math.ceil(1000 * history.seconds),
        1000 * ONCE_SECONDS,
    ]


def _position_milliseconds(history: History) -> int:
    return math.ceil(1000 * max(POSITION_SECONDS, 10 * history.seconds))


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
        self.decode: Callable[[bytes], dict[str, Any]] = decode
        """Returns the message in a stored value."""
        self.count: Callable[[tuple[int, list[str]], str], None] = count
        """Counts copies of messages."""
        self.complain: Callable[[str, str], None] = complain
        """Counts and logs a message that cannot be decoded."""
        self.timing: LogTiming = timing
        """When to read."""
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
        read = await self.ask(name, history, after, count)
        messages = self.numbered(read, group)
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
        steps = self.timing.steps
        self._unchecked = self._unchecked or list(self._by_name)
        for _ in range(math.ceil(len(self._by_name) / steps)):
            log = self._by_name.get(self._unchecked.pop()) if self._unchecked else None
            if log is not None:
                log.check()
        self._schedule_check()

    def _schedule_check(self) -> None:
        self._timer = None
        if self._by_name:
            pause = self.timing.check / self.timing.steps
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

    def shard(self, name: str) -> Shard:
        """Return the shard of a group."""
        return self._shards.of(name)

    def members(self, name: str) -> list[tuple[Mailboxes, Collection[str]]]:
        """Return the members of a group that get its messages."""
        joining = self._joining
        places = self._places(name)
        if not joining:
            return list(places)
        return [
            (boxes, [each for each in channels if (name, each) not in joining])
            for boxes, channels in places
        ]

    def mailboxes(self, name: str, channel: str) -> Mailboxes | None:
        """Return the mailboxes among which is that of a member."""
        for boxes, channels in self._places(name):
            if channel in channels:
                return boxes
        return None

    async def ask(
        self,
        name: str,
        history: History,
        after: int | None,
        count: int,
        known: tuple[str, int] = ("", 0),
    ) -> "_Read":
        """Read the position of a group and messages from Redis.

        Args:
            name: The name of the group in Redis.
            history: Its history.
            after: The offset after which to begin; None for none.
            count: Number of latest messages to read in any case.
            known: The epoch, and the latest offset in it, that this process knows.
        """
        shard = self._shards.of(name)
        reply = await run(
            shard.commands,
            HISTORY_READ,
            history_keys(shard.prefix, name),
            *known,
            "" if after is None else after,
            count,
            history.messages,
            secrets.token_hex(4),
            _position_milliseconds(history),
        )
        epoch, last, start, entries = cast("_Reply", reply)
        return _Read(epoch.decode(), int(last), int(start), entries)

    def numbered(self, read: "_Read", group: str) -> list[Numbered]:
        """Return the latest of the messages that were read, as far as none is missing.

        The last one is the latest message of the group.
        """
        messages: list[Numbered] = []
        expected = read.last
        for name, (_, value) in reversed(read.entries):
            if int(name.partition(b"-")[0]) != expected:
                break
            try:
                message = self.decode(value)
            except UndecodableMessage as exc:
                self.complain(group, str(exc))
                break
            messages.append(Numbered(copies_of(message), group, read.epoch, expected))
            expected -= 1
        messages.reverse()
        return messages

    def _log(self, name: str) -> "GroupLog | None":
        """Return the log of a group, if it has a history and members here."""
        log = self._by_name.get(name)
        if log is None and any(channels for _, channels in self._places(name)):
            own = self._group_of(name)
            if own is not None:
                log = self._by_name[name] = GroupLog(self, name, *own, self._expiry)
                if self._timer is None:
                    self._schedule_check()
        return log


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read from Redis."""

    epoch: str
    """The epoch of the group."""
    last: int
    """The offset of its latest message."""
    after: int
    """The offset after which messages were read."""
    entries: list[tuple[bytes, list[bytes]]]
    """What there was, as it was stored."""


@dataclass(eq=False, slots=True)
class _Want:
    """A request for messages that the ring does not have."""

    after: int | None
    """The offset after which they begin; None for none."""
    count: int
    """Number of latest messages."""
    done: "asyncio.Future[None]"
    """Resolved when they have been read."""
    until: float
    """When to give up, on the event loop's clock."""


class GroupLog:
    """What this event loop has heard of one group.

    Args:
        logs: All logs.
        name: The name of the group in Redis.
        group: The group.
        history: Its history.
        expiry: See ``GroupLogs``.
    """

    def __init__(
        self, logs: GroupLogs, name: str, group: str, history: History, expiry: float
    ) -> None:
        self._logs = logs
        self._name = name
        self._history = history
        self._feed = Feed(group, history, expiry)
        self._loop = asyncio.get_running_loop()
        self.ring: Ring | None = None
        """The latest messages; None until the position of the group is known."""
        # The epoch before the present one, of which messages can still arrive.
        self._past = ""
        # Messages that have arrived, and are not the next one.
        self._ahead: dict[tuple[str, int], dict[str, Any]] = {}
        self._crossing: asyncio.TimerHandle | None = None
        # Whether Redis may have messages that have not arrived; requests of members.
        self._behind = False
        self._wants: list[_Want] = []
        self._reader: asyncio.Task[None] | None = None
        # Ends the pause before the next attempt to read.
        self._pause: asyncio.Future[None] | None = None
        self._closed = False

    def heard(self, epoch: str, offset: int, message: dict[str, Any]) -> None:
        """Deliver a message that has arrived, when it is its turn."""
        ring = self.ring
        if ring is not None:
            if epoch == ring.epoch and offset <= ring.last:
                return
            if epoch == ring.epoch and offset == ring.last + 1:
                self._deliver(ring, self._numbered(epoch, offset, message))
                if self._ahead:
                    self._deliver_next(ring)
                    self._await_missing(ring)
                return
            if epoch == self._past:
                return
        if len(self._ahead) <= self._history.messages:
            self._ahead[epoch, offset] = message
        if ring is None or epoch != ring.epoch:
            self.check()
        else:
            self._await_missing(ring)

    def check(self) -> None:
        """Read what has not arrived; drop messages that are too old."""
        if self.ring is not None:
            self.ring.drop_old(time.monotonic())
        self._behind = True
        self._start()

    async def find(self, since: str | None, last: int | None) -> Replay:
        """Return the messages for a member that resumes; read them if need be."""
        if self.ring is None:
            await self.read(since, last)
        replay = self._find(since, last)
        if replay is None:
            await self.read(since, last)
            replay = self._find(since, last)
        if replay is None and self.ring is not None:
            replay = self.ring.without(last)
        return replay or _NOTHING

    def _find(self, since: str | None, last: int | None) -> Replay | None:
        ring = self.ring
        return None if ring is None else ring.find(since, last, time.monotonic())

    def resume(self, channel: str, replay: Replay, *, asked: bool) -> Resumed:
        """Deliver messages to a member that resumes, and return where it is."""
        ring = self.ring
        boxes = self._logs.mailboxes(self._name, channel)
        if ring is None or boxes is None:
            # It has left meanwhile.
            return Resumed("", complete=False, replayed=0)
        if asked:
            self._feed.replay(boxes, channel, replay, time.monotonic())
            return Resumed(ring.position, replay.complete, len(replay.messages))
        waiting = self._feed.waiting(boxes, channel)
        return Resumed(waiting or ring.position, complete=True, replayed=0)

    async def read(self, since: str | None = None, last: int | None = None) -> None:
        """Read messages from Redis, together with other members that ask now.

        Raises:
            RedisUnavailable: Redis cannot be reached, or did not reply.
            ResponseError: A key of the group holds something else.
        """
        at = parse_position(since)
        shard = self._logs.shard(self._name)
        want = _Want(
            None if at is None else at.offset,
            last or 0,
            self._loop.create_future(),
            self._loop.time() + shard.timeout,
        )
        self._wants.append(want)
        self._start()
        await want.done

    def close(self) -> None:
        """Stop reading; the group has no members any more."""
        if self._crossing is not None:
            self._crossing.cancel()
        if self._reader is not None:
            self._reader.cancel()
        self._closed = True
        _resolve(self._wants)

    # Reading

    def _start(self) -> None:
        if self._closed:
            _resolve(self._wants)
        elif self._reader is None or self._reader.done():
            self._reader = self._loop.create_task(self._read())
        elif self._pause is not None:
            resolve(self._pause)

    async def _read(self) -> None:
        first, longest = self._logs.timing.retry
        pause = first
        while self._behind or self._wants:
            wants, self._wants = self._wants, []
            self._behind = False
            heard = list(self._ahead)
            try:
                self._take(await self._ask(wants), heard)
            except RedisUnavailable as exc:
                now = self._loop.time()
                self._wants[:0] = [want for want in wants if want.until > now]
                _resolve((want for want in wants if want.until <= now), exc)
                self._behind = True
                await self._sleep(pause)
                pause = min(2 * pause, longest)
            except ResponseError as exc:
                self._logs.complain(self._feed.group, f"it has no history: {exc}")
                _resolve(wants, exc)
            except asyncio.CancelledError:
                _resolve(wants)
                raise
            else:
                pause = first
                _resolve(wants)

    async def _sleep(self, seconds: float) -> None:
        """Wait before the next attempt, unless there is a reason to make it now."""
        self._pause = self._loop.create_future()
        try:
            await asyncio.wait([self._pause], timeout=seconds)
        finally:
            self._pause = None

    async def _ask(self, wants: list[_Want]) -> _Read:
        ring = self.ring
        after = [want.after for want in wants if want.after is not None]
        known = "", 0
        if ring is not None:
            after.append(ring.last)
            known = ring.epoch, ring.last
        return await self._logs.ask(
            self._name,
            self._history,
            min(after, default=None),
            max((want.count for want in wants), default=0),
            known,
        )

    def _look_ahead(self) -> None:
        self._crossing = None
        if self._ahead:
            self.check()

    # What has arrived

    def _take(self, read: _Read, heard: Iterable[tuple[str, int]]) -> None:
        """Take what was read as arrived.

        Args:
            read: What was read.
            heard: Messages that had arrived before that.
        """
        messages = self._logs.numbered(read, self._feed.group)
        first = messages[0].offset - 1 if messages else read.last
        # What comes before the messages is lost, if it was asked for.
        lost = first if first > read.after else 0
        now = time.monotonic()
        ring = self.ring
        if ring is None:
            # What has arrived already is for the members that were there before.
            arrived = [
                offset - 1
                for epoch, offset in self._ahead
                if epoch == read.epoch and offset <= read.last
            ]
            ring = self._renew(read.epoch, min(arrived, default=read.last), lost, now)
        elif read.epoch != ring.epoch or first > ring.last:
            for boxes, channels in self._logs.members(self._name):
                self._feed.report(boxes, channels, ring.position, now)
            if read.epoch != ring.epoch:
                self._past = ring.epoch
            ring = self._renew(read.epoch, first, first, now)
        ring.prepend([each for each in messages if each.offset <= ring.last], lost)
        for message in messages:
            self._deliver_next(ring)
            if message.offset == ring.last + 1:
                self._deliver(ring, message)
        self._deliver_next(ring)
        for key in heard:
            # Older than what was read, if it has not been delivered.
            self._ahead.pop(key, None)
        if ring.last < read.last:
            self._behind = True
        self._await_missing(ring)

    def _renew(self, epoch: str, last: int, lost: int, now: float) -> Ring:
        ring = self.ring = Ring(self._history, epoch, last, lost=lost, now=now)
        return ring

    def _deliver_next(self, ring: Ring) -> None:
        """Deliver messages that have arrived and whose turn it is."""
        while message := self._ahead.pop((ring.epoch, ring.last + 1), None):
            self._deliver(ring, self._numbered(ring.epoch, ring.last + 1, message))

    def _await_missing(self, ring: Ring) -> None:
        """Read the messages that are missing unless they arrive soon."""
        for epoch, offset in list(self._ahead):
            if epoch == ring.epoch and offset <= ring.last:
                del self._ahead[epoch, offset]
        if self._ahead and self._crossing is None:
            self._crossing = self._loop.call_later(
                self._logs.timing.crossing, self._look_ahead
            )

    def _numbered(self, epoch: str, offset: int, message: dict[str, Any]) -> Numbered:
        return Numbered(copies_of(message), self._feed.group, epoch, offset)

    def _deliver(self, ring: Ring, message: Numbered) -> None:
        now = time.monotonic()
        ring.append(message, now)
        put = self._feed.put(self._logs.members(self._name), message, now)
        self._logs.count(put, self._feed.group)


def _resolve(wants: Iterable[_Want], error: Exception | None = None) -> None:
    for want in wants:
        if not want.done.done():
            if error is None:
                want.done.set_result(None)
            else:
                want.done.set_exception(error)
