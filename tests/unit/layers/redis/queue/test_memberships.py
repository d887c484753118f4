"""Memberships: kept in the process, and written to Redis whenever it is available."""

import asyncio
from dataclasses import replace

import pytest

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis.queue.memberships import Memberships, Timing
from fast_channels.layers.redis.sharding import shard_of
from tests.waiting import until

from .fake_groups import TIMING, Redis, join, make, others, timed, write_again

AWAY = RedisUnavailable("redis-1 is not available: it did not reply in time")


# While Redis is available


async def test_redis_knows_members_when_the_methods_return(
    redis: Redis, memberships: Memberships
) -> None:
    """add() and discard() wait for Redis, and renew the lease of the process."""
    await join(memberships, "a", "xy")
    await memberships.add("b", "x")
    assert redis.holds(a={"x", "y"}, b={"x"})
    assert redis.lifetimes == {60}
    assert redis.processes == {"me.1"}
    await memberships.discard("a", "x")
    assert redis.holds(a={"y"}, b={"x"})
    assert memberships.groups.by_group == {"a": {"y": 0}, "b": {"x": 0}}


async def test_channels_of_other_processes_are_in_redis_only(
    redis: Redis, memberships: Memberships
) -> None:
    """insert() and remove() keep nothing here; discard() removes such a channel too."""
    await memberships.insert("a", "x", "y", "z")
    assert redis.holds(a={"x", "y", "z"})
    assert redis.processes == set(), "their process is not known"
    await memberships.remove("a", "x")
    for _ in range(2):
        await memberships.discard("a", "y")
        assert redis.holds(a={"z"})
    assert memberships.groups.by_group == {}


async def test_channels_that_join_at_once_share_a_command(
    redis: Redis, memberships: Memberships
) -> None:
    """One command adds everything that changed in the same turn of the event loop."""
    await asyncio.gather(*[memberships.add(group, "x") for group in "abc"])
    assert redis.holds(a={"x"}, b={"x"}, c={"x"})
    assert len(redis.added) == 1


async def test_deleted_channel_leaves_all_its_groups_with_one_command(
    redis: Redis, memberships: Memberships
) -> None:
    """delete() does nothing for a channel without groups."""
    await join(memberships, "abc", "x")
    await join(memberships, "a", "y")
    await memberships.delete("x")
    assert redis.holds(a={"y"})
    assert len(redis.removed) == 1
    assert memberships.groups.by_group == {"a": {"y": 0}}
    await memberships.delete("x")
    assert len(redis.removed) == 1


async def test_deleted_channel_leaves_groups_on_several_shards() -> None:
    """It does not matter which of them is the first to reply."""
    slow, fast = Redis("slow"), Redis("fast")
    memberships = make(slow, fast)
    names = "abcdefgh"
    await join(memberships, names, "x")
    assert slow.added
    assert fast.added
    for first in (slow, fast):
        first.answers.clear()
        deleting = asyncio.create_task(memberships.delete("x"))
        await until(lambda: bool(slow.removed and fast.removed))
        first.answers.set()
        await asyncio.wait_for(deleting, timeout=5)
        await join(memberships, names, "x")
        fast.removed.clear()
        slow.removed.clear()
    await memberships.close()


@timed(step=2)
@pytest.mark.parametrize("cancelled", [False, True])
async def test_channel_leaves_many_groups_in_steps(
    redis: Redis, memberships: Memberships, cancelled: bool
) -> None:
    """Other tasks run between the steps; cancelling does not undo the deletion."""
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


async def test_closing_removes_all_members_and_the_lease(
    redis: Redis, memberships: Memberships
) -> None:
    """One command removes the members of many groups."""
    await join(memberships, "ab", "xy")
    await memberships.close()
    assert redis.holds()
    assert redis.processes == set()
    assert len(redis.removed) == 1
    assert memberships.groups.by_group == {}


@timed(batch=2)
async def test_closing_drops_changes_that_were_not_sent(
    redis: Redis, memberships: Memberships
) -> None:
    """Only the batch in flight is written, and no task is left."""
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


async def test_cleared_memberships_stay_in_redis(
    redis: Redis, memberships: Memberships
) -> None:
    """clear() forgets them without writing to Redis."""
    await memberships.add("a", "x")
    memberships.clear()
    await until(lambda: not others())
    assert redis.holds(a={"x"})


async def test_no_task_runs_without_a_change(
    redis: Redis, memberships: Memberships
) -> None:
    """No task runs before the first channel joins, nor after each change."""
    write_again(memberships)
    assert not others()
    await memberships.add("a", "x")
    await until(lambda: not others())
    await memberships.discard("a", "x")
    await until(lambda: not others())
    assert len(redis.added) == len(redis.removed) == 1


async def test_cancelled_join_is_written(
    redis: Redis, memberships: Memberships
) -> None:
    """Cancelling add() ends only the wait."""
    joining = asyncio.create_task(memberships.add("a", "x"))
    await asyncio.sleep(0)
    joining.cancel()
    await asyncio.wait([joining])
    assert joining.cancelled()
    await until(lambda: redis.holds(a={"x"}))


