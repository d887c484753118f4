"""Memberships: the truth is kept here, and Redis is told of it whenever it can be."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest
from redis.exceptions import NoScriptError, ResponseError

from fast_channels.layers.redis import memberships as module
from fast_channels.layers.redis.connections import CommandConnection, RedisUnavailable
from fast_channels.layers.redis.memberships import Memberships
from fast_channels.layers.redis.scripts import GROUP_ADD
from fast_channels.layers.redis.sharding import shard_of

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


class Redis:
    """A shard that goes away, stalls and refuses as a test asks."""

    def __init__(self) -> None:
        self.groups: defaultdict[str, set[str]] = defaultdict(set)
        self.lifetimes: dict[str, int] = {}
        # The group and the channels of each command.
        self.added: list[tuple[str, ...]] = []
        self.removed: list[tuple[str, ...]] = []
        self.unreachable = False
        self.known_to_be_away = False
        # Whether it does not know the next script, as it was restarted.
        self.forgets_scripts = False
        # Groups that are something else.
        self.wrong: set[str] = set()
        # Commands have their effect at once, and wait for this for their reply.
        self.answers = asyncio.Event()
        self.answers.set()

    async def execute(self, *command: str | int) -> None:
        error = self._carry_out([str(word) for word in command])
        await self.answers.wait()
        if error is not None:
            raise error

    def _carry_out(self, command: list[str]) -> Exception | None:
        _, key, *channels = command
        add = key in {GROUP_ADD.sha, GROUP_ADD.text}
        if add:
            _, key, milliseconds, *channels = channels
            self.lifetimes[key] = int(milliseconds)
        else:
            assert command[0] == "ZREM"
        (self.added if add else self.removed).append((key, *channels))
        if add and self.forgets_scripts:
            self.forgets_scripts = False
            return NoScriptError("No matching script. Please use EVAL.")
        if self.unreachable:
            return RedisUnavailable("redis is not available")
        if key in self.wrong:
            return ResponseError(WRONG_TYPE)
        members = self.groups[key]
        (members.update if add else members.difference_update)(channels)
        return None

    def holds(self, **groups: set[str]) -> bool:
        """Return whether these are all members of groups."""
        held = {key[11:]: channels for key, channels in self.groups.items() if channels}
        return held == groups


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 # fakes have no events
            await asyncio.sleep(0)


def make(*shards: Redis, group_expiry: float = 60) -> Memberships:
    return Memberships(
        [cast("CommandConnection", shard) for shard in shards],
        "asgi",
        group_expiry,
        lambda shard: shards[shard].known_to_be_away,
    )


async def join(memberships: Memberships, groups: str, channels: str) -> None:
    """Add channels to groups, all of whose names are letters."""
    for group in groups:
        for channel in channels:
            await memberships.add(group, channel)


def others() -> set["asyncio.Task[object]"]:
    """Return the tasks beside the test."""
    return {*asyncio.all_tasks()} - {asyncio.current_task()}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten what would make tests slow, or long."""
    monkeypatch.setattr(module, "_PATIENCE", 0.001)
    monkeypatch.setattr(module, "_RETRY", 0.001)
    monkeypatch.setattr(module, "_CHUNK", 2)
    monkeypatch.setattr(module, "_FORGET", 4)


@pytest.fixture
async def redis() -> Redis:
    return Redis()


@pytest.fixture
async def memberships(redis: Redis) -> AsyncIterator[Memberships]:
    memberships = make(redis)
    yield memberships
    redis.unreachable = False
    redis.wrong.clear()
    redis.answers.set()
    await memberships.close()


# While Redis is there


async def test_adding_and_discarding(redis: Redis, memberships: Memberships) -> None:
    """Redis knows who has joined and who has left when the methods return."""
    await join(memberships, "a", "xy")
    await memberships.add("b", "x")
    assert redis.holds(a={"x", "y"}, b={"x"})
    assert set(redis.lifetimes.values()) == {60_001}
    await memberships.discard("a", "x")
    assert redis.holds(a={"y"}, b={"x"})
    assert memberships.groups == {"a": {"y"}, "b": {"x"}}


