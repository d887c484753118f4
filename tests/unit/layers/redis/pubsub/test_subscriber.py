"""The rules of the subscriber, on a server that does as it is told."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from fast_channels.layers.redis import attempts
from fast_channels.layers.redis.pubsub import subscriber as module
from fast_channels.layers.redis.pubsub.subscriber import Pattern, Subscriber
from tests.waiting import turn, until

from .fake_pubsub import FakePubSub, Log, hear, subscribing

PATTERN = Pattern("p*")


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


# 1. What is wanted is the truth


async def test_connects_when_somebody_wants_to_listen(
    server: FakePubSub, subscriber: Subscriber, log: Log
) -> None:
    """Nothing is connected before; then messages come in order, with their names."""
    await turn()
    assert server.attempts == []
    await hear(subscriber, "a", PATTERN)
    for name in ("a", "pq", "b", "a"):
        server.publish(name, name.upper().encode())
    await until(lambda: len(log.events) == 3)
    assert log.events == ["a: A", "pq: PQ", "a: A"]
    assert (len(server.connections), subscriber.connects) == (1, 1)


async def test_changes_of_one_turn_leave_together(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    """What changes in one turn is one command of each kind, in one write."""
    await hear(subscriber, "a", PATTERN, "b")
    assert server.told == [["SUBSCRIBE", "a", "b"], ["PSUBSCRIBE", "p*"]]
    assert server.writes == 1
    server.told.clear()
    for name in ("a", PATTERN, "b"):
        subscriber.ignore(name)
    await hear(subscriber, "c", Pattern("q*"), "d")
    assert server.told == [
        ["SUBSCRIBE", "c", "d"],
        ["PSUBSCRIBE", "q*"],
        ["UNSUBSCRIBE", "a", "b"],
        ["PUNSUBSCRIBE", "p*"],
    ]
    assert server.writes == 2
    assert server.subscribed == ["c", "d", "q*"]


async def test_many_names_are_several_commands(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    """A command has at most a thousand names."""
    names = [f"name{number}" for number in range(2500)]
    await hear(subscriber, *names)
    for name in names:
        subscriber.ignore(name)
    await until(lambda: not server.subscribed)
    assert [(verb, len(names)) for verb, *names in server.told] == [
        *(("SUBSCRIBE", count) for count in (1000, 1000, 500)),
        *(("UNSUBSCRIBE", count) for count in (1000, 1000, 500)),
    ]
    assert server.writes == 2


async def test_others_get_their_turn_between_names(
    server: FakePubSub, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Very many names are sent in several turns of the event loop."""
    monkeypatch.setattr(module, "_TURN", 5)
    names = [f"name{number}" for number in range(12)]
    for change in (subscriber.listen, subscriber.ignore):
        for name in names:
            change(name)
        before, turns = server.writes, 0
        while server.writes < before + 3:
            await asyncio.sleep(0)
            turns += server.writes > before
        assert turns >= 3
    await until(lambda: not server.subscribed)


async def test_names_are_counted(server: FakePubSub, subscriber: Subscriber) -> None:
    """A name is listened to until nobody wants it, and the server is told once."""
    await hear(subscriber, "a", "b", "a")
    for name in ("a", "unknown"):
        subscriber.ignore(name)
    subscriber.ignore("b")
    subscriber.listen("b")
    await turn()
    assert server.told == [["SUBSCRIBE", "a", "b"]]
    subscriber.ignore("a")
    await until(lambda: server.subscribed == ["b"])
    assert server.told[1:] == [["UNSUBSCRIBE", "a"]]


# 2. Confirmations


