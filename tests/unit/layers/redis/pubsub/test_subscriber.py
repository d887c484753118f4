"""The rules of the subscriber, on a server that a test controls."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.pubsub.subscriber import Pattern, Subscriber
from fast_channels.layers.redis.wire import (
    NoPermissionError,
    RedisConnectionError,
    ResponseError,
)
from tests.waiting import turn, until

from .fake_pubsub import ONCE, FakePubSub, Log, hear, subscribing

PATTERN = Pattern("p*")
CANNOT = "redis-1 cannot be listened to"
TRYING = "trying again until it can"


@pytest.fixture
async def server() -> FakePubSub:
    return FakePubSub()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def timing() -> Timing:
    return ONCE


@pytest.fixture
async def subscriber(
    server: FakePubSub, log: Log, timing: Timing
) -> AsyncIterator[Subscriber]:
    async with subscribing(server, log, timing) as subscriber:
        yield subscriber


# 1. The wanted names are the truth


async def test_it_connects_for_the_first_name_and_gets_messages_in_order(
    server: FakePubSub, subscriber: Subscriber, log: Log
) -> None:
    await turn()
    assert server.attempts == []
    await hear(subscriber, "a", PATTERN)
    for name in ("a", "pq", "b", "a"):
        server.publish(name, name.upper().encode())
    await until(lambda: len(log.events) == 3)
    assert log.events == ["a: A", "pq: PQ", "a: A"]
    assert (len(server.connections), subscriber.connects) == (1, 1)


async def test_changes_of_one_turn_leave_in_one_command_of_each_kind(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    await hear(subscriber, "a", PATTERN, "b")
    assert server.told == [["SUBSCRIBE", "a", "b"], ["PSUBSCRIBE", "p*"]]
    assert len(server.writes) == 1
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
    assert len(server.writes) == 2
    assert server.subscribed == ["c", "d", "q*"]


async def test_a_command_has_at_most_a_thousand_names(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    names = [f"name{number}" for number in range(2500)]
    await hear(subscriber, *names)
    for name in names:
        subscriber.ignore(name)
    await until(lambda: not server.subscribed)
    assert [(verb, len(names)) for verb, *names in server.told] == [
        *(("SUBSCRIBE", count) for count in (1000, 1000, 500)),
        *(("UNSUBSCRIBE", count) for count in (1000, 1000, 500)),
    ]
    assert len(server.writes) == 2


async def test_other_tasks_run_while_very_many_names_are_sent(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    names = [f"name{number}" for number in range(20_001)]
    for change in (subscriber.listen, subscriber.ignore):
        for name in names:
            change(name)
        before, turns = len(server.writes), 0
        while len(server.writes) < before + 3:
            await asyncio.sleep(0)
            turns += len(server.writes) > before
        assert turns >= 3
    await until(lambda: not server.subscribed)


async def test_a_name_is_subscribed_to_until_its_last_listener_has_left(
    server: FakePubSub, subscriber: Subscriber
) -> None:
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


async def test_waiters_for_one_name_share_a_future(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    """It is resolved when the server confirms."""
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


async def test_a_waiter_waits_for_the_last_change_of_a_name(
    server: FakePubSub, subscriber: Subscriber
) -> None:
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


async def test_the_confirmation_of_leaving_does_not_confirm_joining(
    server: FakePubSub, subscriber: Subscriber
) -> None:
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


async def test_waiting_for_a_name_ends_when_its_last_listener_has_left(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    server.holds = True
    subscriber.listen("a")
    pending = subscriber.pending("a")
    assert pending is not None
    await until(lambda: server.held)
    subscriber.ignore("a")
    await pending
    assert subscriber.pending("a") is None


# 3. Another connection


@pytest.mark.parametrize("breaks", [True, False], ids=["broken", "dropped"])
async def test_the_next_connection_subscribes_to_all_names_wanted_by_then(
    server: FakePubSub,
    subscriber: Subscriber,
    log: Log,
    breaks: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Deliberate disconnections are not logged."""
    await hear(subscriber, "a", "b", PATTERN)
    server.told.clear()
    if breaks:
        server.cut()
    else:
        subscriber.reconnect()
    subscriber.ignore("b")
    subscriber.listen("c")
    await until(lambda: log.events == ["lost", "restored"])
    assert server.told[-2:] == [["SUBSCRIBE", "a", "c"], ["PSUBSCRIBE", "p*"]]
    assert server.subscribed == ["a", "c", "p*"]
    assert subscriber.connects == 2
    assert caplog.messages == breaks * [
        f"{CANNOT}: the line was cut; {TRYING}",
        "redis-1 can be listened to again",
    ]


async def test_names_whose_command_was_lost_are_subscribed_on_the_next_connection(
    server: FakePubSub, subscriber: Subscriber, log: Log
) -> None:
    await hear(subscriber, "a")
    server.broken_writes.append(RedisConnectionError("cut"))
    await hear(subscriber, "b")
    assert server.subscribed == ["a", "b"]
    assert log.events == ["lost", "restored"]


