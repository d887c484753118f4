"""Stand-ins: one name in a group for many channels of a process."""

import asyncio
import re

import pytest
from redis.exceptions import ResponseError

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers import BaseChannelLayer
from fast_channels.layers.redis.queue.memberships import Memberships
from fast_channels.layers.redis.queue.stand_ins import NAMED, name_of, queue_of
from tests.waiting import until

from .fake_groups import Redis, others, timed, write_again

QUEUE = "specific.me.1!"
CHANNELS = [f"{QUEUE}{number:x}.{number:016x}" for number in range(20)]
FEW, NINTH, MORE = CHANNELS[:NAMED], CHANNELS[NAMED], CHANNELS[NAMED + 1 :]
STAND_IN = name_of("a", QUEUE)

AWAY = RedisUnavailable("redis-1 is not available: it did not reply in time")


async def join_all(memberships: Memberships, channels: list[str]) -> None:
    for channel in channels:
        await memberships.add("a", channel)


@pytest.fixture
async def many(redis: Redis, memberships: Memberships) -> Memberships:
    """Return memberships with nine channels in group a, and so with a stand-in."""
    await join_all(memberships, [*FEW, NINTH])
    await until(lambda: redis.holds(a={STAND_IN}) and not others())
    return memberships


# Names


def test_name_of_a_stand_in_is_valid_and_short() -> None:
    """It differs from the names of all channels and groups."""
    names = [
        name_of(group, queue)
        for group in ["a", "b", "x" * 99]
        for queue in [QUEUE, "specific.me.2!"]
    ]
    assert len(set(names)) == 6
    for name in names:
        assert BaseChannelLayer().require_valid_channel_name(name)
        assert re.fullmatch(r"specific\.me\.[12]!g\.[A-Za-z0-9_-]{16}", name)
    # Processes of all versions, and the scripts that list a group's members, compute
    # it.
    assert name_of("room", QUEUE) == "specific.me.1!g.mFetbnwpYf06baL7"


def test_queue_of_a_channel_is_the_part_before_its_random_characters() -> None:
    """All channels of a process with the same prefix share it."""
    assert queue_of(NINTH) == QUEUE


# Joining


async def test_eight_channels_are_listed_by_name(
    redis: Redis, memberships: Memberships
) -> None:
    """Other processes, including Django's, can therefore remove them."""
    await join_all(memberships, FEW)
    assert redis.holds(a={*FEW})


async def test_ninth_channel_replaces_names_with_a_stand_in(
    redis: Redis, memberships: Memberships
) -> None:
    """Names are removed after Redis has the stand-in."""
    await join_all(memberships, FEW)
    redis.answers.clear()
    joining = asyncio.create_task(memberships.add("a", NINTH))
    await until(lambda: redis.holds(a={*FEW, STAND_IN}))
    assert not joining.done()
    redis.answers.set()
    await joining
    await until(lambda: redis.holds(a={STAND_IN}))


async def test_further_joins_send_no_command(redis: Redis, many: Memberships) -> None:
    """They return at once, even if Redis does not reply."""
    commands = len(redis.added)
    redis.answers.clear()
    await join_all(many, [*MORE, *FEW])
    assert len(redis.added) == commands
    assert many.groups.by_group["a"].keys() == {*CHANNELS}


async def test_joins_at_once_share_few_commands(
    redis: Redis, memberships: Memberships
) -> None:
    """All of them wait until Redis has the stand-in."""
    redis.answers.clear()
    joining = asyncio.gather(*[memberships.add("a", each) for each in CHANNELS])
    await until(lambda: redis.holds(a={*FEW, STAND_IN}))
    assert not joining.done()
    redis.answers.set()
    await joining
    await until(lambda: redis.holds(a={STAND_IN}))
    assert len(redis.added) + len(redis.removed) == 2


async def test_each_group_and_queue_has_its_own_joins(
    redis: Redis, many: Memberships
) -> None:
    """Each queue has its own stand-in, from the start in a group that has one."""
    await many.add("b", NINTH)
    await many.add("a", "jobs.me.1!0.0")
    await many.add("a", "jobs.me.1!1.1")
    theirs = name_of("a", "jobs.me.1!")
    assert redis.holds(a={STAND_IN, theirs}, b={NINTH})
    for channel in ("jobs.me.1!0.0", "jobs.me.1!1.1"):
        await many.delete(channel)
    assert redis.holds(a={STAND_IN}, b={NINTH})


async def test_several_queues_in_one_group_have_a_stand_in_each(
    redis: Redis, memberships: Memberships
) -> None:
    """Each stand-in represents the channels of its queue."""
    here = [f"{prefix}.me.1!{n}.{n}" for prefix in ("x", "y") for n in range(5)]
    await join_all(memberships, here)
    both = {name_of("a", "x.me.1!"), name_of("a", "y.me.1!")}
    await until(lambda: redis.holds(a=both))
    for channel in here[:5]:
        await memberships.discard("a", channel)
    assert redis.holds(a={name_of("a", "y.me.1!")})


# Leaving


async def test_last_channel_that_leaves_removes_the_stand_in(
    redis: Redis, many: Memberships
) -> None:
    """The next channels are listed by name again."""
    for channel in FEW:
        await many.discard("a", channel)
        assert redis.holds(a={STAND_IN})
    await many.discard("a", NINTH)
    assert redis.holds()
    await join_all(many, FEW)
    assert redis.holds(a={*FEW})
    await many.add("a", NINTH)
    await until(lambda: redis.holds(a={STAND_IN}))


