"""Keeps the group memberships in one shard up to date.

The rules:

1. A change is a pair of a group and a name: of a channel, or of a stand-in. A command
   writes the state of a pair at the time when it is sent: the name is in the group, or
   it is not. So a change can be written late, twice, or together with others.
2. One batch is in flight at a time, so no batch overtakes another. Changes that callers
   wait for come before pairs that are only written again.
3. A batch that fails for a temporary reason is written again every second; callers no
   longer wait then.
4. Commands that add members renew the lease of this process; each beat sends one. If
   Redis held no lease, it may have dropped members, and everything is written again.
"""

import asyncio
import contextlib
import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, cast

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis.keys import group_key, processes_key
from fast_channels.layers.redis.outage import Outage
from fast_channels.layers.redis.scripts import GROUP_ADD, GROUP_DISCARD, run
from fast_channels.layers.redis.shards import Shard
from fast_channels.layers.redis.wire import ResponseError

__all__ = ["GroupWriter", "Pair", "Timing"]

_logger = logging.getLogger(__name__)

Pair: TypeAlias = tuple[str, str]
"""A group and a name that it lists: of a channel, or of a stand-in."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When to write to Redis, how much at once, and how long to wait, in seconds."""

    beat: float = 15.0
    """Interval between renewals of the lease of this process."""
    lease: float = 60.0
    """Time after the last renewal until this process counts as dead."""
    beats_per_check: int = 4
    """Number of beats between comparisons of Redis with the actual memberships."""
    retry: float = 1.0
    """Interval between attempts while Redis cannot be written to."""
    patience: float = 0.1
    """Interval between checks whether Redis is away, while a caller waits."""
    remembered: float = 120.0
    """Time to remember a channel that left, in case Redis restores it."""
    remembered_pairs: int = 100_000
    """Maximum number of removed pairs to remember, for each shard."""
    batch: int = 500
    """Maximum number of pairs in a command: a millisecond or two for Redis and for the
    event loop."""
    step: int = 1000
    """Groups that a channel leaves in one step; other tasks run between steps."""
    reader: float = 0.05
    """Time that a message of a plain channel waits for a reader to come back."""
    farewell: float = 1.0
    """Time allowed for the last requests when closing."""