async def test_channels_of_others(redis: Redis, memberships: Memberships) -> None:
    """What is inserted into Redis only is not kept here, but may be discarded."""
    await memberships.insert("a", "x", "y", "z")
    assert redis.holds(a={"x", "y", "z"})
    await memberships.remove("a", "x")
    for _ in range(2):
        await memberships.discard("a", "y")
        assert redis.holds(a={"z"})
    assert memberships.groups == {}


async def test_deleting_a_channel(redis: Redis, memberships: Memberships) -> None:
    """A channel leaves all its groups at once, not one after the other."""
    await join(memberships, "abc", "x")
    await join(memberships, "a", "y")
    redis.answers.clear()
    deleting = asyncio.create_task(memberships.delete("x"))
    await until(lambda: len(redis.removed) == 3)
    redis.answers.set()
    await deleting
    assert redis.holds(a={"y"})
    assert memberships.groups == {"a": {"y"}}


async def test_closing(redis: Redis, memberships: Memberships) -> None:
    """All channels leave all groups, by one command for each group."""
    await join(memberships, "ab", "xy")
    await memberships.close()
    assert redis.holds()
    assert len(redis.removed) == 2
    assert memberships.groups == {}


async def test_clearing(redis: Redis, memberships: Memberships) -> None:
    """What is forgotten is not told of any more, and Redis is left as it is."""
    await memberships.add("a", "x")
    memberships.clear()
    await until(lambda: not others())
    assert redis.holds(a={"x"})


async def test_no_task_left(redis: Redis, memberships: Memberships) -> None:
    """Nothing runs before a channel joins, nor when the last has left."""
    memberships.assert_again(0)
    assert not others()
    await memberships.add("a", "x")
    await memberships.discard("a", "x")
    await until(lambda: not others())
    assert len(redis.added) == len(redis.removed) == 1


async def test_cancelling(redis: Redis, memberships: Memberships) -> None:
    """Who is cancelled in the middle has joined all the same."""
    joining = asyncio.create_task(memberships.add("a", "x"))
    await asyncio.sleep(0)
    joining.cancel()
    await asyncio.wait([joining])
    assert joining.cancelled()
    await until(lambda: redis.holds(a={"x"}))


# While Redis is away


async def test_changes_while_away(redis: Redis, memberships: Memberships) -> None:
    """Whoever joins or leaves while Redis is away has done so when it is back."""
    await join(memberships, "a", "vxyz")
    redis.unreachable = True
    for channel in "xz":
        await memberships.discard("a", channel)
    await memberships.delete("y")
    await memberships.add("a", "z")
    await memberships.add("b", "x")
    assert memberships.groups == {"a": {"v", "z"}, "b": {"x"}}
    redis.added.clear()
    await until(lambda: len(redis.added) > 3)
    assert redis.holds(a={"v", "x", "y", "z"})
    redis.unreachable = False
    await until(lambda: redis.holds(a={"v", "z"}, b={"x"}))


@pytest.mark.parametrize("known", [True, False], ids=["before", "meanwhile"])
async def test_not_waiting(redis: Redis, memberships: Memberships, known: bool) -> None:
    """Nobody waits for a reply of a server that is known to be away."""
    await memberships.add("b", "y")
    redis.answers.clear()
    redis.known_to_be_away = known
    changes = asyncio.gather(memberships.add("a", "x"), memberships.discard("b", "y"))
    await until(lambda: len(redis.added) == 2)
    redis.known_to_be_away = True
    await changes
    assert redis.holds(a={"x"})


async def test_who_left_long_ago(redis: Redis, memberships: Memberships) -> None:
    """Of many that leave while Redis is away, the last are removed; others expire."""
    await join(memberships, "a", "uvwxyz")
    redis.unreachable = True
    for channel in "uvwxyz":
        await memberships.discard("a", channel)
    redis.unreachable = False
    await until(lambda: redis.holds(a={"u", "v"}))