async def test_deleted_channels_send_no_command(
    redis: Redis, many: Memberships
) -> None:
    """The last one removes the stand-in."""
    redis.removed.clear()
    for channel in FEW:
        await many.delete(channel)
    assert redis.removed == []
    await many.delete(NINTH)
    assert redis.removed == [[("a", STAND_IN)]]
    assert redis.holds()
    assert many.groups.by_group == {}


async def test_name_that_another_process_added_is_removed(
    redis: Redis, many: Memberships
) -> None:
    """discard() removes the name as well as the membership."""
    redis.groups["a"].add(FEW[0])
    await many.discard("a", FEW[0])
    assert redis.holds(a={STAND_IN})
    redis.groups["a"].add(FEW[0])
    await many.discard("a", FEW[0])
    assert redis.holds(a={STAND_IN}), "it is not a member any more"


@pytest.mark.parametrize("deletes", [False, True], ids=["discard", "delete"])
async def test_channel_that_leaves_before_its_name_is_replaced_is_removed(
    redis: Redis, memberships: Memberships, deletes: bool
) -> None:
    """Its name is removed although the stand-in has not been written yet."""
    await join_all(memberships, FEW)
    redis.trouble = AWAY
    await memberships.add("a", NINTH)
    if deletes:
        await memberships.delete(FEW[0])
    else:
        await memberships.discard("a", FEW[0])
    assert redis.holds(a={*FEW})
    redis.trouble = None
    await until(lambda: redis.holds(a={STAND_IN}))


async def test_channel_that_returns_before_its_name_is_replaced_stays_a_member(
    redis: Redis, memberships: Memberships
) -> None:
    """No name is left over."""
    await join_all(memberships, FEW)
    redis.trouble = AWAY
    await memberships.add("a", NINTH)
    await memberships.discard("a", FEW[0])
    await memberships.add("a", FEW[0])
    redis.trouble = None
    await until(lambda: redis.holds(a={STAND_IN}))


async def test_members_that_leave_and_return_while_redis_is_away_are_in_sync(
    redis: Redis, many: Memberships
) -> None:
    """Redis gets the state at the moment of its return."""
    redis.trouble = AWAY
    for channel in [*FEW, NINTH]:
        await many.discard("a", channel)
    await join_all(many, FEW)
    redis.trouble = None
    await until(lambda: redis.holds(a={*FEW}))
    redis.trouble = AWAY
    for channel in FEW:
        await many.delete(channel)
    await join_all(many, CHANNELS)
    redis.trouble = None
    await until(lambda: redis.holds(a={STAND_IN}))


# Redis that loses data


async def test_stand_ins_are_written_again(redis: Redis, many: Memberships) -> None:
    """The names that they replaced are not."""
    redis.groups.clear()
    write_again(many)
    await until(lambda: redis.holds(a={STAND_IN}) and not others())
    many.clear()
    assert many.stand_ins.by_name == {}


@timed(batch=2)
async def test_names_that_a_failover_brings_back_stay_until_the_stand_in_is_there(
    redis: Redis, many: Memberships
) -> None:
    """Messages list names or the stand-in at any time."""
    redis.groups["a"] = {*FEW}
    redis.states.clear()
    write_again(many)
    await until(lambda: redis.holds(a={STAND_IN}) and not others())
    members = [state["a"] for state in redis.states]
    assert all(STAND_IN in each or {*FEW} <= each for each in members)
    assert {*FEW} in members


async def test_confirmation_from_before_redis_lost_the_stand_in_does_not_count(
    redis: Redis, memberships: Memberships
) -> None:
    """Names are listed until the stand-in has been written again."""
    await join_all(memberships, FEW)
    redis.answers.clear()
    joining = asyncio.create_task(memberships.add("a", NINTH))
    await until(lambda: redis.holds(a={*FEW, STAND_IN}))
    redis.groups["a"] = {*FEW}
    redis.states.clear()
    write_again(memberships)
    redis.answers.set()
    await joining
    await until(lambda: redis.holds(a={STAND_IN}) and not others())
    members = [state["a"] for state in redis.states]
    assert all(STAND_IN in each or {*FEW} <= each for each in members)


async def test_joins_wait_while_redis_may_have_lost_the_stand_in(
    redis: Redis, many: Memberships
) -> None:
    """A channel is listed when add() returns."""
    redis.answers.clear()
    redis.groups.clear()
    write_again(many)
    joining = asyncio.create_task(many.add("a", MORE[0]))
    await asyncio.sleep(0)
    assert not joining.done()
    redis.answers.set()
    await joining
    assert STAND_IN in redis.groups["a"]


@timed(beat=0.001, beats_per_check=2)
async def test_stand_in_that_redis_lost_is_restored(
    redis: Redis, memberships: Memberships
) -> None:
    """As for names, Redis is periodically compared with the process."""
    await join_all(memberships, CHANNELS)
    await until(lambda: redis.holds(a={STAND_IN}))
    redis.groups.clear()
    await until(lambda: redis.holds(a={STAND_IN}))


async def test_closing_removes_stand_ins(redis: Redis, many: Memberships) -> None:
    """Names that are still listed are removed too."""
    redis.trouble = AWAY
    for channel in CHANNELS:
        await many.add("b", channel)
    redis.groups["b"] = {*FEW}
    redis.trouble = None
    await many.close()
    assert redis.holds()


async def test_key_of_another_type_is_an_error_of_each_join(
    redis: Redis, memberships: Memberships
) -> None:
    """The error is raised for any number of members, until the key is free."""
    redis.wrong.add("a")
    for channel in CHANNELS:
        with pytest.raises(ResponseError, match=r"WRONGTYPE"):
            await memberships.add("a", channel)
    redis.wrong.clear()
    await memberships.add("a", NINTH)
    await until(lambda: redis.holds(a={STAND_IN}))
