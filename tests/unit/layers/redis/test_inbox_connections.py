"""The inbox: its connections fail, or Redis refuses what it needs."""

import logging
from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from fast_channels.layers.redis import inbox as inbox_module

from .fake_redis import REFUSED, FakeRedis, turn, until
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
    assert logged() == [*fails("no route"), *fails("the line was cut")]


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
    assert logged() == fails("TimeoutError")


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
    assert server.told["BZPOPMIN"] == []


async def test_back_in_time(
    server: FakeRedis, idle: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that comes back before Redis is told it is gone just goes on."""
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.01)
    server.loses.add("EVALSHA")
    idle.inbox.unwant("mine!")
    idle.inbox.reconnect()
    await until(lambda: server.leaves)
    idle.inbox.want("mine!")
    server.add(MINE, b"message")
    await until(lambda: idle.got)
    assert len(server.leaves) == 1


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


@pytest.mark.parametrize("readers", [0, 1])
async def test_no_queue(
    server: FakeRedis,
    idle: Reader,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
    readers: int,
) -> None:
    """What is no queue is an error in the log, and left alone until the next check."""
    idle.inbox.want("too!")
    await works(server, idle, TOO)
    server.wrong.add(TOO)
    server.add(TOO)
    await until(logged)
    server.add(TOO)
    await works(server, idle)
    if not readers:
        # It cannot be told either that a message goes back.
        idle.inbox.unwant("too!")
        idle.got[0].give_back()
        idle.inbox.wake()
        await until(lambda: server.leaves)
        await works(server, idle)
        assert len(server.leaves) == 1
    assert [level for level, _ in logged()] == [logging.ERROR] * (2 - readers)
    problem = "the key 'asgi:too!' of channel 'too!' holds no queue: WRONGTYPE"
    assert all(text.startswith(problem) for _, text in logged())
    assert idle.inbox.connects == 1
    server.wrong.clear()
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.01)
    idle.inbox.reconnect()
    if readers:
        await works(server, idle, TOO)
    else:
        await until(lambda: len(server.leaves) == 2)
        assert server.leaves[1].arguments[3:] == [], "it was given up"
    await works(server, idle)


async def test_other_errors(server: FakeRedis, reader: Reader, logged: Logged) -> None:
    """With any other error of a script it connects again, until there is none."""
    server.refuses["EVALSHA"] = ResponseError("OOM command not allowed")
    reader.inbox.want("mine!")
    await until(lambda: reader.inbox.connects == 3)
    server.refuses.clear()
    await until(lambda: not reader.inbox.failing)
    await works(server, reader)
    assert logged() == fails("OOM command not allowed")


@pytest.mark.parametrize("blocks", [False, True], ids=["told", "blocking"])
async def test_deliver_fails(
    server: FakeRedis, reader: Reader, logged: Logged, blocks: bool
) -> None:
    """A message that cannot be delivered is an error in the log; others follow."""

    def fail(_: object) -> None:
        raise ValueError("it is ours")

    if blocks:
        server.refuses["CLIENT TRACKING"] = REFUSED
    reader.inbox.want("mine!")
    await until(lambda: server.told["ZCARD"])
    await turn()
    reader.deliver = fail
    server.add(MINE, b"1", b"2", b"3")
    await until(lambda: reader.values == [b"1", b"2", b"3"])
    reader.deliver = lambda _: None
    await works(server, reader)
    assert logged()[blocks:] == [(logging.ERROR, "a message of 'mine!' was lost")] * 3
    assert reader.connected == 1


async def test_fault(server: FakeRedis, idle: Reader, logged: Logged) -> None:
    """A fault of ours is an error in the log, and reading goes on."""
    server.reader.fail(ValueError("it is ours"))
    await until(lambda: idle.connected == 2)
    await works(server, idle)
    assert logged() == [(logging.ERROR, "redis-1 cannot be read")]