# While Redis is away


async def test_changes_made_while_redis_is_away_are_written_later(
    redis: Redis, memberships: Memberships
) -> None:
    """Redis has the latest state once it is back."""
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
async def test_changes_do_not_wait_for_a_server_known_to_be_away(
    redis: Redis, memberships: Memberships, known: bool
) -> None:
    """This holds if the outage was known before, or shows during the wait."""
    await memberships.add("b", "y")
    redis.answers.clear()
    redis.known_to_be_away = known
    changes = asyncio.gather(memberships.add("a", "x"), memberships.discard("b", "y"))
    await until(lambda: len(redis.added) == 2)
    redis.known_to_be_away = True
    await changes
    assert redis.holds(a={"x"})


@timed(retry=60)
async def test_a_silent_server_is_waited_for_once(
    redis: Redis, memberships: Memberships
) -> None:
    """A channel that joins several groups waits only for the first."""
    redis.trouble = AWAY
    await join(memberships, "abcdef", "x")
    assert len(redis.added) == 1
    redis.trouble = None
    write_again(memberships)
    await until(lambda: redis.holds(**{group: {"x"} for group in "abcdef"}))


async def test_closing_raises_while_redis_is_away(
    redis: Redis, memberships: Memberships
) -> None:
    """Members that could not be removed end with the lease; no task is left."""
    await memberships.add("a", "x")
    redis.trouble = AWAY
    with pytest.raises(RedisUnavailable, match=r"did not reply"):
        await memberships.close()
    assert memberships.groups.by_group == {}
    assert redis.processes == {"me.1"}, "what could not be removed ends with the lease"
    assert not others()


# Writes without a call


async def test_members_are_written_again_to_one_shard_only() -> None:
    """assert_again() is for a server that may have lost its data."""
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


async def test_members_are_renewed_long_before_they_expire(redis: Redis) -> None:
    """Renewal happens after a third of the time."""
    memberships = make(redis, group_expiry=0.03)
    started = asyncio.get_running_loop().time()
    await memberships.add("a", "x")
    await until(lambda: redis.modes.count("CH") == 4)
    # uvloop's clock counts whole milliseconds, so each of three waits can end one
    # early.
    assert asyncio.get_running_loop().time() - started >= 0.026
    assert redis.lifetimes == {0.03}
    await memberships.close()


async def test_lease_is_renewed_while_there_are_members(redis: Redis) -> None:
    """Only shards with members have a lease to renew."""
    shards = redis, Redis("redis-2")
    memberships = make(
        *shards, timing=replace(TIMING, beat=0.001, beats_per_check=1000)
    )
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


@timed(beat=0.001, batch=2, beats_per_check=2)
async def test_members_that_redis_lost_are_restored(
    redis: Redis, memberships: Memberships
) -> None:
    """Redis is compared with the process periodically; other members are left alone."""
    await join(memberships, "ab", "xy")
    redis.groups["a"].remove("x")
    del redis.groups["b"]
    await until(lambda: redis.holds(a={"x", "y"}, b={"x", "y"}))
    assert redis.modes.count("CH") == 4, "each channel joined once"
    assert max(map(len, redis.added)) == 2, "what was lost is looked for in batches"


@timed(beat=0.001, beats_per_check=1000)
async def test_process_that_was_considered_dead_writes_everything_again(
    redis: Redis, memberships: Memberships
) -> None:
    """The next renewal finds its lease gone."""
    await join(memberships, "ab", "xy")
    redis.groups.clear()
    redis.processes.clear()
    await until(lambda: redis.holds(a={"x", "y"}, b={"x", "y"}))


async def test_members_that_left_recently_are_removed_again(
    redis: Redis, memberships: Memberships
) -> None:
    """A failover, for example, can bring them back."""
    await join(memberships, "a", "xy")
    await memberships.discard("a", "x")
    await memberships.discard("a", "y")
    redis.groups["a"] |= {"x", "y", "other"}
    write_again(memberships)
    await until(lambda: redis.holds(a={"other"}))


@timed(beat=0.001, retry=0.001, remembered=0.001)
async def test_members_that_left_early_in_a_long_outage_are_removed(
    redis: Redis, memberships: Memberships
) -> None:
    """They are remembered while Redis cannot be written to."""
    await join(memberships, "a", "xy")
    redis.trouble = AWAY
    await memberships.discard("a", "x")
    redis.removed.clear()
    await until(lambda: len(redis.removed) > 5)
    redis.trouble = None
    await until(lambda: redis.holds(a={"y"}))


@timed(beat=0.001, remembered=0.001)
async def test_members_that_left_long_ago_are_forgotten(
    redis: Redis, memberships: Memberships
) -> None:
    """If they come back after that, it goes unnoticed."""
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


def test_timing_survives_lost_renewals() -> None:
    """Two renewals can fail before a lease ends; lost members return in a minute."""
    timing = Timing()
    assert 3 * timing.beat < timing.lease <= 60
    assert timing.beat * timing.beats_per_check <= 60
    assert TIMING.lease == timing.lease