async def test_pending_until_confirmed(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    """All who wait for a name share a future, resolved when the server confirms."""
    server.holds = True
    assert subscriber.pending("a") is None
    subscriber.listen("a")
    pending = subscriber.pending("a")
    assert pending is not None
    await until(lambda: server.held)
    assert subscriber.pending("a") is pending
    assert not pending.done()
    server.release()
    await pending
    assert subscriber.pending("a") is None


async def test_pending_until_the_last_change_is_confirmed(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    """Who left and joined again waits for the second confirmation, not for older."""
    server.holds = True
    changes = [subscriber.listen, subscriber.ignore, subscriber.listen]
    for count, change in enumerate(changes):
        change("a")
        await until(lambda count=count: len(server.told) > count)  # type: ignore[misc] # a lambda with a default
    pending = subscriber.pending("a")
    assert pending is not None
    server.release(2)
    await turn()
    assert not pending.done()
    server.release()
    await pending
    assert subscriber.pending("a") is None


async def test_confirmation_of_leaving_is_none_of_joining(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    """Who joins again as the server confirms that it has left waits for another."""
    await hear(subscriber, "a")
    server.holds = True
    subscriber.ignore("a")
    await until(lambda: server.held)
    server.release()
    subscriber.listen("a")
    pending = subscriber.pending("a")
    assert pending is not None
    await turn()
    assert not pending.done()
    server.release()
    await pending


async def test_waiting_for_what_is_unwanted_ends(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    """Who waits for a name that nobody wants any more waits no longer."""
    server.holds = True
    subscriber.listen("a")
    pending = subscriber.pending("a")
    assert pending is not None
    await until(lambda: server.held)
    subscriber.ignore("a")
    await pending
    assert subscriber.pending("a") is None


# 3. What goes wrong is in test_subscriber_connection.py. 4. Messages


async def test_others_get_their_turn(
    server: FakePubSub, subscriber: Subscriber, log: Log
) -> None:
    """A flood of messages stops other tasks for 64 of them at a time."""
    await hear(subscriber, "a")
    for number in range(200):
        server.publish("a", b"%d" % number)
    seen: list[int] = []
    while len(log.events) < 200:
        await asyncio.sleep(0)
        seen.append(len(log.events))
    steps = [b - a for a, b in itertools.pairwise(seen)]
    assert max(steps) <= 64
    assert log.events == [f"a: {number}" for number in range(200)]


# What it is told to do with its connection

STATES: dict[str, set[str]] = {
    "connecting": {"connect"},
    "telling": {"send"},
    "listening": set(),
}


@pytest.mark.parametrize("stalls", STATES.values(), ids=STATES)
async def test_reconnect(
    server: FakePubSub,
    subscriber: Subscriber,
    stalls: set[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another connection takes the place of one in any state; nobody is warned."""
    server.stalls = stalls.copy()
    subscriber.listen("a")
    await until(lambda: server.stalled or server.subscribed)
    server.stalls.clear()
    for _ in range(2):
        subscriber.reconnect()
    await until(lambda: len(server.attempts) == 2)
    await until(lambda: subscriber.pending("a") is None)
    assert server.subscribed == ["a"]
    assert len(server.attempts) == 2
    assert caplog.messages == []


async def test_reconnect_without_a_connection(
    server: FakePubSub, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it connects, and while it waits to connect again, nothing is to do."""
    subscriber.reconnect()
    await turn()
    assert server.attempts == []
    monkeypatch.setattr(module, "_BACKOFF", (0.01, 0.01))
    server.refusals.append(RedisConnectionError("refused"))
    subscriber.listen("a")
    await until(lambda: subscriber.away)
    subscriber.reconnect()
    await until(lambda: subscriber.pending("a") is None)
    assert len(server.attempts) == 2


@pytest.mark.parametrize(
    "stalls", [*STATES.values(), None], ids=[*STATES, "waiting to connect again"]
)
async def test_close(
    server: FakePubSub,
    subscriber: Subscriber,
    monkeypatch: pytest.MonkeyPatch,
    stalls: set[str] | None,
) -> None:
    """Whatever it is at, it ends and nobody waits any more; it can be used again."""
    server.holds = True
    if stalls is None:
        monkeypatch.setattr(module, "_BACKOFF", (100, 100))
        server.refusals.append(RedisConnectionError("refused"))
    server.stalls = stalls or set()
    subscriber.listen("a")
    pending = subscriber.pending("a")
    assert pending is not None
    await until(lambda: server.stalled or server.subscribed or subscriber.away)
    await subscriber.close()
    await pending
    assert server.open == []
    assert subscriber.pending("a") is None

    server.holds = False
    server.stalls = set()
    await hear(subscriber, "b")
    assert server.subscribed == ["b"]


async def test_close_at_once(server: FakePubSub, subscriber: Subscriber) -> None:
    """It may be closed before it was used, and right after."""
    await subscriber.close()
    subscriber.listen("a")
    await subscriber.close()
    await turn()
    assert server.attempts == []