async def test_closing_while_away(redis: Redis, memberships: Memberships) -> None:
    """Who closes is told that Redis still holds members, and nothing goes on."""
    await memberships.add("a", "x")
    redis.unreachable = True
    with pytest.raises(RedisUnavailable, match=r"redis is not available"):
        await memberships.close()
    assert memberships.groups == {}
    assert not others()


# What Redis is told by itself


async def test_telling_again() -> None:
    """A server that has lost everything is told everything, and others are not."""
    shards = Redis(), Redis()
    memberships = make(*shards)
    await join(memberships, "abcdefgh", "xy")
    mine = {name: {"x", "y"} for name in "abcdefgh" if shard_of(name, 2) == 1}
    assert shards[1].holds(**mine)
    for shard in shards:
        shard.groups.clear()
    memberships.assert_again(1)
    await until(lambda: shards[1].holds(**mine))
    assert shards[0].holds()
    await memberships.close()


async def test_renewing(redis: Redis) -> None:
    """Members are renewed again and again, long before they expire."""
    memberships = make(redis, group_expiry=0.03)
    started = asyncio.get_running_loop().time()
    await memberships.add("a", "x")
    await until(lambda: len(redis.added) == 4)
    assert asyncio.get_running_loop().time() - started >= 0.03
    assert redis.lifetimes == {"asgi:group:a": 31}
    await memberships.close()


async def test_many_members(redis: Redis, memberships: Memberships) -> None:
    """Many groups, and groups of many members, are told in parts."""
    await join(memberships, "abc", "vwxyz")
    redis.groups.clear()
    redis.added.clear()
    memberships.assert_again(0)
    channels = set("vwxyz")
    await until(lambda: redis.holds(a=channels, b=channels, c=channels))
    assert sorted(len(command) for command in redis.added) == [2] * 3 + [3] * 6


async def test_refused_changes(
    redis: Redis, memberships: Memberships, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of Redis is the caller's; while groups are kept it is logged."""
    redis.wrong.add("asgi:group:a")
    with pytest.raises(ResponseError, match=r"WRONGTYPE"):
        await memberships.add("a", "x")
    await memberships.add("b", "x")
    redis.groups.clear()
    memberships.assert_again(0)
    error = (module.__name__, logging.ERROR, f"a group cannot be kept: {WRONG_TYPE}")
    await until(lambda: error in caplog.record_tuples)
    assert redis.holds(b={"x"})
    with pytest.raises(ResponseError, match=r"WRONGTYPE"):
        await memberships.discard("a", "x")


@pytest.mark.parametrize("restarted", [True, False], ids=["restarted", "in parts"])
async def test_leaving_while_redis_is_told(
    redis: Redis, memberships: Memberships, restarted: bool
) -> None:
    """Who leaves while a server is told of everybody is not added again."""
    await join(memberships, "a", "xyz")
    redis.forgets_scripts = restarted
    redis.added.clear()
    redis.answers.clear()
    memberships.assert_again(0)
    await until(lambda: redis.added)
    left = next(name for name in "xyz" if (name in redis.added[0]) is restarted)
    leaving = asyncio.create_task(memberships.discard("a", left))
    await until(lambda: redis.removed)
    redis.answers.set()
    await leaving
    # By then everything that was to be told has been.
    await memberships.add("b", "z")
    await until(lambda: redis.holds(a=set("xyz") - {left}, b={"z"}))


async def test_joining_while_redis_is_told(
    redis: Redis, memberships: Memberships
) -> None:
    """Who comes back while a server is told who has left stays a member."""
    await join(memberships, "a", "xyz")
    redis.unreachable = True
    for channel in "xyz":
        await memberships.discard("a", channel)
    # All three are tried in vain; when they are tried again, two are told at once.
    redis.removed.clear()
    await until(lambda: redis.removed and redis.removed[-1][1] == "z")
    redis.unreachable = False
    redis.answers.clear()
    redis.removed.clear()
    await until(lambda: len(redis.removed) == 2)
    joining = asyncio.create_task(memberships.add("a", "z"))
    await until(lambda: redis.added[-1] == ("asgi:group:a", "z"))
    redis.answers.set()
    await joining
    await memberships.add("b", "z")
    await until(lambda: redis.holds(a={"z"}, b={"z"}))
