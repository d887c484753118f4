"""What a process has heard of one group with a history, in order; see ``logs``."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.copies import copies_of
from fast_channels.layers.feed import Feed
from fast_channels.layers.history import (
    NOTHING,
    Numbered,
    Replay,
    Resumed,
    Ring,
    parse_position,
)
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.waking import resolve

from .history_reader import HistoryReader, Read
from .wire import ResponseError

__all__ = ["GroupLog", "LogTiming"]


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
        name: The name of the group in Redis.
        feed: Delivers to members.
        reader: Reads from Redis.
        places: Returns the members.
        count: Called with the result of ``put_each()`` and the group.
        timing: When to read.
    """

    def __init__(
        self,
        name: str,
        feed: Feed,
        *,
        reader: HistoryReader,
        places: Callable[[], Sequence[tuple[Mailboxes, Collection[str]]]],
        count: Callable[[tuple[int, list[str]], str], None],
        timing: LogTiming,
    ) -> None:
        self._name = name
        self._feed = feed
        self._source = reader
        self._places = places
        self._count = count
        self._timing = timing
        self._loop = asyncio.get_running_loop()
        self.ring: Ring | None = None
        """The latest messages; None until the position of the group is known."""
        # The epoch before the present one, of which messages can still arrive.
        self._past = ""
        # Messages that have arrived, and are not the next one.
        self._ahead: dict[tuple[str, int], dict[str, Any]] = {}
        self._crossing: asyncio.TimerHandle | None = None
        # Whether Redis may have messages that have not arrived; requests of members.
        self._behind = True
        self._wants: list[_Want] = []
        self._reader: asyncio.Task[None] = self._loop.create_task(self._read())
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
        if len(self._ahead) <= self._feed.history.messages:
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
        return replay or NOTHING

    def _find(self, since: str | None, last: int | None) -> Replay | None:
        ring = self.ring
        return None if ring is None else ring.find(since, last, time.monotonic())

    def resume(self, channel: str, replay: Replay, *, asked: bool) -> Resumed:
        """Deliver messages to a member that resumes, and return where it is."""
        ring = self.ring
        boxes = next((boxes for boxes, own in self._places() if channel in own), None)
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
        shard = self._source.shard(self._name)
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
        self._reader.cancel()
        self._closed = True
        _resolve(self._wants)

    # Reading

    def _start(self) -> None:
        if self._closed:
            _resolve(self._wants)
        elif self._reader.done():
            self._reader = self._loop.create_task(self._read())
        elif self._pause is not None:
            resolve(self._pause)

    async def _read(self) -> None:
        first, longest = self._timing.retry
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
                self._source.complain(self._feed.group, f"it has no history: {exc}")
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

    async def _ask(self, wants: list[_Want]) -> Read:
        ring = self.ring
        after = [want.after for want in wants if want.after is not None]
        known = "", 0
        if ring is not None:
            after.append(ring.last)
            known = ring.epoch, ring.last
        return await self._source.ask(
            self._name,
            self._feed.history,
            min(after, default=None),
            max((want.count for want in wants), default=0),
            known,
        )

    def _look_ahead(self) -> None:
        self._crossing = None
        if self._ahead:
            self.check()

    # What has arrived

    def _take(self, read: Read, heard: Iterable[tuple[str, int]]) -> None:
        """Take what was read as arrived.

        Args:
            read: What was read.
            heard: Messages that had arrived before that.
        """
        messages = self._source.numbered(read, self._feed.group)
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
            for boxes, channels in self._places():
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
        ring = self.ring = Ring(self._feed.history, epoch, last, lost=lost, now=now)
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
                self._timing.crossing, self._look_ahead
            )

    def _numbered(self, epoch: str, offset: int, message: dict[str, Any]) -> Numbered:
        return Numbered(copies_of(message), self._feed.group, epoch, offset)

    def _deliver(self, ring: Ring, message: Numbered) -> None:
        now = time.monotonic()
        ring.append(message, now)
        put = self._feed.put(self._places(), message, now)
        self._count(put, self._feed.group)


def _resolve(wants: Iterable[_Want], error: Exception | None = None) -> None:
    for want in wants:
        if not want.done.done():
            if error is None:
                want.done.set_result(None)
            else:
                want.done.set_exception(error)
