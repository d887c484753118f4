"""The writer of one shard: batches, refusals, and log records."""

import asyncio
import logging
from dataclasses import replace

import pytest
from redis.exceptions import ResponseError

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis.queue import group_writer as module
from fast_channels.layers.redis.queue.memberships import Memberships, Timing
from tests.waiting import until

from .fake_groups import TIMING, Redis, join, write_again


@pytest.fixture
def timing() -> Timing:
    """Lower the limits so that tests can reach them."""
    return replace(TIMING, batch=2, remembered_pairs=4)


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [
        (level, text)
        for name, level, text in caplog.record_tuples
        if name == module.__name__
    ]


async def test_many_members_are_written_in_batches(
    redis: Redis, memberships: Memberships
) -> None:
    """A batch can have members of several groups, and a group several batches."""
    await join(memberships, "abc", "vwxyz")
    redis.groups.clear()
    redis.added.clear()
    write_again(memberships)
    channels = set("vwxyz")
    await until(lambda: redis.holds(a=channels, b=channels, c=channels))
    assert [len(pairs) for pairs in redis.added] == [2] * 7 + [1]


async def test_changes_come_before_rewritten_members(
    redis: Redis, memberships: Memberships
) -> None:
    """A channel that joins waits for one batch, not for all of them."""
    await join(memberships, "abc", "wxyz")
    redis.answers.clear()
    redis.added.clear()
    write_again(memberships)
    await until(lambda: redis.added)
    joining = asyncio.create_task(memberships.add("d", "x"))
    await asyncio.sleep(0)
    redis.answers.set()
    await joining
    assert redis.added[1] == [("d", "x")]
    await until(lambda: len(redis.added) == 7)


async def test_a_bounded_number_of_removed_pairs_is_remembered(
    redis: Redis, memberships: Memberships
) -> None:
    """If many leave while Redis is away, the last are removed; others expire."""
    await join(memberships, "a", "uvwxyz")
    redis.trouble = RedisUnavailable("redis-1 is not available")
    for channel in "uvwxyz":
        await memberships.discard("a", channel)
    redis.trouble = None
    await until(lambda: redis.holds(a={"u", "v"}))


@pytest.mark.parametrize("known", [False, True], ids=["new", "known to be away"])
async def test_refusal_is_logged_once(
    redis: Redis,
    memberships: Memberships,
    caplog: pytest.LogCaptureFixture,
    known: bool,
) -> None:
    """However many groups there are, its start and its end have one record each."""
    caplog.set_level(logging.INFO, module.__name__)
    await join(memberships, "abcd", "x")
    redis.groups.clear()
    refusal = RedisUnavailable("redis-1 is not available: OOM")
    refusal.__cause__ = ResponseError("OOM command not allowed")
    redis.trouble = refusal
    redis.known_to_be_away = known
    for _ in range(5):
        write_again(memberships)
        redis.added.clear()
        await until(lambda: len(redis.added) > 3)
    await memberships.add("e", "x")
    await memberships.discard("a", "x")
    redis.trouble = None
    await until(lambda: redis.holds(b={"x"}, c={"x"}, d={"x"}, e={"x"}))
    can = "redis-1 can be updated with group memberships again"
    cannot = (
        "redis-1 cannot be updated with group memberships: OOM command not allowed; "
        "trying again until it can"
    )
    expected = [] if known else [(logging.WARNING, cannot), (logging.WARNING, can)]
    await until(lambda: records(caplog) == expected)


async def test_key_of_another_type_is_an_error_of_its_group(
    redis: Redis, memberships: Memberships, caplog: pytest.LogCaptureFixture
) -> None:
    """Other groups work; the log names the key once."""
    redis.wrong.add("a")
    for _ in range(2):
        with pytest.raises(ResponseError, match=r"WRONGTYPE .*'asgi:group:a'"):
            await memberships.add("a", "x")
    await memberships.add("b", "x")
    with pytest.raises(ResponseError, match=r"WRONGTYPE"):
        await memberships.insert("a", "other")
    redis.groups.clear()
    write_again(memberships)
    await until(lambda: redis.holds(b={"x"}))
    with pytest.raises(ResponseError, match=r"WRONGTYPE"):
        await memberships.discard("a", "x")
    complaint = "the key 'asgi:group:a' of group 'a' holds something else"
    assert records(caplog) == [(logging.ERROR, complaint)]
    redis.wrong.clear()
    await memberships.add("a", "x")
    assert redis.holds(a={"x"}, b={"x"})


async def test_permanent_error_is_raised_and_logged(
    redis: Redis, memberships: Memberships, caplog: pytest.LogCaptureFixture
) -> None:
    """A later attempt would not help."""
    redis.trouble = ResponseError("ERR unknown command")
    with pytest.raises(ResponseError, match=r"unknown command"):
        await memberships.add("a", "x")
    error = "redis-1 cannot keep groups: ERR unknown command"
    assert records(caplog) == [(logging.ERROR, error)]
    redis.trouble = None
    await memberships.add("b", "x")
    assert redis.holds(b={"x"})


async def test_error_of_a_cancelled_change_is_logged(
    redis: Redis, memberships: Memberships, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller no longer waits for it; the writer goes on."""
    redis.trouble = ResponseError("ERR unknown command")
    redis.answers.clear()
    joining = asyncio.create_task(memberships.add("a", "x"))
    await until(lambda: redis.added)
    joining.cancel()
    await asyncio.wait([joining])
    redis.answers.set()
    await until(lambda: records(caplog))
    redis.trouble = None
    await memberships.add("b", "x")


async def test_channel_that_leaves_meanwhile_is_not_written_again(
    redis: Redis, memberships: Memberships
) -> None:
    """This holds even if the whole script has to be sent in a second attempt."""
    await join(memberships, "a", "xyz")
    for restarted in (True, False):
        redis.forgets_scripts = restarted
        redis.added.clear()
        redis.answers.clear()
        write_again(memberships)
        await until(lambda: not redis.forgets_scripts)
        leaving = [asyncio.create_task(memberships.discard("a", each)) for each in "xy"]
        await asyncio.sleep(0)
        redis.answers.set()
        await asyncio.gather(*leaving)
        await memberships.add("b", "z")
        await until(lambda: redis.holds(a={"z"}, b={"z"}))
        await join(memberships, "a", "xy")


async def test_channel_that_comes_back_meanwhile_stays_a_member(
    redis: Redis, memberships: Memberships
) -> None:
    """Its removal is in flight when it joins again."""
    await join(memberships, "a", "xyz")
    redis.answers.clear()
    leaving = asyncio.create_task(memberships.discard("a", "z"))
    await until(lambda: redis.removed)
    joining = asyncio.create_task(memberships.add("a", "z"))
    await asyncio.sleep(0)
    redis.answers.set()
    await leaving
    await joining
    assert redis.holds(a={"x", "y", "z"})


async def test_joins_and_leaves_share_a_batch(
    redis: Redis, memberships: Memberships
) -> None:
    """They share its error too, and are written again."""
    await join(memberships, "a", "x")
    redis.added.clear()
    await asyncio.gather(memberships.discard("a", "x"), memberships.add("b", "x"))
    assert redis.removed == [[("a", "x")]]
    assert redis.added == [[("b", "x")]]
    redis.trouble = RedisUnavailable("redis-1 is not available")
    await asyncio.gather(memberships.discard("b", "x"), memberships.add("a", "x"))
    redis.trouble = None
    await until(lambda: redis.holds(a={"x"}))
