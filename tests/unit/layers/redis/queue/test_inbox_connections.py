"""The inbox: its connections fail, or Redis refuses what it needs."""

import logging
from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from fast_channels.layers.redis.queue import inbox as inbox_module
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
async def test_broken(
    server: FakeRedis, idle: Reader, logged: Logged, where: str, error: Exception
) -> None:
    """When a connection breaks both are opened anew, which is logged."""
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


async def test_unreachable(
    server: FakeRedis, reader: Reader, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts to connect become rarer until one succeeds, and are logged once."""
    delays: list[float] = []

    class Jitter(float):
        def __rmul__(self, delay: float) -> float:
            delays.append(delay)
            return 0.0

    def uniform(lowest: float, highest: float) -> float:
        assert 0 < lowest < highest == 1
        return Jitter()

    monkeypatch.setattr(inbox_module, "random", SimpleNamespace(uniform=uniform))
    refused = [RedisConnectionError("no route"), OSError("no"), TimeoutError()]
    server.refusals.extend([*refused, *refused, *refused])
    reader.inbox.want("mine!")
    await until(lambda: len(delays) == 9)
    assert reader.inbox.failing
    await until(lambda: not reader.inbox.failing)
    server.reader.fail()
    await until(lambda: reader.inbox.failing)
    await until(lambda: not reader.inbox.failing)
    assert delays == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5, 0.5, 0.01]
    (level, text), (_, end) = fails("the line was cut")
    again = text.replace("read:", "read again (outage 2 in a row):")
    assert logged() == [*fails("no route"), (level, again), (level, end)]


@pytest.mark.parametrize("stage", ["connect", "CLIENT ID", "EVALSHA"])
async def test_no_answer(server: FakeRedis, logged: Logged, stage: str) -> None:
    """A server that does not answer in time is left, and asked anew."""
    server.unreachable = stage == "connect"
    server.silent = {stage}
    async with reading(server, timeout=0.1) as reader:
        reader.inbox.want("mine!")
        await until(lambda: reader.inbox.failing)
        server.silent.clear()
        server.unreachable = False
        await until(lambda: not reader.inbox.failing)
        await works(server, reader)
    assert logged() == fails("it did not reply in time")


async def test_watchdog(
    server: FakeRedis, reader: Reader, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection on which nothing is heard is made to answer, or left."""
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.01)
    server.silent.add("PING")
    reader.inbox.want("mine!")
    await until(lambda: reader.inbox.failing)
    assert len(server.told["PING"]) == 1
    server.silent.clear()
    await until(lambda: not reader.inbox.failing)
    await works(server, reader)
    assert logged() == fails("it did not answer for 0.01 seconds")


async def test_two_servers(server: FakeRedis, reader: Reader, logged: Logged) -> None:
    """It connects again if its connections do not know each other."""
    error = "The client ID you want redirect to does not exist"
    server.refuses["CLIENT TRACKING"] = ResponseError(error)
    reader.inbox.want("mine!")
    await until(lambda: len(server.told["CLIENT TRACKING"]) > 1)
    server.refuses.clear()
    await works(server, reader)
    assert logged() == fails(error)


# Errors of scripts


async def test_unknown_scripts(server: FakeRedis, reader: Reader) -> None:
    """Scripts that the server does not know are sent as a whole, once."""
    server.scripts.clear()
    reader.inbox.want("mine!")
    reader.inbox.want("too!")
    await works(server, reader)
    await works(server, reader, TOO)
    assert [call.whole for call in server.pops] == [True, True, False]
    assert len(server.told["EVALSHA"]) == 3
    assert reader.inbox.connects == 1


async def test_no_queue(
    server: FakeRedis, idle: Reader, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no queue is logged once, left alone for a while, and hurts no other."""
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
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.01)
    idle.inbox.reconnect()
    await works(server, idle)
    await until(lambda: not server.queues[TOO])
    assert not idle.inbox.failing


KEYS = ResponseError("No permissions to access a key")


async def test_a_key_that_is_refused(
    server: FakeRedis, idle: Reader, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An access list without the key of a channel keeps no other from being read."""
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.01)
    idle.inbox.reconnect()
    await until(lambda: idle.connected == 2)
    server.refused["asgi:plain"] = KEYS
    idle.inbox.want("plain")
    await until(lambda: len(server.takes) > 2)
    for _ in range(3):
        await works(server, idle)
    refused = f"redis-1 cannot be asked for channel 'plain': {KEYS}"
    assert logged() == [(logging.WARNING, f"{refused}; trying again until it can")]
    assert idle.connected == 2
    server.refused.clear()
    server.add("asgi:plain", b"message")
    await until(lambda: b"message" in idle.values)
    assert logged()[1] == (
        logging.WARNING,
        "redis-1 can be asked for channel 'plain' again",
    )