class GroupWriter:
    """Writes the memberships of one process to one shard, in one event loop.

    Args:
        shard: The shard.
        group_expiry: Seconds after which Redis drops a member that is not renewed.
        process: Name of the process.
        members: Returns all pairs that should be in Redis.
        is_member: Returns whether a pair should be in Redis.
        listed: Called with pairs that were added, unless their group is ``wrong``, and
            the epoch in which that was requested.
        away: Returns whether the shard is known, and logged, to be unreachable.
        timing: When to write.
    """

    def __init__(
        self,
        shard: Shard,
        group_expiry: float,
        process: str,
        *,
        members: Callable[[], Iterator[Pair]],
        is_member: Callable[[Pair], bool],
        listed: Callable[[Sequence[Pair], int], None],
        away: Callable[[], bool],
        timing: Timing,
    ) -> None:
        self._shard = shard
        self._group_expiry = group_expiry
        self._process = process
        self._processes = processes_key(shard.prefix)
        self._members = members
        self._is_member = is_member
        self._listed = listed
        self._away = away
        self._timing = timing
        # Pairs that callers wait for, each with the number of its change.
        self._changed: dict[Pair, int] = {}
        self._changes = 0
        # Futures of the callers, each with the number of its change. The result is an
        # error that retrying cannot fix, or None.
        self._waiting: deque[tuple[int, asyncio.Future[ResponseError | None]]] = deque()
        # Pairs whose batch failed; an iterator of pairs to write again; an iterator of
        # pairs to add if Redis lacks them.
        self._failed: dict[Pair, None] = {}
        self._again: Iterator[Pair] = iter(())
        self._compared: Iterator[Pair] | None = None
        # Removed pairs, each with the time at which it can be forgotten.
        self._left: dict[Pair, float] = {}
        self.wrong: set[str] = set()
        """Groups whose keys have another type; this was logged."""
        self.registered: bool = False
        """Whether Redis holds a lease of this process, according to its replies."""
        self.epoch: int = 0
        """Number of times that Redis may have lost what was written to it."""
        # Whether the last batch failed, and how that is logged.
        self._behind = False
        self._outage = Outage(_logger, shard.name, "updated with group memberships")
        self._task: asyncio.Task[None] | None = None
        # Timer that checks whether the shard is away, while callers wait.
        self._look: asyncio.TimerHandle | None = None
        # Event that ends the pause before a retry.
        self._hurried = asyncio.Event()

    # Changes

    def note(self, pair: Pair) -> None:
        """Write a pair soon, because it has changed."""
        self._changes += 1
        self._forget_old()
        self._failed.pop(pair, None)
        self._changed.pop(pair, None)
        self._changed[pair] = self._changes
        self._left.pop(pair, None)
        if not self._is_member(pair):
            loop = asyncio.get_running_loop()
            self._left[pair] = loop.time() + self._timing.remembered
            if len(self._left) > self._timing.remembered_pairs:
                self._forget(next(iter(self._left)))
        self._start()

    async def written(self, group: str | None = None) -> None:
        """Wait until all changes so far are written, or are known to take longer.

        Args:
            group: The group of the change, if there is only one.

        Raises:
            ResponseError: Redis cannot store the group, for a permanent reason.
        """
        is_idle = self._task is None or self._task.done()
        if is_idle or self._behind or self._away():
            # Others get a turn, even if a task joins groups in an endless loop.
            await asyncio.sleep(0)
        else:
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[ResponseError | None] = loop.create_future()
            self._waiting.append((self._changes, waiter))
            self._look_whether_away()
            error = await waiter
            if error is not None:
                raise error
        if group is not None and group in self.wrong:
            raise ResponseError(f"WRONGTYPE {self._complaint(group)}")

    def write_again(self) -> None:
        """Write all pairs again: Redis may have lost them, or hold an older state."""
        self.epoch += 1
        self._again = itertools.chain(list(self._left), self._members())
        self._hurried.set()
        self._start()

    @property
    def remembers(self) -> bool:
        """Whether there are removed pairs that Redis may still hold or restore."""
        return bool(self._left)

    def beat(self, *, compare: bool) -> None:
        """Renew the lease.

        Args:
            compare: Whether to also restore pairs that Redis has silently lost.
        """
        self._forget_old()
        if self._compared is None:
            self._compared = self._members() if compare else iter(())
        self._start()

    def forget(self) -> None:
        """Forget all changes, without writing to Redis."""
        for pending in (self._changed, self._failed, self._left):
            pending.clear()
        self._again = iter(())
        self._compared = None
        self._release()
        if self._look is not None:
            self._look.cancel()
            self._look = None

    async def stop(self) -> None:
        """Stop writing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def say_goodbye(self, pairs: Iterator[Pair]) -> None:
        """Remove pairs and the lease.

        Raises:
            RedisUnavailable: Redis does not reply, or refuses the command.
        """
        while batch := list(itertools.islice(pairs, self._timing.batch)):
            await self._remove(batch)
        if self.registered:
            self.registered = False
            # Last: pairs that could not be removed end with the lease.
            await self._shard.commands.execute("ZREM", self._processes, self._process)

    def _forget_old(self) -> None:
        now = asyncio.get_running_loop().time()
        # While writes fail, Redis may not know of any of them.
        while self._left and not self._behind:
            pair, until = next(iter(self._left.items()))
            if until > now:
                break
            del self._left[pair]

    def _forget(self, pair: Pair) -> None:
        for pending in (self._left, self._changed, self._failed):
            pending.pop(pair, None)

    # Writing

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        """Write until there is nothing left to write."""
        while (batch := self._take()) or self._compared is not None:
            if batch:
                await self._try(batch)
            else:
                await self._compare()

    async def _compare(self) -> None:
        """Restore what Redis lacks of the next pairs; there may be none."""
        assert self._compared is not None
        batch = list(itertools.islice(self._compared, self._timing.batch))
        if len(batch) < self._timing.batch:
            self._compared = None
        await self._try(batch, only_missing=True)

    async def _try(self, batch: Sequence[Pair], *, only_missing: bool = False) -> None:
        try:
            await self._write_batch(batch, only_missing)
        except RedisUnavailable as exc:
            self._defer(batch, exc)
            self._hurried.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.retry):
                    await self._hurried.wait()
        except ResponseError as exc:
            # Retrying soon would not help; the next comparison retries.
            _logger.error("%s cannot keep groups: %s", self._shard.name, exc)  # noqa: TRY400 # a traceback would add nothing
            self._release(exc)
        else:
            self._behind = False
            self._outage.end()
            self._release()

    def _take(self) -> list[Pair]:
        """Return the next pairs to write: first those that callers wait for."""
        for pending in (self._changed, self._failed):
            if pending:
                batch = list(itertools.islice(pending, self._timing.batch))
                for pair in batch:
                    del pending[pair]
                return batch
        return list(itertools.islice(self._again, self._timing.batch))

    def _defer(self, batch: Sequence[Pair], why: RedisUnavailable) -> None:
        pending = [*batch, *self._changed]
        self._changed.clear()
        self._failed.update(dict.fromkeys(pending))
        self._behind = True
        if not self._away():
            self._outage.begin(why.__cause__ or why)
        self._release()

    def _release(self, error: ResponseError | None = None) -> None:
        """Resume the callers whose changes no longer wait to be written."""
        first = next(iter(self._changed.values()), math.inf)
        self._release_before(first, error)

    def _release_before(
        self, change: float, error: ResponseError | None = None
    ) -> None:
        while self._waiting and self._waiting[0][0] < change:
            _, waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(error)

    def _look_whether_away(self, *, now: bool = False) -> None:
        """Check at intervals whether the shard is away, while callers wait.

        One timer serves all callers.
        """
        if now:
            self._look = None
            if self._away():
                self._release_before(math.inf)
        if self._look is None and self._waiting:
            loop = asyncio.get_running_loop()
            look = partial(self._look_whether_away, now=True)
            self._look = loop.call_later(self._timing.patience, look)

    async def _write_batch(self, batch: Sequence[Pair], only_missing: bool) -> None:
        """Write the current state of some pairs; adding members renews the lease.

        Raises:
            ResponseError: Redis cannot store it.
            RedisUnavailable: Redis does not reply, or refuses the command.
        """
        joined = [pair for pair in batch if self._is_member(pair)]
        left = [pair for pair in batch if not self._is_member(pair)]
        if not left or only_missing:
            await self._add(joined, only_missing)
        elif not joined:
            await self._remove(left)
        else:
            both = self._add(joined, only_missing), self._remove(left)
            for result in await asyncio.gather(*both, return_exceptions=True):
                if result is not None:
                    raise result

    async def _add(self, pairs: Sequence[Pair], only_missing: bool) -> None:
        epoch = self.epoch
        groups, keys, words = self._by_group(pairs)
        reply = await run(
            self._shard.commands,
            GROUP_ADD,
            [self._processes, *keys],
            self._group_expiry,
            self._process,
            self._timing.lease,
            "NX" if only_missing else "CH",
            *words,
        )
        was_alive, *wrong = cast("list[int]", reply)
        self._look_at(groups, wrong)
        self._listed(pairs, epoch)
        if self.registered and not was_alive:
            self.write_again()
        self.registered = True

    async def _remove(self, pairs: Iterable[Pair]) -> None:
        groups, keys, words = self._by_group(pairs)
        reply = await run(self._shard.commands, GROUP_DISCARD, keys, *words)
        self._look_at(groups, cast("list[int]", reply))

    def _look_at(self, groups: Sequence[str], wrong: Iterable[int]) -> None:
        """Record groups whose keys have another type, and log new ones."""
        found = {groups[index] for index in wrong}
        for group in found - self.wrong:
            _logger.error("%s", self._complaint(group))
        self.wrong -= set(groups)
        self.wrong |= found

    def _complaint(self, group: str) -> str:
        return f"the key {self._key(group)!r} of group {group!r} holds something else"

    def _by_group(
        self, pairs: Iterable[Pair]
    ) -> tuple[list[str], list[str], list[str | int]]:
        """Return groups, their keys, and the pairs as arguments of the scripts."""
        by_group: dict[str, list[str]] = {}
        for group, channel in pairs:
            by_group.setdefault(group, []).append(channel)
        words: list[str | int] = []
        for channels in by_group.values():
            words += [len(channels), *channels]
        return [*by_group], [self._key(group) for group in by_group], words

    def _key(self, group: str) -> str:
        return group_key(self._shard.prefix, group)
