"""What the subscriber does when its connection breaks, or when nothing is heard."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from fast_channels.layers.redis import subscriber as module
from fast_channels.layers.redis.subscriber import Pattern, Subscriber

from .fake_pubsub import FakePubSub, Log, hear, subscribing
from .fake_redis import turn, until

PATTERN = Pattern("p*")


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(module, "_BACKOFF", (0, 0))


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
    caplog.set_level(logging.INFO, module.__name__)
    server.refusals.extend([RedisConnectionError("refused")] * 3)
    assert not subscriber.failing
    subscriber.listen("a")
    await until(lambda: subscriber.failing)
    await until(lambda: server.subscribed == ["a"])
    await until(lambda: not subscriber.failing)
    server.refusals.extend([OSError()] * 3)
    server.cut()
    await until(lambda: log.events == ["lost", "restored"])
    assert caplog.messages == [
        "redis-1 cannot be listened to: refused; trying again until it can",
        "redis-1 is listened to again",
        "redis-1 cannot be listened to: the line was cut; trying again until it can",
        "redis-1 is listened to again",
    ]
    assert len(server.attempts) == 4 + 4


@pytest.mark.parametrize("subscribing", [False, True], ids=["connecting", "listening"])
async def test_pauses_grow(
    server: FakePubSub,
    subscriber: Subscriber,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    subscribing: bool,
) -> None:
    """What is refused again and again is asked for less and less often, for ever."""
    monkeypatch.setattr(module, "_BACKOFF", (0.01, 0.04))
    if subscribing:
        server.forbidden.add("a")
    else:
        server.refusals.extend([RedisConnectionError("refused")] * 5)
    subscriber.listen("a")
    await until(lambda: len(server.attempts) == 5)
    server.forbidden.clear()
    await until(lambda: subscriber.pending("a") is None)
    pauses = [b - a for a, b in itertools.pairwise(server.attempts)]
    # uvloop's clock has milliseconds.
    for pause, least in zip(pauses, (5, 10, 20, 20, 20), strict=True):
        assert pause * 1000 > least - 2
    assert len(caplog.messages) == 1


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
    assert subscriber.failing
    subscriber.ignore("a")
    server.stalls.clear()
    await until(lambda: subscriber.connects == 2)
    await turn()
    assert not subscriber.failing


async def test_connecting_takes_too_long(
    server: FakePubSub, subscriber: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that accepts, and then says nothing, is tried again."""
    server.stalls.add("connect")
    subscriber.listen("a")
    await until(lambda: subscriber.failing)
    server.stalls.clear()
    await until(lambda: subscriber.pending("a") is None)
    expected = "redis-1 cannot be listened to: TimeoutError; trying again until it can"
    assert caplog.messages == [expected]


async def test_fault_of_ours(
    server: FakePubSub,
    subscriber: Subscriber,
    log: Log,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A message that cannot be given away is logged, and later ones arrive."""

    def react(data: str) -> None:
        if data == "poison":
            raise ValueError(data)

    log.react = react
    await hear(subscriber, "a")
    server.publish("a", b"poison")
    await until(lambda: "restored" in log.events)
    server.publish("a", b"good")
    await until(lambda: "a: good" in log.events)
    [record] = caplog.records
    assert record.message == "redis-1 cannot be listened to"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


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
    expected = "redis-1 cannot be listened to: it did not answer for 0.03 seconds"
    assert caplog.messages == [f"{expected}; trying again until it can"]


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
    monkeypatch.setattr(module, "_GRACE", 0.3)
    await hear(subscriber, "a")
    server.stalls.add("pong")
    await until(lambda: server.pings)
    # Longer than it has to answer.
    await asyncio.sleep(0.05)
    [connection] = server.open
    connection.replies.put_nowait([b"pong", b""])
    server.stalls.clear()
    await until(lambda: server.pings == 2)
    assert len(server.attempts) == 1
