"""What the subscriber does when its connection breaks, or when nothing is heard."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from fast_channels.layers.redis import attempts
from fast_channels.layers.redis.pubsub import subscriber as module
from fast_channels.layers.redis.pubsub.subscriber import Pattern, Subscriber
from tests.waiting import turn, until

from .fake_pubsub import FakePubSub, Log, hear, subscribing

PATTERN = Pattern("p*")
CANNOT = "redis-1 cannot be listened to"
TRYING = "trying again until it can"


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once, and once at a time."""
    monkeypatch.setattr(module, "_BACKOFF", (0, 0))
    monkeypatch.setattr(attempts, "_AGAIN", 1000)


@pytest.fixture
async def server() -> FakePubSub:
    return FakePubSub()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def subscriber(server: FakePubSub, log: Log) -> AsyncIterator[Subscriber]:
    async with subscribing(server, log) as subscriber:
        yield subscriber


# A connection that breaks


@pytest.mark.parametrize(
    "error", [RedisConnectionError("cut"), OSError(), RuntimeError("closed")], ids=repr
)
async def test_broken_connection(
    server: FakePubSub, subscriber: Subscriber, log: Log, error: Exception
) -> None:
    """The next connection is told everything that is wanted by then."""
    await hear(subscriber, "a", "b", PATTERN)
    server.told.clear()
    server.cut(error)
    subscriber.ignore("b")
    subscriber.listen("c")
    await until(lambda: log.events == ["lost", "restored"])
    assert server.told[-2:] == [["SUBSCRIBE", "a", "c"], ["PSUBSCRIBE", "p*"]]
    assert server.subscribed == ["a", "c", "p*"]
    assert subscriber.connects == 2
    assert len(server.open) == 1


async def test_broken_write(
    server: FakePubSub, subscriber: Subscriber, log: Log
) -> None:
    """Who began to listen as the connection broke is heard on the next."""
    await hear(subscriber, "a")
    server.broken_writes.append(RedisConnectionError("cut"))
    await hear(subscriber, "b")
    assert server.subscribed == ["a", "b"]
    assert log.events == ["lost", "restored"]


async def test_broken_before_all_is_heard(
    server: FakePubSub, subscriber: Subscriber, log: Log
) -> None:
    """A connection that never heard everything is not lost."""
    server.holds = True
    subscriber.listen("a")
    pending = subscriber.pending("a")
    assert pending is not None
    await until(lambda: server.held)
    server.holds = False
    server.cut()
    await pending
    assert log.events == ["restored"]


