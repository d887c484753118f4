"""An inbox of a slot of a cluster: the slot moves, or its node fails."""

import logging

import pytest
from redis.exceptions import AskError, MovedError, TryAgainError

from fast_channels.layers.redis.queue.inbox import InboxTiming
from fast_channels.layers.redis.wire import NoPermissionError, ResponseError
from tests.waiting import turn, until

from .fake_redis import FakeRedis
from .reader import Logged, Reader, fails, reading, works

SLOT = "asgi{17}"
MOVED = [MovedError("5 b:7000"), ResponseError("MOVED 5 b:7000")]


async def test_the_tripwire_is_set_before_the_inbox_reads(
    server: FakeRedis, logged: Logged
) -> None:
    async with reading(server, tripwire=SLOT) as reader:
        reader.inbox.want("mine!")
        await works(server, reader)
        await works(server, reader)
    names = [words[0] for words in server.told]
    assert server.asked("SSUBSCRIBE") == [["SSUBSCRIBE", SLOT]]
    assert names.index("SSUBSCRIBE") < names.index("EVALSHA")
    assert reader.broken == []
    assert logged() == []


async def test_a_server_has_no_tripwire(server: FakeRedis, idle: Reader) -> None:
    await works(server, idle)
    assert not server.asked("SSUBSCRIBE")


async def test_an_inbox_follows_its_slot(server: FakeRedis, logged: Logged) -> None:
    """It continues on new connections, and logs nothing, since nothing has failed."""
    async with reading(server, tripwire=SLOT) as reader:
        reader.inbox.want("mine!")
        await until(lambda: server.pops)
        # Replies about other channels are ignored.
        server.reader.reply([b"subscribe", b"other", 1])
        await works(server, reader)
        server.reader.reply([b"sunsubscribe", SLOT.encode(), 1])
        await until(lambda: reader.connected == 2)
        await works(server, reader)
    assert reader.broken == ["its slot has moved"]
    assert logged() == []


@pytest.mark.parametrize("error", MOVED, ids=repr)
@pytest.mark.parametrize("where", ["SSUBSCRIBE", "EVALSHA"])
async def test_an_inbox_that_asks_the_wrong_node_goes_to_the_right_one(
    server: FakeRedis, logged: Logged, error: Exception, where: str
) -> None:
    """The redirection is no refusal to report changes."""
    server.refuses[where] = error
    async with reading(server, tripwire=SLOT) as reader:
        reader.moved = True
        reader.inbox.want("mine!")
        await until(lambda: reader.broken)
        server.refuses.clear()
        await works(server, reader)
        assert reader.broken[0] == str(error)
        assert server.open[-1].subscribed
    assert logged() == []


@pytest.mark.parametrize(
    "error",
    [
        AskError("5 b:7000"),
        ResponseError("ASK 5 b:7000"),
        TryAgainError("Multiple keys request during rehashing of slot"),
        ResponseError("Script attempted to access a non local key in a cluster node"),
    ],
    ids=repr,
)
async def test_an_inbox_waits_while_its_slot_is_being_moved(
    server: FakeRedis, logged: Logged, error: Exception
) -> None:
    """It asks again on the same connection, since most moves take a moment."""
    async with reading(server, tripwire=SLOT, timing=InboxTiming(poll=0.001)) as reader:
        reader.inbox.want("mine!")
        await works(server, reader)
        server.refuses["EVALSHA"] = error
        asked = len(server.asked("EVALSHA"))
        server.add("asgi:mine!", b"waiting")
        await until(lambda: len(server.asked("EVALSHA")) > asked + 2)
        server.refuses.clear()
        await until(lambda: b"waiting" in reader.values)
        assert reader.connected == 1
        assert reader.broken == []
    assert logged() == []


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("unknown command 'SSUBSCRIBE'"),
        NoPermissionError("no permissions to run the 'ssubscribe' command"),
    ],
    ids=repr,
)
async def test_queues_are_checked_often_where_redis_reports_no_moves(
    server: FakeRedis, logged: Logged, error: Exception
) -> None:
    """That is logged once, and ends when Redis allows the tripwire."""
    server.refuses["SSUBSCRIBE"] = error
    timing = InboxTiming(check=60, check_moved=0.001)
    async with reading(server, tripwire=SLOT, timing=timing) as reader:
        reader.inbox.want("mine!")
        await until(lambda: len(server.pops) > 5)
        reader.inbox.reconnect()
        await until(lambda: reader.connected == 2)
        await until(lambda: len(server.pops) > 10)
        server.refuses.clear()
        reader.inbox.reconnect()
        await until(lambda: reader.connected == 3)
        await works(server, reader)
        await turn()
        pops = len(server.pops)
        await turn()
        assert len(server.pops) == pops
    refusal = (
        f"redis-1 refuses to report when it moves to another node ({error}), so that "
        "is checked every 0.001 seconds"
    )
    assert logged() == [(logging.WARNING, refusal)]


async def test_a_passing_refusal_of_the_tripwire_is_a_failure(
    server: FakeRedis, logged: Logged
) -> None:
    error = "BUSY Redis is busy running a script."
    server.refuses["SSUBSCRIBE"] = ResponseError(error)
    async with reading(server, tripwire=SLOT) as reader:
        reader.inbox.want("mine!")
        await until(lambda: reader.inbox.failing)
        server.refuses.clear()
        await works(server, reader)
    assert logged() == fails(error)


async def test_another_node_may_be_the_master_of_a_silent_one(
    server: FakeRedis,
) -> None:
    """That is suspected repeatedly, long before the node counts as gone."""
    server.silent.add("PING")
    timing = InboxTiming(suspicion=0.005, suspicions=0.001)
    async with reading(server, tripwire=SLOT, timing=timing) as reader:
        reader.inbox.want("mine!")
        await until(lambda: len(reader.broken) > 2)
        assert {*reader.broken} == {"it does not answer"}
        assert reader.connected == 1
