"""The inbox: connections that fail, and commands that Redis refuses."""

import logging

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from fast_channels.layers.redis.queue.inbox import InboxTiming
from tests.waiting import turn, until

from .fake_redis import REFUSED, WRONG_TYPE, FakeRedis
from .reader import Logged, Reader, fails, reading, works

MINE, TOO = "asgi:mine!", "asgi:too!"


# Rule 5: it connects again


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("reader", RedisConnectionError("the line was cut")),
        ("popper", RedisConnectionError()),
        ("write", RuntimeError("the transport is closed")),
    ],
)
async def test_when_a_connection_breaks_both_are_replaced(
    server: FakeRedis, idle: Reader, logged: Logged, where: str, error: Exception
) -> None:
    if where == "write":
        server.broken_writes.append(error)
    else:
        (server.reader if where == "reader" else server.popper).fail(error)
    idle.inbox.want("too!")
    await until(lambda: idle.inbox.failing)
    await until(lambda: not idle.inbox.failing)
    assert idle.inbox.connects == idle.connected == 2
    assert len(server.open) == 2
    await works(server, idle)
    assert logged() == fails(str(error) or "ConnectionError")


@pytest.mark.parametrize("stage", ["connect", "CLIENT ID", "EVALSHA"])
async def test_a_server_that_does_not_reply_in_time_gets_a_new_connection(
    server: FakeRedis, logged: Logged, stage: str
) -> None:
    server.stalls = {stage}
    server.silent = {stage}
    async with reading(server, timeout=0.1) as reader:
        reader.inbox.want("mine!")
        await until(lambda: reader.inbox.failing)
        server.silent.clear()
        server.stalls.clear()
        await until(lambda: not reader.inbox.failing)
        await works(server, reader)
    assert logged() == fails("it did not reply in time")


@pytest.mark.parametrize("inbox_timing", [InboxTiming(idle=0.01, patience=0.02)])
async def test_a_connection_for_changes_that_stays_silent_is_replaced(
    server: FakeRedis, reader: Reader, logged: Logged
) -> None:
    server.silent.add("PING")
    reader.inbox.want("mine!")
    await until(lambda: reader.inbox.failing)
    assert len(server.asked("PING")) == 1
    server.silent.clear()
    await until(lambda: not reader.inbox.failing)
    await works(server, reader)
    assert logged() == fails("it did not answer for 0.02 seconds")


async def test_connections_to_two_different_servers_are_replaced(
    server: FakeRedis, reader: Reader, logged: Logged
) -> None:
    """The server of one doesn't know the client ID of the other."""
    error = "The client ID you want redirect to does not exist"
    server.refuses["CLIENT TRACKING"] = ResponseError(error)
    reader.inbox.want("mine!")
    await until(lambda: len(server.asked("CLIENT TRACKING")) > 1)
    server.refuses.clear()
    await works(server, reader)
    assert logged() == fails(error)


# Errors of scripts


async def test_scripts_that_the_server_does_not_know_are_sent_in_full_once(
    server: FakeRedis, reader: Reader
) -> None:
    server.scripts.clear()
    reader.inbox.want("mine!")
    reader.inbox.want("too!")
    await works(server, reader)
    await works(server, reader, TOO)
    assert [call.whole for call in server.pops] == [True, True, False]
    assert len(server.asked("EVALSHA")) == 3
    assert reader.inbox.connects == 1


soon = pytest.mark.parametrize("inbox_timing", [InboxTiming(check=0.01, refused=0.01)])


@soon
async def test_a_key_of_another_type_is_logged_once_and_affects_no_other_queue(
    server: FakeRedis, idle: Reader, logged: Logged
) -> None:
    idle.inbox.want("too!")
    await works(server, idle, TOO)
    server.refused[TOO] = WRONG_TYPE
    server.add(TOO)
    await until(logged)
    server.add(TOO)
    await works(server, idle)
    refused = "redis-1 cannot be asked for channel 'too!'"
    again = "trying again until it can"
    expected = [(logging.WARNING, f"{refused}: {WRONG_TYPE}; {again}")]
    assert logged() == expected
    assert idle.inbox.connects == 1
    server.refused.clear()
    await works(server, idle)
    await until(lambda: not server.queues[TOO])
    assert not idle.inbox.failing


KEYS = ResponseError("No permissions to access a key")