async def test_refused(
    server: FakePubSub,
    subscriber: Subscriber,
    log: Log,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One warning is logged while a server cannot be reached, and when it can again."""
    server.refusals.extend([RedisConnectionError("refused")] * 3)
    assert not subscriber.away
    subscriber.listen("a")
    await until(lambda: subscriber.away)
    await until(lambda: server.subscribed == ["a"])
    await until(lambda: not subscriber.away)
    server.refusals.extend([OSError()] * 3)
    server.cut()
    await until(lambda: log.events == ["lost", "restored"])
    assert caplog.messages == [
        f"{CANNOT}: refused; {TRYING}",
        "redis-1 can be listened to again",
        f"{CANNOT} again (outage 2 in a row): the line was cut; {TRYING}",
        "redis-1 can be listened to again",
    ]
    assert len(server.attempts) == 4 + 4


@pytest.mark.parametrize("where", ["connecting", "listening"])
@pytest.mark.parametrize(
    ("refusal", "text"),
    [
        (
            AuthenticationError("WRONGPASS"),
            "it refuses the username or the password (WRONGPASS)",
        ),
        (NoPermissionError("no permission"), "no permission"),
        (BusyLoadingError("it is loading"), "it is loading"),
        (ResponseError("MISCONF no disk"), "MISCONF no disk"),
    ],
    ids=repr,
)
async def test_refusals(
    server: FakePubSub,
    subscriber: Subscriber,
    caplog: pytest.LogCaptureFixture,
    where: str,
    refusal: Exception,
    text: str,
) -> None:
    """However often a server refuses, the log has one record of it, and its reason."""
    if where == "connecting":
        server.refusals.extend([refusal] * 50)
    else:
        server.forbidden["a"] = refusal
    subscriber.listen("a")
    await until(lambda: len(server.attempts) >= 50)
    server.forbidden.clear()
    await until(lambda: subscriber.pending("a") is None)
    assert caplog.messages == [
        f"{CANNOT}: {text}; {TRYING}",
        "redis-1 can be listened to again",
    ]


@pytest.mark.parametrize("subscribing", [False, True], ids=["connecting", "listening"])
async def test_pauses_grow(
    server: FakePubSub,
    subscriber: Subscriber,
    monkeypatch: pytest.MonkeyPatch,
    subscribing: bool,
) -> None:
    """What is refused again and again is asked for less and less often, for ever."""
    monkeypatch.setattr(module, "_BACKOFF", (0.01, 0.04))
    if subscribing:
        server.forbidden["a"] = NoPermissionError("no permission")
    else:
        server.refusals.extend([RedisConnectionError("refused")] * 5)
    subscriber.listen("a")
    await until(lambda: len(server.told) == 5 if subscribing else not server.refusals)
    server.forbidden.clear()
    await until(lambda: subscriber.pending("a") is None)
    pauses = [b - a for a, b in itertools.pairwise(server.attempts)]
    # uvloop's clock has milliseconds.
    for pause, least in zip(pauses, (5, 10, 20, 20, 20), strict=True):
        assert pause * 1000 > least - 2


async def test_first_pause_is_short(
    server: FakePubSub, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it had to wait for a connection before, it waits a moment again."""
    factors = [1e-9] * 20

    def uniform(*_: float) -> float:
        return factors.pop() if factors else 1

    monkeypatch.setattr(module, "random", SimpleNamespace(uniform=uniform))
    monkeypatch.setattr(module, "_BACKOFF", (0.01, 1000))
    server.refusals.extend([RedisConnectionError("refused")] * 20)
    await hear(subscriber, "a")
    server.cut()
    await until(lambda: subscriber.connects == 2)


async def test_working_again_with_nothing_to_listen_to(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    """Whoever listens next to a server that is back has to wait for it."""
    await hear(subscriber, "a")
    server.stalls.add("connect")
    server.refusals.append(RedisConnectionError("refused"))
    server.cut()
    await until(lambda: server.stalled)
    assert subscriber.away
    subscriber.ignore("a")
    server.stalls.clear()
    subscriber.reconnect()
    await until(lambda: subscriber.connects == 2)
    await turn()
    assert not subscriber.away


async def test_connecting_takes_too_long(
    server: FakePubSub, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that does not answer is tried again: at once, as it took long enough."""
    server.stalls.add("connect")
    async with subscribing(server, log, timeout=0.05) as subscriber:
        subscriber.listen("a")
        await until(lambda: subscriber.away)
        server.stalls.clear()
        await until(lambda: subscriber.pending("a") is None)
    assert caplog.messages == [
        f"{CANNOT}: it did not reply in time; {TRYING}",
        "redis-1 can be listened to again",
    ]


async def test_fault_of_ours(
    server: FakePubSub,
    subscriber: Subscriber,
    log: Log,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A fault is logged with its traceback, once, and what comes later arrives."""

    def react(data: str) -> None:
        if data == "poison":
            raise ValueError(data)

    log.react = react
    await hear(subscriber, "a")
    server.refusals.extend([TypeError("no such argument")] * 10)
    server.publish("a", b"poison")
    await until(lambda: "restored" in log.events)
    server.publish("a", b"good")
    await until(lambda: "a: good" in log.events)
    assert caplog.messages == [
        "a fault in the subscriber to redis-1",
        f"{CANNOT}: poison; {TRYING}",
        "redis-1 can be listened to again",
    ]
    errors = [each.exc_info[1] for each in caplog.records if each.exc_info]
    assert list(map(repr, errors)) == ["ValueError('poison')"]


# A server that says nothing


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PING_EVERY", 0.02)
    monkeypatch.setattr(module, "_PATIENCE", 0.03)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("where", ["pong", "send"])
async def test_silent_server(
    server: FakePubSub,
    subscriber: Subscriber,
    log: Log,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    """A server that does not answer, or that nothing can be sent to, counts as gone."""
    await hear(subscriber, "a")
    server.stalls.add(where)
    subscriber.listen("b")
    await until(lambda: log.events)
    server.stalls.clear()
    await until(lambda: log.events == ["lost", "restored"])
    assert server.subscribed == ["a", "b"]
    assert caplog.messages == [
        f"{CANNOT}: it did not answer for 0.03 seconds; {TRYING}",
        "redis-1 can be listened to again",
    ]


@pytest.mark.usefixtures("impatient")
async def test_large_message(
    server: FakePubSub,
    subscriber: Subscriber,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server is not silent while it sends a large message, and nothing else."""
    await hear(subscriber, "a")
    server.stalls.add("pong")
    [connection] = server.open
    monkeypatch.setattr(module, "_PING_EVERY", 0)
    while server.pings < 3:
        connection.send_part()
        await asyncio.sleep(0)
    assert log.events == []
    await until(lambda: log.events)


def keep_busy(_: str) -> None:
    """Block the event loop for a while."""
    end = time.monotonic() + 0.01
    while time.monotonic() < end:
        pass


@pytest.mark.usefixtures("impatient")
async def test_slow_reader(
    server: FakePubSub,
    subscriber: Subscriber,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server is not silent while messages that it has sent are still to be read."""
    monkeypatch.setattr(module, "_RUN", 1)
    await hear(subscriber, "a")
    server.stalls.add("pong")
    monkeypatch.setattr(module, "_PING_EVERY", 0)
    for _ in range(30):
        server.publish("a", b"")
    log.react = keep_busy
    await until(lambda: len(log.events) >= 30)
    assert server.pings
    assert len(server.attempts) == 1


async def test_no_use_in_waiting(
    server: FakePubSub, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that owes a confirmation and is silent is away, until it is heard."""
    monkeypatch.setattr(module, "_PATIENCE", 0.03)
    await hear(subscriber, "a")
    assert not subscriber.away
    server.holds = True
    subscriber.listen("b")
    await until(lambda: subscriber.away)
    # The next one has not to wait as long.
    subscriber.listen("c")
    assert subscriber.away
    await until(lambda: len(server.held) == 2)
    server.open[0].send_part()
    assert not subscriber.away
    server.release(2)
    await until(lambda: subscriber.pending("c") is None)
    assert not subscriber.away


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("names", [["a"], []], ids=["subscribed", "not subscribed"])
async def test_server_that_answers(
    server: FakePubSub,
    subscriber: Subscriber,
    names: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server to which nobody sends, and nobody listens either, is asked and kept."""
    await hear(subscriber, "a")
    if not names:
        subscriber.ignore("a")
    await until(lambda: server.pings >= 3)
    await turn()
    assert server.subscribed == names
    assert len(server.attempts) == 1
    assert caplog.messages == []


@pytest.mark.usefixtures("impatient")
async def test_busy_server(
    server: FakePubSub, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages show that a server is there, when it does not get to its answer too."""
    await hear(subscriber, "a")
    server.stalls.add("pong")

    async def publish() -> None:
        while True:
            server.publish("a", b"")
            await asyncio.sleep(0)

    publishing = asyncio.create_task(publish())
    monkeypatch.setattr(module, "_PING_EVERY", 0)
    await until(lambda: server.pings >= 3)
    publishing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await publishing
    assert len(server.attempts) == 1


@pytest.mark.usefixtures("impatient")
async def test_late_answer(
    server: FakePubSub, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came in time and is read late, as after a pause of the process, counts."""
    monkeypatch.setattr(module, "_GRACE", 1)
    await hear(subscriber, "a")
    server.stalls.add("pong")
    await until(lambda: server.pings)
    # Longer than it has to answer.
    await asyncio.sleep(0.05)
    [connection] = server.open
    connection.reply([b"pong", b""])
    server.stalls.clear()
    await until(lambda: server.pings == 2)
    assert len(server.attempts) == 1