async def test_a_connection_that_was_never_fully_subscribed_is_not_lost(
    server: FakePubSub, subscriber: Subscriber, log: Log
) -> None:
    server.holds = True
    subscriber.listen("a")
    pending = subscriber.pending("a")
    assert pending is not None
    await until(lambda: server.held)
    server.holds = False
    server.cut()
    await pending
    assert log.events == ["restored"]


async def test_a_subscription_that_is_refused_is_an_outage(
    server: FakePubSub, subscriber: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    """However often a server refuses, the log has one record with the reason."""
    server.forbidden["a"] = NoPermissionError("no permission")
    subscriber.listen("a")
    await until(lambda: len(server.attempts) >= 50)
    assert subscriber.away
    server.forbidden.clear()
    await until(lambda: subscriber.pending("a") is None)
    assert not subscriber.away
    assert caplog.messages == [
        f"{CANNOT}: no permission; {TRYING}",
        "redis-1 can be listened to again",
    ]


async def test_a_node_of_a_cluster_is_refused(
    server: FakePubSub, subscriber: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what to write."""
    server.hello = [b"server", b"redis", b"mode", b"cluster"]
    subscriber.listen("a")
    await until(lambda: caplog.messages)
    write = "write cluster=[...] instead of hosts=[...]"
    assert caplog.messages == [
        f"{CANNOT}: it is a node of a Redis Cluster; {write}; {TRYING}"
    ]


async def test_a_server_that_does_not_tell_its_kind_is_accepted(
    server: FakePubSub, subscriber: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    """Some proxies do not know HELLO."""
    server.hello = ResponseError("unknown command 'HELLO'")
    await hear(subscriber, "a")
    assert caplog.messages == []


async def test_a_server_that_is_back_counts_as_back_without_subscriptions(
    server: FakePubSub, subscriber: Subscriber
) -> None:
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


async def test_a_message_that_cannot_be_handled_stops_no_other(
    server: FakePubSub,
    subscriber: Subscriber,
    log: Log,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bug is logged with its traceback, and later messages arrive."""

    def react(data: str) -> None:
        if data == "poison":
            raise ValueError(data)

    log.react = react
    await hear(subscriber, "a")
    server.publish("a", b"poison")
    await until(lambda: "restored" in log.events)
    server.publish("a", b"good")
    await until(lambda: "a: good" in log.events)
    assert caplog.messages[0] == f"{CANNOT}: poison; {TRYING}"
    assert caplog.records[0].exc_info is not None


def keep_busy(_: str) -> None:
    """Block the event loop for a while."""
    end = time.monotonic() + 0.0003
    while time.monotonic() < end:
        pass


@pytest.mark.parametrize("timing", [replace(ONCE, idle=0, patience=0.01, grace=0.01)])
async def test_a_server_is_not_silent_while_its_messages_are_unread(
    server: FakePubSub, subscriber: Subscriber, log: Log
) -> None:
    server.silent.add("PING")
    log.react = keep_busy
    subscriber.listen("a")
    await until(lambda: server.subscribed)
    for _ in range(1000):
        server.publish("a", b"")
    await until(lambda: len(log.events) >= 1000)
    assert server.asked("PING")
    assert len(server.attempts) == 1


@pytest.mark.parametrize("timing", [replace(ONCE, idle=0.02, patience=0.03)])
@pytest.mark.parametrize("names", [["a"], []], ids=["subscribed", "not subscribed"])
async def test_a_server_that_answers_is_kept_whatever_form_its_answer_has(
    server: FakePubSub, subscriber: Subscriber, names: list[str]
) -> None:
    await hear(subscriber, "a")
    if not names:
        subscriber.ignore("a")
    await until(lambda: len(server.asked("PING")) >= 3)
    assert server.subscribed == names
    assert len(server.attempts) == 1


@pytest.mark.parametrize("timing", [replace(ONCE, patience=0.03)])
async def test_a_server_that_owes_a_confirmation_is_away_until_it_arrives(
    server: FakePubSub, subscriber: Subscriber
) -> None:
    await hear(subscriber, "a")
    assert not subscriber.away
    server.holds = True
    subscriber.listen("b")
    await until(lambda: subscriber.away)
    # The next waiter doesn't have to wait as long.
    subscriber.listen("c")
    assert subscriber.away
    await until(lambda: len(server.held) == 2)
    server.connection.send_part()
    assert not subscriber.away
    server.release(2)
    await until(lambda: subscriber.pending("c") is None)
    assert not subscriber.away


@pytest.mark.parametrize("refused", [True, False])
async def test_close_ends_all_waits_and_subscriptions(
    server: FakePubSub, subscriber: Subscriber, refused: bool
) -> None:
    """The subscriber can be used again."""
    server.holds = True
    server.unreachable = refused
    subscriber.listen("a")
    pending = subscriber.pending("a")
    assert pending is not None
    await until(lambda: server.subscribed or subscriber.away)
    await subscriber.close()
    await pending
    assert server.open == []
    assert subscriber.pending("a") is None

    server.holds = server.unreachable = False
    await hear(subscriber, "b")
    assert server.subscribed == ["b"]


# 4. Messages


async def test_other_tasks_run_after_64_messages(
    server: FakePubSub, subscriber: Subscriber, log: Log
) -> None:
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