@soon
async def test_a_key_that_is_refused_affects_no_other_queue(
    server: FakeRedis, idle: Reader, logged: Logged
) -> None:
    server.refused["asgi:plain"] = KEYS
    idle.inbox.want("plain")
    await until(lambda: len(server.takes) > 2)
    for _ in range(3):
        await works(server, idle)
    refused = f"redis-1 cannot be asked for channel 'plain': {KEYS}"
    assert logged() == [(logging.WARNING, f"{refused}; trying again until it can")]
    assert idle.connected == 1
    server.refused.clear()
    server.add("asgi:plain", b"message")
    await until(lambda: b"message" in idle.values)
    assert logged()[1] == (
        logging.WARNING,
        "redis-1 can be asked for channel 'plain' again",
    )


@soon
async def test_a_temporary_refusal_is_followed_by_another_attempt_on_the_connection(
    server: FakeRedis, idle: Reader, logged: Logged
) -> None:
    busy = ResponseError("BUSY Redis is busy running a script.")
    server.refuses["EVALSHA"] = busy
    server.add(MINE, b"message")
    await until(lambda: len(server.asked("EVALSHA")) > 5)
    assert idle.inbox.failing
    server.refuses.clear()
    await until(lambda: idle.got)
    await until(lambda: not idle.inbox.failing)
    assert logged() == fails(str(busy))
    assert idle.connected == 1


async def test_it_connects_again_after_any_other_error_of_a_script(
    server: FakeRedis, reader: Reader, logged: Logged
) -> None:
    server.refuses["EVALSHA"] = ReadOnlyError("You can't write against a replica.")
    reader.inbox.want("mine!")
    await until(lambda: reader.inbox.connects == 3)
    server.refuses.clear()
    await until(lambda: not reader.inbox.failing)
    await works(server, reader)
    assert logged() == fails("You can't write against a replica.")


@pytest.mark.parametrize("key", [MINE, "asgi:plain"])
async def test_a_message_that_cannot_be_delivered_is_logged_and_stops_no_other(
    server: FakeRedis, idle: Reader, logged: Logged, key: str
) -> None:
    def fail(_: object) -> None:
        raise ValueError("it is ours")

    name = key.removeprefix("asgi:")
    for _ in range(3):
        idle.inbox.want(name)
    idle.deliver = fail
    server.add(key, b"1", b"2", b"3")
    await until(lambda: idle.values == [b"1", b"2", b"3"])
    await turn()
    idle.deliver = lambda _: None
    await works(server, idle)
    assert logged() == [(logging.ERROR, f"a message of {name!r} was lost")] * 3
    assert idle.connected == 1


# Without tracking


@pytest.mark.parametrize("inbox_timing", [InboxTiming(idle=0.01, poll=0.05)])
async def test_queues_are_polled_where_redis_does_not_report_changes(
    server: FakeRedis, reader: Reader, logged: Logged
) -> None:
    """The log has one record of it."""
    server.refuses["CLIENT TRACKING"] = REFUSED
    reader.inbox.want("mine!")
    for _ in range(3):
        await works(server, reader)
    assert not server.asked("PING")
    assert server.open == [server.popper]
    server.popper.fail()
    await until(lambda: reader.connected == 2)
    await works(server, reader)
    (level, text), *later = logged()
    assert level == logging.WARNING
    assert text == (
        f"redis-1 refuses to report changes of queues ({REFUSED}), so that is checked "
        "every 0.05 seconds"
    )
    assert later == fails("the line was cut")


@pytest.mark.parametrize("inbox_timing", [InboxTiming(track_again=0.01)])
async def test_redis_is_asked_again_to_report_changes(
    server: FakeRedis, reader: Reader, logged: Logged
) -> None:
    server.refuses["CLIENT TRACKING"] = REFUSED
    reader.inbox.want("mine!")
    await until(lambda: reader.connected > 3)
    await works(server, reader)
    assert len(logged()) == 1
    server.refuses.clear()
    await until(lambda: bool(server.open) and server.open[-1].subscribed)
    await works(server, reader)


@pytest.mark.parametrize("error", ["BUSY Redis is busy", "LOADING Redis is loading"])
async def test_a_temporary_refusal_to_report_changes_does_not_lead_to_polling(
    server: FakeRedis, reader: Reader, logged: Logged, error: str
) -> None:
    server.refuses["CLIENT TRACKING"] = ResponseError(error)
    reader.inbox.want("mine!")
    await until(lambda: len(server.asked("CLIENT TRACKING")) > 2)
    server.refuses.clear()
    await works(server, reader)
    assert server.open[-1].subscribed
    assert logged() == fails(error)