async def test_a_refusal_that_passes(
    server: FakeRedis, idle: Reader, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Redis refuses for now is asked for again, on the same connection."""
    monkeypatch.setattr(inbox_module, "_REFUSED", 0.01)
    busy = ResponseError("BUSY Redis is busy running a script.")
    server.refuses["EVALSHA"] = busy
    server.add(MINE, b"message")
    await until(lambda: len(server.told["EVALSHA"]) > 5)
    assert idle.inbox.failing
    server.refuses.clear()
    await until(lambda: idle.got)
    await until(lambda: not idle.inbox.failing)
    assert logged() == fails(str(busy))
    assert idle.connected == 1


async def test_other_errors(server: FakeRedis, reader: Reader, logged: Logged) -> None:
    """With any other error of a script it connects again, until there is none."""
    server.refuses["EVALSHA"] = ReadOnlyError("You can't write against a replica.")
    reader.inbox.want("mine!")
    await until(lambda: reader.inbox.connects == 3)
    server.refuses.clear()
    await until(lambda: not reader.inbox.failing)
    await works(server, reader)
    assert logged() == fails("You can't write against a replica.")


@pytest.mark.parametrize("key", [MINE, "asgi:plain"])
async def test_deliver_fails(
    server: FakeRedis, idle: Reader, logged: Logged, key: str
) -> None:
    """A message that cannot be delivered is an error in the log; others follow."""

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


async def test_polling(
    server: FakeRedis, reader: Reader, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Redis does not tell of changes it is asked at intervals; one record."""
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.05)
    server.refuses["CLIENT TRACKING"] = REFUSED
    reader.inbox.want("mine!")
    for _ in range(3):
        await works(server, reader)
    assert not server.told["PING"]
    assert server.open == [server.popper]
    server.popper.fail()
    await until(lambda: reader.connected == 2)
    await works(server, reader)
    (level, text), *later = logged()
    assert level == logging.WARNING
    assert text == (
        f"redis-1 refuses to report changes of queues ({REFUSED}), so it is polled "
        "every 0.1 seconds"
    )
    assert later == fails("the line was cut")
    server.refuses.clear()
    monkeypatch.setattr(inbox_module, "_TRACK_AGAIN", 0)
    server.popper.fail()
    await until(lambda: bool(server.open) and server.open[-1].subscribed)
    await works(server, reader)
    assert reader.connected == 3


async def test_tracking_again(
    server: FakeRedis, reader: Reader, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while Redis is asked once more to tell of changes."""
    monkeypatch.setattr(inbox_module, "_TRACK_AGAIN", 0.01)
    server.refuses["CLIENT TRACKING"] = REFUSED
    reader.inbox.want("mine!")
    await until(lambda: reader.connected > 3)
    await works(server, reader)
    assert len(logged()) == 1
    server.refuses.clear()
    await until(lambda: bool(server.open) and server.open[-1].subscribed)
    await works(server, reader)


@pytest.mark.parametrize("error", ["BUSY Redis is busy", "LOADING Redis is loading"])
async def test_a_refusal_to_track_that_passes(
    server: FakeRedis, reader: Reader, logged: Logged, error: str
) -> None:
    """What passes changes no mode: it connects again until Redis tells of changes."""
    server.refuses["CLIENT TRACKING"] = ResponseError(error)
    reader.inbox.want("mine!")
    await until(lambda: len(server.told["CLIENT TRACKING"]) > 2)
    server.refuses.clear()
    await works(server, reader)
    assert server.open[-1].subscribed
    assert logged() == fails(error)


async def test_fault(server: FakeRedis, idle: Reader, logged: Logged) -> None:
    """A fault of ours is an error in the log, and reading goes on."""
    server.reader.fail(ValueError("it is ours"))
    await until(lambda: idle.connected == 2)
    await works(server, idle)
    assert logged() == [(logging.ERROR, "redis-1 cannot be read")]
