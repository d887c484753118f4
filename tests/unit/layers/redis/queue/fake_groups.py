"""A fake shard that holds groups; it is away, stalls or refuses when a test says so."""

import asyncio
from collections import defaultdict
from dataclasses import replace
from typing import Any, cast

import pytest
from redis.exceptions import NoScriptError

from fast_channels.layers.redis.queue.group_writer import Timing
from fast_channels.layers.redis.queue.memberships import Memberships
from fast_channels.layers.redis.scripts import GROUP_ADD, GROUP_DISCARD
from fast_channels.layers.redis.shards import Shards
from tests.unit.layers.redis.fake_hosts import as_shard

# Only retries happen by themselves within the time of a test.
TIMING = Timing(beat=60, retry=0.001, patience=0.001)


def timed(**changes: Any) -> pytest.MarkDecorator:
    """Give a test's memberships another timing."""
    return pytest.mark.parametrize("timing", [replace(TIMING, **changes)])


class Redis:
    """Stands in for the command connection to a shard."""

    def __init__(self, name: str = "redis-1") -> None:
        self.name = name
        self.groups: defaultdict[str, set[str]] = defaultdict(set)
        # The members after each command.
        self.states: list[dict[str, set[str]]] = []
        # The processes that have a lease.
        self.processes: set[str] = set()
        # The pairs of each command, and how its channels were added.
        self.added: list[list[tuple[str, str]]] = []
        self.removed: list[list[tuple[str, str]]] = []
        self.modes: list[str] = []
        self.lifetimes: set[float] = set()
        # The reply to each command.
        self.trouble: Exception | None = None
        self.known_to_be_away = False
        # Whether the next script is unknown, as after a restart.
        self.forgets_scripts = False
        # Groups whose keys hold another type.
        self.wrong: set[str] = set()
        # Commands take effect at once; their replies wait for this.
        self.answers = asyncio.Event()
        self.answers.set()

    def deadline(self) -> float:
        return asyncio.get_running_loop().time() + 5

    async def execute(self, *command: Any, deadline: float | None = None) -> Any:
        del deadline
        reply = self._carry_out(*command)
        self.states.append({name: {*held} for name, held in self.groups.items()})
        await self.answers.wait()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _carry_out(self, name: str, *words: Any) -> Any:
        if name == "ZREM":
            key, member = words
            if self.trouble is None:
                self.processes.discard(member)
                self.groups[key.removeprefix("asgi:group:")].discard(member)
            return self.trouble
        script, count, *rest = words
        keys, arguments = rest[:count], rest[count:]
        if self.forgets_scripts:
            self.forgets_scripts = False
            # The second call writes the same members.
            return NoScriptError("No matching script. Please use EVAL.")
        if script in {GROUP_ADD.sha, GROUP_ADD.text}:
            return self._add(keys, arguments)
        assert script in {GROUP_DISCARD.sha, GROUP_DISCARD.text}
        return self._discard(keys, arguments)

    def _add(self, keys: list[str], arguments: list[Any]) -> Any:
        assert keys[0] == "asgi:processes"
        group_expiry, process, _, mode, *words = arguments
        pairs = pairs_of(keys[1:], words)
        self.added.append(pairs)
        self.modes.append(mode)
        self.lifetimes.add(group_expiry)
        if self.trouble is not None:
            return self.trouble
        for group, channel in pairs:
            if group not in self.wrong:
                self.groups[group].add(channel)
        alive = process in self.processes
        if process:
            self.processes.add(process)
        return [int(alive), *self._wrong_ones(keys[1:])]

    def _discard(self, keys: list[str], arguments: list[Any]) -> Any:
        pairs = pairs_of(keys, arguments)
        self.removed.append(pairs)
        if self.trouble is not None:
            return self.trouble
        for group, channel in pairs:
            self.groups[group].discard(channel)
        return self._wrong_ones(keys)

    def _wrong_ones(self, keys: list[str]) -> list[int]:
        names = [key.removeprefix("asgi:group:") for key in keys]
        return [index for index, name in enumerate(names) if name in self.wrong]

    def holds(self, **groups: set[str]) -> bool:
        """Return whether these are all of the members."""
        return {name: held for name, held in self.groups.items() if held} == groups


def pairs_of(keys: list[str], words: list[Any]) -> list[tuple[str, str]]:
    """Return the groups and channels in the arguments of a script."""
    pairs: list[tuple[str, str]] = []
    words = list(words)
    for key in keys:
        count = words.pop(0)
        group = key.removeprefix("asgi:group:")
        pairs += [(group, channel) for channel in words[:count]]
        del words[:count]
    assert words == []
    return pairs


def make(
    *shards: Redis, group_expiry: float = 60, timing: Timing = TIMING
) -> Memberships:
    return Memberships(
        Shards([as_shard(shard, shard.name) for shard in shards]),
        group_expiry,
        process="me.1",
        away=lambda shard: cast("Redis", shard.commands).known_to_be_away,
        timing=timing,
    )


def write_again(memberships: Memberships, number: int = 0) -> None:
    """Write all members to one of the shards again."""
    memberships.assert_again([*memberships.shards][number])


async def join(memberships: Memberships, groups: str, channels: str) -> None:
    """Add channels to groups whose names are single letters."""
    for group in groups:
        for channel in channels:
            await memberships.add(group, channel)


def others() -> set["asyncio.Task[object]"]:
    """Return all tasks except the test's."""
    return {*asyncio.all_tasks()} - {asyncio.current_task()}
