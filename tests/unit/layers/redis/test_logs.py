"""What a process hears of groups with a history, and how it closes gaps."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
from redis.exceptions import ResponseError

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.history import History, Resumed
from fast_channels.layers.redis.group_log import LogTiming
from fast_channels.layers.redis.history_reader import numbering_options
from tests.waiting import turn, until

from .fake_history import EPOCH, NEVER, OTHER, FakeHistory, Process, unavailable


@pytest.fixture
async def redis() -> FakeHistory:
    return FakeHistory()


@pytest.fixture
def timing() -> LogTiming:
    return LogTiming(crossing=NEVER, retry=(0.001, 0.002), check=NEVER)


@pytest.fixture
def history() -> History:
    return History(messages=10, seconds=600)


@pytest.fixture
async def process(
    redis: FakeHistory, timing: LogTiming, history: History
) -> AsyncIterator[Process]:
    process = Process(redis, timing=timing, history=history)
    yield process
    process.logs.clear()
    await turn()


quickly = pytest.mark.parametrize(
    "timing", [LogTiming(crossing=0.001, retry=(0.001, 0.002), check=NEVER)]
)


def test_options_of_scripts() -> None:
    """Positions outlive messages by far."""
    epoch, position, messages, seconds, once = numbering_options(History(5, 0.0004))
    assert len(str(epoch)) == 8
    assert (position, messages, seconds, once) == (7 * 86_400_000, 5, 1, 300_000)
    assert numbering_options(History(5, 86_400))[1] == 10 * 86_400_000


# What arrives


async def test_messages_in_order(redis: FakeHistory, process: Process) -> None:
    """They are delivered as they arrive, without asking Redis."""
    await process.join("a")
    await process.join("b")
    process.hear(*redis.send(3))
    assert process.got("a") == process.got("b") == [1, 2, 3]
    assert redis.reads == [0]
    assert process.counted == [(2, [])] * 3


async def test_message_that_arrives_twice(redis: FakeHistory, process: Process) -> None:
    """It is delivered once."""
    await process.join("a")
    one, two = redis.send(2)
    process.hear(one, one, two, one, two)
    assert process.got("a") == [1, 2]


async def test_messages_that_cross(redis: FakeHistory, process: Process) -> None:
    """They wait for each other, and Redis is not asked."""
    await process.join("a")
    one, two, three, four = redis.send(4)
    process.hear(three, two, four)
    assert process.got("a") == []
    process.hear(one)
    assert process.got("a") == [1, 2, 3, 4]
    assert redis.reads == [0]


@quickly
async def test_messages_that_cross_in_time(
    redis: FakeHistory, process: Process
) -> None:
    """When the time to wait for them is over, none is missing."""
    await process.join("a")
    one, two = redis.send(2)
    process.hear(two, one)
    await asyncio.sleep(0.01)
    assert process.got("a") == [1, 2]
    assert redis.reads == [0]


@quickly
async def test_message_that_arrives_with_the_reply(
    redis: FakeHistory, process: Process
) -> None:
    """It is delivered once, if it was sent before that was read."""
    await process.join("a")
    sent = redis.send(5)
    process.hear(sent[0], sent[2])
    redis.answers.clear()
    await until(lambda: len(redis.reads) == 2)
    process.hear(sent[4])
    redis.answers.set()
    await turn()
    assert process.got("a") == [1, 2, 3, 4, 5]


@quickly
async def test_message_that_arrives_after_it_counts_as_lost(
    redis: FakeHistory, process: Process
) -> None:
    """Members were notified of the gap, so it is not delivered any more."""
    await process.join("a")
    sent = redis.send(6)
    process.hear(sent[0], sent[2])
    redis.entries = {6: redis.entries[6]}
    redis.answers.clear()
    await until(lambda: len(redis.reads) == 2)
    process.hear(sent[3])
    redis.answers.set()
    await turn()
    process.hear(*redis.send())
    assert process.got("a") == [1, f"{EPOCH}.1", 6, 7]


@quickly
async def test_message_that_is_missing(redis: FakeHistory, process: Process) -> None:
    """It is read from Redis, with what follows."""
    await process.join("a")
    one, _, _, four = redis.send(4)
    process.hear(one, four)
    redis.send(1)
    await until(lambda: len(redis.reads) == 2)
    await turn()
    assert process.got("a") == [1, 2, 3, 4, 5]


@quickly
async def test_message_that_is_missing_everywhere(
    redis: FakeHistory, process: Process
) -> None:
    """Members get a notice in its place."""
    await process.join("a")
    one, _, three = redis.send(3)
    del redis.entries[2]
    process.hear(one, three)
    await until(lambda: len(redis.reads) == 2)
    await turn()
    assert process.got("a") == [1, f"{EPOCH}.1", 3]
    process.hear(*redis.send())
    assert process.got("a") == [4]


@quickly
async def test_messages_that_are_all_lost(redis: FakeHistory, process: Process) -> None:
    """What has arrived is not delivered after the end of the gap either."""
    await process.join("a")
    one, _, three = redis.send(3)
    process.hear(one, three)
    redis.entries.clear()
    await until(lambda: len(redis.reads) == 2)
    await turn()
    assert process.got("a") == [1, f"{EPOCH}.1"]
    process.hear(*redis.send())
    assert process.got("a") == [4]


@quickly
async def test_more_messages_ahead_than_are_kept(
    redis: FakeHistory, process: Process
) -> None:
    """They take no more memory than the history."""
    await process.join("a")
    sent = redis.send(100)
    process.hear(*sent[50:])
    await until(lambda: len(redis.reads) == 2)
    await turn()
    assert process.got("a") == [f"{EPOCH}.0", *range(91, 101)]


async def test_another_epoch(redis: FakeHistory, process: Process) -> None:
    """Members get a notice, and then the messages of the new epoch."""
    await process.join("a")
    old = redis.send(3)
    process.hear(*old[:2])
    redis.epoch, redis.last = OTHER, 0
    redis.entries.clear()
    process.hear(*redis.send(2)[1:])
    await turn()
    assert process.got("a") == [1, 2, f"{EPOCH}.2", 1, 2]
    # One that was still on its way.
    process.hear(old[2])
    process.hear(*redis.send())
    await turn()
    assert process.got("a") == [3]
    assert len(redis.reads) == 2


async def test_epoch_that_never_was(redis: FakeHistory, process: Process) -> None:
    """Redis is asked once; the message is dropped."""
    await process.join("a")
    process.hear((f"{OTHER}.1", {"n": 1}))
    await turn()
    process.hear(*redis.send())
    await turn()
    assert process.got("a") == [1]
    assert len(redis.reads) == 2


async def test_what_is_no_position(redis: FakeHistory, process: Process) -> None:
    """The message is not taken; neither is one of a group without history."""
    assert not process.logs.heard("room", f"{EPOCH}.1", {})
    await process.join("a")
    for position in ("", "nonsense", f"{EPOCH}."):
        assert not process.logs.heard("room", position, {})
    process.groups.discard("room", "a")
    process.history = None
    process.groups.add("room", "a")
    assert not process.logs.heard("room", f"{EPOCH}.1", {})
    assert redis.reads == [0]


async def test_message_that_cannot_be_decoded(
    redis: FakeHistory, process: Process
) -> None:
    """It counts as lost."""
    redis.send(3)
    redis.entries[2] = b"damaged"
    resumed = await process.resume("a", f"{EPOCH}.0")
    assert resumed == Resumed(f"{EPOCH}.3", complete=False, replayed=0)
    assert process.complaints == ["ROOM: no digits"]


# Opening


async def test_member_whose_message_arrives_first(
    redis: FakeHistory, process: Process
) -> None:
    """It is delivered, although its position was read together with it."""
    process.groups.add("room", "a")
    process.hear(*redis.send(2))
    assert process.got("a") == []
    await turn()
    assert process.got("a") == [1, 2]
    assert redis.reads == [2]


@quickly
async def test_members_first_messages_with_a_hole(
    redis: FakeHistory, process: Process
) -> None:
    """What is missing between them is read."""
    process.groups.add("room", "a")
    sent = redis.send(5)
    process.hear(sent[1], sent[4])
    await until(lambda: len(redis.reads) == 2)
    await turn()
    assert process.got("a") == [2, 3, 4, 5]


async def test_first_message_of_another_epoch(
    redis: FakeHistory, process: Process
) -> None:
    """Messages of an epoch that has ended are not delivered."""
    process.groups.add("room", "a")
    process.hear((f"{OTHER}.7", {"n": 7}))
    await turn()
    assert process.got("a") == []
    process.hear(*redis.send())
    assert process.got("a") == [1]


async def test_redis_that_is_away_at_first(
    redis: FakeHistory, process: Process
) -> None:
    """Joining returns after the timeout; the position is read later."""
    redis.trouble = [unavailable() for _ in range(10_000)]
    await process.join("a")
    assert redis.reads == []
    redis.trouble.clear()
    await until(lambda: redis.reads)
    await turn()
    process.hear(*redis.send())
    assert process.got("a") == [1]


# Resuming


async def test_resuming_from_what_was_heard(
    redis: FakeHistory, process: Process
) -> None:
    """Redis is not asked, however many resume."""
    await process.join("a")
    process.hear(*redis.send(5))
    for number in range(20):
        since = number % 5
        resumed = await process.resume(f"c{number}", f"{EPOCH}.{since}")
        assert resumed == Resumed(f"{EPOCH}.5", True, 5 - since)
        assert process.got(f"c{number}") == list(range(since + 1, 6))
    assert redis.reads == [0]


async def test_first_to_resume(redis: FakeHistory, process: Process) -> None:
    """What is read for one serves others."""
    redis.send(8)
    resumed = await process.resume("a", f"{EPOCH}.4")
    assert resumed == Resumed(f"{EPOCH}.8", True, 4)
    resumed = await process.resume("b", f"{EPOCH}.6")
    assert resumed == Resumed(f"{EPOCH}.8", True, 2)
    assert redis.reads == [4]
    # Only this reaches further back.
    resumed = await process.resume("c", f"{EPOCH}.2")
    assert resumed == Resumed(f"{EPOCH}.8", True, 6)
    assert redis.reads == [4, 2]
    assert process.got("c") == [3, 4, 5, 6, 7, 8]


async def test_many_that_resume_at_once(redis: FakeHistory, process: Process) -> None:
    """They share one question."""
    redis.send(8)
    results = await asyncio.gather(
        *[process.resume(f"c{n}", f"{EPOCH}.{n % 8}") for n in range(100)]
    )
    assert [each.replayed for each in results] == [8 - n % 8 for n in range(100)]
    assert redis.reads == [0]


async def test_messages_that_arrive_meanwhile(
    redis: FakeHistory, process: Process
) -> None:
    """They follow the replay, and are not part of it twice."""
    redis.send(3)
    redis.answers.clear()
    resuming = asyncio.create_task(process.resume("a", f"{EPOCH}.1"))
    await turn()
    process.hear(*redis.send(2))
    redis.answers.set()
    resumed = await resuming
    assert resumed.complete
    assert process.got("a") == [2, 3, 4, 5]
    # Another one, while a member hears messages.
    redis.answers.clear()
    resuming = asyncio.create_task(process.resume("b", f"{EPOCH}.0"))
    await turn()
    process.hear(*redis.send(2))
    assert process.got("a") == [6, 7]
    redis.answers.set()
    assert await resuming == Resumed(f"{EPOCH}.7", True, 7)
    assert process.got("b") == [1, 2, 3, 4, 5, 6, 7]


async def test_reply_that_overtakes_messages(
    redis: FakeHistory, process: Process
) -> None:
    """Members get them from the reply; when they arrive, they are known."""
    await process.join("a")
    sent = redis.send(3)
    resumed = await process.resume("b", f"{OTHER}.3")
    assert resumed == Resumed(f"{EPOCH}.3", complete=False, replayed=0)
    assert process.got("a") == [1, 2, 3]
    process.hear(*sent)
    process.hear(*redis.send())
    assert process.got("a") == process.got("b") == [4]


async def test_latest_messages(redis: FakeHistory, process: Process) -> None:
    """Redis is asked only for more than was heard."""
    redis.send(6)
    assert (await process.resume("a", last=2)).replayed == 2
    assert (await process.resume("b", last=2)).replayed == 2
    assert redis.reads == [4]
    assert (await process.resume("c", last=100)).replayed == 6
    assert (await process.resume("d", last=100)).replayed == 6
    assert redis.reads == [4, 0]
    assert (await process.resume("e", "nonsense", 3)) == (f"{EPOCH}.6", False, 3)
    assert process.got("e") == [4, 5, 6]


async def test_history_that_is_lost(redis: FakeHistory, process: Process) -> None:
    """That it is lost is remembered, and Redis is not asked again."""
    redis.send(6)
    redis.entries.clear()
    for channel in "ab":
        resumed = await process.resume(channel, f"{EPOCH}.3")
        assert resumed == Resumed(f"{EPOCH}.6", complete=False, replayed=0)
    assert redis.reads == [3]
    resumed = await process.resume("c", f"{EPOCH}.3", 5)
    assert resumed == Resumed(f"{EPOCH}.6", complete=False, replayed=0)


async def test_lost_before_what_another_member_asked_for(
    redis: FakeHistory, process: Process
) -> None:
    """A reply with a hole gives all that follows it."""
    redis.send(6)
    del redis.entries[3]
    resumed = await process.resume("a", f"{EPOCH}.1")
    assert resumed == Resumed(f"{EPOCH}.6", complete=False, replayed=0)
    resumed = await process.resume("b", f"{EPOCH}.3")
    assert resumed == Resumed(f"{EPOCH}.6", complete=True, replayed=3)
    assert redis.reads == [1]


async def test_member_that_deletes_its_channel_meanwhile(
    redis: FakeHistory, process: Process
) -> None:
    """Nothing is delivered, and nothing is left waiting."""
    redis.send(3)
    redis.answers.clear()
    resuming = asyncio.create_task(process.resume("a", f"{EPOCH}.1"))
    await turn()
    process.groups.discard("room", "a")
    assert await resuming == Resumed("", complete=False, replayed=0)
    # The same, with another member in the group.
    await asyncio.sleep(0)
    redis.answers.set()
    await process.join("b")
    redis.answers.clear()
    resuming = asyncio.create_task(process.resume("a", f"{EPOCH}.1"))
    await turn()
    process.groups.discard("room", "a")
    redis.answers.set()
    assert await resuming == Resumed("", complete=False, replayed=0)
    assert process.got("a") == []


async def test_channel_that_is_deleted_while_it_joins(
    redis: FakeHistory, process: Process
) -> None:
    """It resumes nothing."""

    async def join() -> None:
        pass

    resumed = await process.logs.resume(
        "room", "a", f"{EPOCH}.1", None, join=join, is_member=False
    )
    assert resumed == Resumed("", complete=False, replayed=0)
    await process.logs.opened("room")
    assert redis.reads == []


async def test_cancelled_member(redis: FakeHistory, process: Process) -> None:
    """It gets what is sent afterwards, and others are not affected."""
    redis.answers.clear()
    resuming = [
        asyncio.create_task(process.resume(channel, f"{EPOCH}.0")) for channel in "ab"
    ]
    await turn()
    resuming[0].cancel()
    await asyncio.wait(resuming[:1])
    redis.answers.set()
    assert (await resuming[1]).complete
    process.hear(*redis.send())
    assert process.got("a") == process.got("b") == [1]


# Troubles


async def test_redis_that_fails_for_a_moment(
    redis: FakeHistory, process: Process
) -> None:
    """The question is repeated."""
    redis.send(3)
    redis.trouble = [unavailable(), unavailable()]
    assert (await process.resume("a", f"{EPOCH}.1")).replayed == 2


async def test_redis_that_is_away(redis: FakeHistory, process: Process) -> None:
    """A member that asks for something gets the error; others join."""
    redis.trouble = [unavailable() for _ in range(10_000)]
    with pytest.raises(RedisUnavailable, match="gone"):
        await process.resume("a", f"{EPOCH}.1")
    with pytest.raises(RedisUnavailable, match="gone"):
        await process.resume("a", last=1)
    assert await process.resume("b") == Resumed("", complete=True, replayed=0)


async def test_key_that_holds_something_else(
    redis: FakeHistory, process: Process
) -> None:
    """Members get the error, and it is logged."""
    redis.trouble = [ResponseError("WRONGTYPE"), ResponseError("WRONGTYPE")]
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await process.resume("a", f"{EPOCH}.1")
    assert process.complaints == ["ROOM: it has no history: WRONGTYPE"]
    # What others wait for is not retried.
    process.logs.check("room")
    await turn()
    assert redis.reads == []


@pytest.mark.parametrize(
    "timing", [LogTiming(crossing=NEVER, retry=(NEVER, NEVER), check=NEVER)]
)
async def test_reconnect_ends_the_pause(redis: FakeHistory, process: Process) -> None:
    """A reason to ask again is enough to ask at once."""
    await process.join("a")
    redis.send(2)
    redis.trouble = [unavailable()]
    process.logs.check("room")
    await turn()
    assert process.got("a") == []
    process.logs.check_shards([process.shard])
    await turn()
    assert process.got("a") == [1, 2]
    process.logs.check_shards([])
    process.logs.check("unknown")
    await turn()
    assert redis.reads == [0, 0]


@pytest.mark.parametrize("timing", [LogTiming(crossing=NEVER, check=0.004, steps=2)])
async def test_groups_are_checked(redis: FakeHistory, process: Process) -> None:
    """A message that never arrives is found in time, if no other one follows."""
    await process.join("a")
    for _ in range(2):
        redis.send()
        reads = len(redis.reads)
        await until(lambda: len(redis.reads) > reads + 1)  # noqa: B023 # awaited here
    await turn()
    assert process.got("a") == [1, 2]
    process.groups.discard("room", "a")
    await asyncio.sleep(0.01)
    count = len(redis.reads)
    await process.join("a")
    assert len(redis.reads) > count


async def test_logs_end_with_their_members(
    redis: FakeHistory, process: Process
) -> None:
    """Nothing is left of a group without members."""
    await process.join("a")
    one, two, three = redis.send(3)
    process.hear(one, three)
    process.groups.discard("room", "a")
    assert not process.logs.heard("room", two[0], {})
    process.logs.drop("room")
    await process.join("a")
    process.hear(*redis.send())
    assert process.got("a")[-1] == 4
    gc.collect()


# Reading


async def test_reading(redis: FakeHistory, process: Process, history: History) -> None:
    """What is returned follows the position, or is the latest."""
    redis.send(20)
    cases: list[tuple[str | None, int, tuple[list[int], bool]]] = [
        (None, 3, ([18, 19, 20], True)),
        (None, 50, (list(range(11, 21)), True)),
        (f"{EPOCH}.12", 3, ([13, 14, 15], True)),
        (f"{EPOCH}.10", 50, (list(range(11, 21)), True)),
        (f"{EPOCH}.20", 50, ([], True)),
        (f"{EPOCH}.9", 50, ([], False)),
        (f"{EPOCH}.21", 50, ([], False)),
        (f"{OTHER}.12", 50, ([], False)),
        ("nonsense", 50, ([], False)),
    ]
    for since, limit, expected in cases:
        found = await process.logs.read("room", "room", history, since, limit)
        assert ([each["n"] for each in found], found.complete) == expected, since
        assert found.position == f"{EPOCH}.20"
