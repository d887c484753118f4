"""Memberships are kept in the process, and written to Redis whenever it is there."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis.queue.memberships import Memberships, Timing
from fast_channels.layers.redis.sharding import shard_of
from tests.waiting import until

from .fake_groups import TIMING, Redis, join, make, others, write_again

AWAY = RedisUnavailable("redis-1 is not available: it did not reply in time")


@pytest.fixture
async def redis() -> Redis:
    return Redis()


@pytest.fixture
async def memberships(redis: Redis) -> AsyncIterator[Memberships]:
    memberships = make(redis)
    yield memberships
    redis.trouble = None
    redis.answers.set()
    await memberships.close()


# While Redis is there


async def test_adding_and_discarding(redis: Redis, memberships: Memberships) -> None:
    """Redis knows who has joined and who has left when the methods return."""
    await join(memberships, "a", "xy")
    await memberships.add("b", "x")
    assert redis.holds(a={"x", "y"}, b={"x"})
    assert redis.lifetimes == {60}
    assert redis.processes == {"me.1"}
    await memberships.discard("a", "x")
    assert redis.holds(a={"y"}, b={"x"})
    assert memberships.groups.by_group == {"a": {"y": 0}, "b": {"x": 0}}


async def test_channels_of_others(redis: Redis, memberships: Memberships) -> None:
    """What is inserted into Redis only is not kept here, but may be discarded."""
    await memberships.insert("a", "x", "y", "z")
    assert redis.holds(a={"x", "y", "z"})
    assert redis.processes == set(), "their process is not known"
    await memberships.remove("a", "x")
    for _ in range(2):
        await memberships.discard("a", "y")
        assert redis.holds(a={"z"})
    assert memberships.groups.by_group == {}


async def test_together(redis: Redis, memberships: Memberships) -> None:
    """Channels that join at once do so with one command."""
    await asyncio.gather(*[memberships.add(group, "x") for group in "abc"])
    assert redis.holds(a={"x"}, b={"x"}, c={"x"})
    assert len(redis.added) == 1


async def test_deleting_a_channel(redis: Redis, memberships: Memberships) -> None:
    """A channel leaves all its groups at once, not one after the other."""
    await join(memberships, "abc", "x")
    await join(memberships, "a", "y")
    await memberships.delete("x")
    assert redis.holds(a={"y"})
    assert len(redis.removed) == 1
    assert memberships.groups.by_group == {"a": {"y": 0}}
    await memberships.delete("x")
    assert len(redis.removed) == 1


@pytest.mark.parametrize("cancelled", [False, True])
async def test_deleting_in_steps(redis: Redis, cancelled: bool) -> None:
    """The event loop goes on while a channel leaves many groups."""
    memberships = make(redis, timing=replace(TIMING, step=2))
    await join(memberships, "abcdefg", "x")
    deleting = asyncio.create_task(memberships.delete("x"))
    await until(lambda: len(memberships.groups.by_group) < 7)
    assert len(memberships.groups.by_group) == 5
    if cancelled:
        deleting.cancel()
    await asyncio.wait([deleting])
    assert deleting.cancelled() is cancelled
    assert memberships.groups.by_group == {}
    await until(redis.holds)


async def test_closing(redis: Redis, memberships: Memberships) -> None:
    """All channels leave all groups, and the process its lease, by few commands."""
    await join(memberships, "ab", "xy")
    await memberships.close()
    assert redis.holds()
    assert redis.processes == set()
    assert len(redis.removed) == 1
    assert memberships.groups.by_group == {}


async def test_closing_while_redis_is_told(
    redis: Redis,
) -> None:
    """What was about to be written is dropped, and nothing is left behind."""
    memberships = make(redis, timing=replace(TIMING, batch=2))
    await join(memberships, "abcdef", "xyz")
    redis.answers.clear()
    redis.added.clear()
    write_again(memberships)
    await until(lambda: redis.added)
    closing = asyncio.create_task(memberships.close())
    await until(lambda: redis.removed)
    redis.answers.set()
    await closing
    assert len(redis.added) == 1
    assert redis.holds()
    assert not others()


async def test_clearing(redis: Redis, memberships: Memberships) -> None:
    """What is forgotten is not told of any more, and Redis is left as it is."""
    await memberships.add("a", "x")
    memberships.clear()
    await until(lambda: not others())
    assert redis.holds(a={"x"})


async def test_no_task_left(redis: Redis, memberships: Memberships) -> None:
    """Nothing runs before a channel joins, nor when it has."""
    write_again(memberships)
    assert not others()
    await memberships.add("a", "x")
    await until(lambda: not others())
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
    """Joins and leaves made while Redis is away are written when it is back."""
    await join(memberships, "a", "vxyz")
    redis.trouble = AWAY
    for channel in "xz":
        await memberships.discard("a", channel)
    await memberships.delete("y")
    await memberships.add("a", "z")
    await memberships.add("b", "x")
    assert memberships.groups.by_group == {"a": {"v": 0, "z": 0}, "b": {"x": 0}}
    redis.added.clear()
    await until(lambda: len(redis.added) > 3)
    assert redis.holds(a={"v", "x", "y", "z"})
    redis.trouble = None
    await until(lambda: redis.holds(a={"v", "z"}, b={"x"}))


@pytest.mark.parametrize("known", [True, False], ids=["before", "meanwhile"])
async def test_not_waiting(redis: Redis, memberships: Memberships, known: bool) -> None:
    """Changes do not wait for a server that is known to be away."""
    await memberships.add("b", "y")
    redis.answers.clear()
    redis.known_to_be_away = known
    changes = asyncio.gather(memberships.add("a", "x"), memberships.discard("b", "y"))
    await until(lambda: len(redis.added) == 2)
    redis.known_to_be_away = True
    await changes
    assert redis.holds(a={"x"})


async def test_waiting_once(redis: Redis) -> None:
    """Who joins several groups waits for Redis once, not once for each group."""
    memberships = make(redis, timing=Timing(retry=60))
    redis.trouble = AWAY
    await join(memberships, "abcdef", "x")
    assert len(redis.added) == 1
    redis.trouble = None
    write_again(memberships)
    await until(lambda: redis.holds(**{group: {"x"} for group in "abcdef"}))
    await memberships.close()


async def test_closing_while_away(redis: Redis, memberships: Memberships) -> None:
    """Closing raises if Redis still holds members, and leaves nothing running."""
    await memberships.add("a", "x")
    redis.trouble = AWAY
    with pytest.raises(RedisUnavailable, match=r"did not reply"):
        await memberships.close()
    assert memberships.groups.by_group == {}
    assert redis.processes == {"me.1"}, "what could not be removed ends with the lease"
    assert not others()


# What is written to Redis without a call


async def test_telling_again() -> None:
    """Everything is written again to a server that lost its data, and only to it."""
    shards = Redis(), Redis("redis-2")
    memberships = make(*shards)
    await join(memberships, "abcdefgh", "xy")
    mine = {name: {"x", "y"} for name in "abcdefgh" if shard_of(name, 2) == 1}
    assert shards[1].holds(**mine)
    for shard in shards:
        shard.groups.clear()
    write_again(memberships, 1)
    await until(lambda: shards[1].holds(**mine))
    assert shards[0].holds()
    await memberships.close()


async def test_renewing(redis: Redis) -> None:
    """Members are renewed again and again, long before they expire."""
    memberships = make(redis, group_expiry=0.03)
    started = asyncio.get_running_loop().time()
    await memberships.add("a", "x")
    await until(lambda: redis.modes.count("CH") == 4)
    # uvloop's clock counts whole milliseconds, so each of three can be one too early.
    assert asyncio.get_running_loop().time() - started >= 0.026
    assert redis.lifetimes == {0.03}
    await memberships.close()


async def test_beating(redis: Redis) -> None:
    """The lease is renewed while a channel is in a group, on shards that have one."""
    shards = redis, Redis("redis-2")
    memberships = make(*shards, timing=Timing(beat=0.001, beats_per_check=1000))
    await memberships.add("a", "x")
    (used,) = [shard for shard in shards if shard.added]
    await until(lambda: used.modes.count("NX") == 3)
    assert used.added == [[("a", "x")], [], [], []]
    assert [shard.processes for shard in shards if shard is not used] == [set()]
    await memberships.discard("a", "x")
    await until(lambda: not others())
    beats = len(used.added)
    end = asyncio.get_running_loop().time() + 0.01
    await until(lambda: asyncio.get_running_loop().time() > end)
    assert len(used.added) == beats
    await memberships.close()


async def test_what_redis_lost(redis: Redis) -> None:
    """A member that Redis lost without a sign of it is put back, and no other."""
    memberships = make(redis, timing=Timing(beat=0.001, beats_per_check=2))
    await join(memberships, "ab", "xy")
    redis.groups["a"].remove("x")
    del redis.groups["b"]
    await until(lambda: redis.holds(a={"x", "y"}, b={"x", "y"}))
    assert redis.modes.count("CH") == 4, "each channel joined once"
    await memberships.close()


async def test_taken_for_dead(redis: Redis) -> None:
    """A process that Redis took for dead asserts everything at its next beat."""
    memberships = make(redis, timing=Timing(beat=0.001, beats_per_check=1000))
    await join(memberships, "ab", "xy")
    redis.groups.clear()
    redis.processes.clear()
    await until(lambda: redis.holds(a={"x", "y"}, b={"x", "y"}))
    await memberships.close()


async def test_an_old_state(redis: Redis, memberships: Memberships) -> None:
    """Who left lately and was brought back, as by a failover, is removed again."""
    await join(memberships, "a", "xy")
    await memberships.discard("a", "x")
    await memberships.discard("a", "y")
    redis.groups["a"] |= {"x", "y", "other"}
    write_again(memberships)
    await until(lambda: redis.holds(a={"other"}))


async def test_a_long_outage(redis: Redis) -> None:
    """Who left at the beginning of a long outage is removed all the same."""
    memberships = make(redis, timing=Timing(beat=0.001, retry=0.001, remembered=0.001))
    await join(memberships, "a", "xy")
    redis.trouble = AWAY
    await memberships.discard("a", "x")
    redis.removed.clear()
    await until(lambda: len(redis.removed) > 5)
    redis.trouble = None
    await until(lambda: redis.holds(a={"y"}))
    await memberships.close()


async def test_a_very_old_state(redis: Redis) -> None:
    """Who left long ago is not remembered for ever."""
    memberships = make(redis, timing=Timing(beat=0.001, remembered=0.001))
    await memberships.add("b", "x")
    await memberships.add("a", "x")
    await memberships.discard("a", "x")
    beats = len(redis.added)
    await until(lambda: len(redis.added) > beats + 3)
    redis.groups["a"].add("x")
    redis.removed.clear()
    write_again(memberships)
    beats = len(redis.added)
    await until(lambda: len(redis.added) > beats + 3)
    assert redis.removed == []
    await memberships.close()


def test_timing() -> None:
    """Two beats can be lost before a lease ends, and a minute tells what was lost."""
    timing = Timing()
    assert 3 * timing.beat < timing.lease <= 60
    assert timing.beat * timing.beats_per_check <= 60
    assert TIMING.lease == timing.lease
