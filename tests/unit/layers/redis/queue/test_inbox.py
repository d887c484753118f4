"""The inbox: what it reads, when, and in which order."""

import logging
import math

import pytest

from fast_channels.layers.redis.queue.inbox import InboxTiming
from tests.waiting import turn, until

from .fake_redis import Call, FakeRedis
from .reader import Logged, Reader

MINE, PLAIN = "asgi:mine!", "asgi:plain"


def numbers(calls: list[Call]) -> list[int]:
    """Return the number of the last batch that each call acknowledges, 0 for none."""
    batches = [call.arguments[0] for call in calls]
    return [
        batches.index(call.arguments[1]) + 1 if call.arguments[1] in batches else 0
        for call in calls
    ]


# Rules 1 and 2: messages are popped and delivered while a receiver waits


async def test_messages_are_delivered_in_order_with_the_time_they_have_left(
    server: FakeRedis, reader: Reader
) -> None:
    server.add(MINE, b"1", age=20)
    server.add(MINE, b"2", age=10.5)
    server.add(MINE, b"3")
    reader.inbox.want("mine!")
    await until(lambda: len(reader.got) == 3)
    assert reader.values == [b"1", b"2", b"3"]
    assert [popped.left for popped in reader.got] == [40, 49.5, 60]
    assert {popped.queue.name for popped in reader.got} == {"mine!"}


@pytest.mark.parametrize("age", [3600, -3600], ids=["behind", "ahead"])
async def test_a_message_cannot_be_older_than_the_last_look_at_its_empty_queue(
    server: FakeRedis, idle: Reader, age: float
) -> None:
    """This holds whatever the sender's clock shows."""
    server.add(MINE, b"message", age=age)
    await until(lambda: idle.got)
    assert 59 < idle.got[0].left <= 60
    assert [call.arguments[5] for call in server.pops] == ["1", "0"], "drops old ones"


async def test_a_queue_is_read_again_when_redis_reports_a_change_and_only_then(
    server: FakeRedis, idle: Reader
) -> None:
    server.popper.push("asgi:other!")
    await turn()
    assert len(server.pops) == 1
    server.add(MINE, b"1")
    await until(lambda: idle.values == [b"1"])
    server.add(MINE, b"2", b"3")
    await until(lambda: idle.values == [b"1", b"2", b"3"])
    await turn()
    assert len(server.pops) == 3
    assert server.asked("PING") == []


async def test_a_change_that_is_reported_before_the_reply_is_not_forgotten(
    server: FakeRedis, reader: Reader
) -> None:
    server.silent.add("ZCARD")
    reader.inbox.want("mine!")
    await until(lambda: server.pops)
    server.add(MINE, b"message", age=50)
    await turn()
    server.silent.clear()
    server.popper.replies.put_nowait(0)
    await until(lambda: reader.got)
    assert reader.got[0].left == 10, "the queue was not seen empty before it came"


async def test_all_queues_are_read_again_when_all_keys_were_deleted(
    server: FakeRedis, idle: Reader
) -> None:
    idle.inbox.want("too!")
    await until(lambda: len(server.pops) == 2)
    await turn()
    server.flush()
    await until(lambda: len(server.pops) == 4)
    assert idle.flushed == 1
    assert {call.keys[0] for call in server.pops[2:]} == {MINE, "asgi:too!"}
    assert numbers(server.pops) == [0] * 4, "there was nothing in them"


async def test_a_queue_without_readers_is_not_read(
    server: FakeRedis, idle: Reader
) -> None:
    idle.inbox.unwant("mine!")
    idle.inbox.unwant("mine!")
    idle.inbox.unwant("never heard of!")
    server.add(MINE, b"message")
    idle.inbox.wake()
    await turn()
    assert idle.got == []
    idle.inbox.want("mine!")
    await until(lambda: idle.got)


async def test_all_queues_are_read_together(server: FakeRedis, reader: Reader) -> None:
    for name in ("a!", "b!", "c!"):
        server.add(f"asgi:{name}", name.encode())
        reader.inbox.want(name)
    await until(lambda: reader.values == [b"a!", b"b!", b"c!"])
    assert reader.inbox.connects == reader.connected == 1
    assert len(server.open) == 2


# Batches


@pytest.mark.parametrize("inbox_timing", [InboxTiming(batch=2)])
async def test_each_request_names_the_last_batch_and_none_is_wasted(
    server: FakeRedis, reader: Reader
) -> None:
    server.add(MINE, b"1", b"2", b"3", b"4", b"5")
    reader.inbox.want("mine!")
    await until(lambda: reader.values == [b"1", b"2", b"3", b"4", b"5"])
    await turn()
    assert numbers(server.pops) == [0, 1, 2]
    assert [call.arguments[2] for call in server.pops] == ["2", "2", "2"]


@pytest.mark.parametrize("lost", ["EVALSHA", "ZCARD"])
async def test_a_batch_that_was_lost_in_flight_comes_again(
    server: FakeRedis, reader: Reader, lost: str
) -> None:
    """This holds even if no reader waits for it any more."""
    server.loses.add(lost)
    server.add(MINE, b"1", b"2")
    reader.inbox.want("mine!")
    await until(lambda: server.pops)
    reader.inbox.unwant("mine!")
    await until(lambda: len(reader.got) == 2)
    assert numbers(server.pops) == [0, 0]
    server.add(MINE, b"3")
    reader.inbox.want("mine!")
    await until(lambda: len(reader.got) == 3)
    assert numbers(server.pops) == [0, 0, 1]
    assert reader.values == [b"1", b"2", b"3"]


async def test_messages_that_a_server_with_older_data_repeats_are_received_once(
    server: FakeRedis, idle: Reader
) -> None:
    server.add(MINE, b"1", b"2")
    await until(lambda: len(idle.got) == 2)
    [held] = server.numbers
    before = dict(server.queues[held])
    server.add(MINE, b"3")
    await until(lambda: len(idle.got) == 3)
    # It was restored from a slightly older copy.
    server.numbers[held], server.queues[held] = b"0", before
    server.queues[MINE][b"3"] = server.time
    server.reader.fail()
    await until(lambda: idle.connected == 2)
    server.add(MINE, b"4")
    await until(lambda: len(idle.got) == 4)
    assert idle.values == [b"1", b"2", b"3", b"4"]


# Plain channels


async def take(reader: Reader) -> int:
    """A reader that takes every waiting message, and returns for more."""
    await until(lambda: reader.waiting["plain"])
    taken, reader.waiting["plain"] = reader.waiting["plain"], 0
    for popped in reader.got[-taken:]:
        popped.acknowledge(soon=False)
    reader.inbox.unwant("plain")
    reader.inbox.want("plain")
    return taken


@pytest.fixture
async def plain(server: FakeRedis, reader: Reader) -> Reader:
    """An inbox with a mailbox for a plain channel with 300 messages."""
    reader.waiting["plain"] = 0

    def deliver(_: object) -> None:
        reader.waiting["plain"] += 1

    reader.deliver = deliver
    server.add(PLAIN, *[b"%03d" % number for number in range(300)])
    return reader


@pytest.mark.parametrize(
    ("inbox_timing", "expected"),
    [
        (InboxTiming(quick=0), [1, 1, 1, 1]),
        (InboxTiming(quick=math.inf), [1, 2, 4, 8, 16, 32, 64, 100, 73]),
    ],
    ids=["slow", "quick"],
)
async def test_a_reader_that_returns_quickly_gets_larger_and_larger_batches(
    plain: Reader, expected: list[int]
) -> None:
    plain.inbox.want("plain")
    assert [await take(plain) for _ in expected] == expected
    assert plain.values == [b"%03d" % number for number in range(sum(expected))]


@pytest.mark.parametrize(("readers", "count"), [(3, 3), (150, 100)])
async def test_as_many_messages_are_taken_as_readers_wait(
    server: FakeRedis, plain: Reader, readers: int, count: int
) -> None:
    """While any message waits for its reader, no more are taken."""
    for _ in range(readers):
        plain.inbox.want("plain")
    await until(lambda: plain.got)
    assert len(plain.got) == count
    server.add(PLAIN, b"one more")
    plain.inbox.want("plain")
    await turn()
    assert len(plain.got) == count
    plain.waiting["plain"] = 0
    plain.inbox.unwant("plain")
    await until(lambda: len(plain.got) > count)
    kinds = [f"asgi::{kind}:{{{PLAIN}}}" for kind in ("receivers", "suspects")]
    assert server.takes[0].keys[1] == f"asgi::inflight:{{{PLAIN}}}:me"
    assert server.takes[0].keys[2:4] == kinds
    assert server.takes[0].arguments[:2] == ["me", "35.0"]


async def test_a_message_is_held_until_it_is_acknowledged(
    server: FakeRedis, plain: Reader
) -> None:
    plain.inbox.want("plain")
    await until(lambda: plain.got)
    plain.inbox.unwant("plain")
    plain.waiting["plain"] = 0
    [held] = [key for key in server.queues if "inflight" in key]
    assert list(server.queues[held]) == [b"000"]
    for _ in range(2):
        plain.got[0].acknowledge()
    await until(lambda: not server.queues[held])
    plain.got[0].give_back()
    await turn()
    assert len(server.takes) == 2
    assert len(server.queues[PLAIN]) == 299


async def test_an_acknowledgement_can_wait_for_the_next_request(
    server: FakeRedis, plain: Reader
) -> None:
    plain.inbox.want("plain")
    await until(lambda: plain.got)
    plain.waiting["plain"] = 0
    plain.got[0].acknowledge(soon=False)
    await turn()
    assert len(server.takes) == 1
    plain.inbox.unwant("plain")
    plain.inbox.want("plain")
    await until(lambda: len(plain.got) > 1)
    assert server.takes[1].arguments[7:] == ["0", "1", "0", "000"]


async def test_an_acknowledgement_whose_reply_was_lost_is_sent_again(
    server: FakeRedis, plain: Reader
) -> None:
    plain.inbox.want("plain")
    await until(lambda: plain.got)
    plain.inbox.unwant("plain")
    plain.waiting["plain"] = 0
    server.loses.add("EVALSHA")
    plain.got[0].acknowledge()
    await until(lambda: len(server.takes) == 3)
    assert [call.arguments[7:] for call in server.takes[1:]] == [
        ["0", "1", "0", "000"]
    ] * 2
    await turn()
    assert plain.values == [b"000"]


async def test_messages_that_were_lost_in_flight_come_again(
    server: FakeRedis, plain: Reader
) -> None:
    """Messages that are being handled do not."""
    plain.inbox.want("plain")
    await until(lambda: plain.got)
    plain.waiting["plain"] = 0
    plain.inbox.unwant("plain")
    for _ in range(2):
        plain.inbox.want("plain")
    await until(lambda: len(plain.got) > 1)
    before = len(plain.got)
    plain.waiting["plain"] = 0
    server.loses.add("EVALSHA")
    plain.inbox.unwant("plain")
    await until(lambda: len(plain.got) > before)
    assert plain.values == [b"%03d" % number for number in range(len(plain.got))]


async def test_a_message_that_another_receiver_recovered_belongs_to_it(
    server: FakeRedis, plain: Reader
) -> None:
    plain.inbox.want("plain")
    await until(lambda: plain.got)
    plain.waiting["plain"] = 0
    [held] = [key for key in server.queues if "inflight" in key]
    server.queues[held].clear()
    plain.inbox.unwant("plain")
    plain.inbox.want("plain")
    await until(lambda: len(plain.got) > 1)
    takes = len(server.takes)
    plain.got[0].acknowledge()
    await turn()
    assert len(server.takes) == takes


async def test_a_server_with_older_data_gets_acknowledgements_again(
    server: FakeRedis, plain: Reader
) -> None:
    plain.inbox.want("plain")
    await until(lambda: plain.got)
    plain.waiting["plain"] = 0
    plain.inbox.unwant("plain")
    plain.got[0].acknowledge()
    await until(lambda: len(server.takes) == 2)
    await turn()
    [held] = [key for key in server.queues if "inflight" in key]
    server.queues[held][b"000"] = server.time
    plain.inbox.want("plain")
    await until(lambda: len(plain.got) > 1)
    assert b"000" not in plain.values[1:]
    await until(lambda: b"000" not in server.queues[held])


@pytest.mark.parametrize("inbox_timing", [InboxTiming(quick=0)])
@pytest.mark.parametrize("readers", [0, 1])
async def test_a_message_that_is_given_back_goes_to_the_next_reader(
    server: FakeRedis, plain: Reader, readers: int
) -> None:
    """It returns to its place in the queue."""
    plain.inbox.want("plain")
    await until(lambda: plain.got)
    plain.inbox.unwant("plain")
    plain.waiting["plain"] = 0
    plain.got[0].give_back()
    for _ in range(readers):
        plain.inbox.want("plain")
    await until(lambda: len(server.takes) > 1)
    assert server.takes[1].arguments[8:] == ["0", "0", "000"]
    if not readers:
        await turn()
        assert len(server.queues[PLAIN]) == 300
        plain.inbox.want("plain")
    await until(lambda: plain.values == [b"000", b"000"])
    plain.got[1].give_back()
    await until(lambda: len(server.queues[PLAIN]) == 300)


async def test_messages_of_a_dead_receiver_are_recovered_and_logged(
    server: FakeRedis, plain: Reader, logged: Logged
) -> None:
    server.dead, server.recovers, server.more = [b"it"], [3, 1], True
    server.queues[PLAIN].clear()
    plain.inbox.want("plain")
    await until(lambda: server.recoveries)
    kinds = "receivers", "inflight", "suspects", "deaths", "deadletters"
    keys = [PLAIN, *(f"asgi::{kind}:{{{PLAIN}}}" for kind in kinds)]
    keys[2] += ":it"
    assert server.recoveries[0].keys == keys
    assert server.recoveries[0].arguments[0] == "it"
    assert server.recoveries[0].arguments[3] == "5"
    # It asks for more as long as there are any.
    await until(lambda: len(server.takes) > 3)
    server.more = False
    levels = [level for level, _ in logged()]
    assert levels == [logging.WARNING, logging.ERROR]
    assert "3 messages of channel 'plain' are delivered again" in logged()[0][1]
    assert "1 messages of channel 'plain' have each been taken by 5" in logged()[1][1]


# The check

# Answered PINGs show that time passes.
often = pytest.mark.parametrize(
    "inbox_timing", [InboxTiming(check=0.01, idle=0.01, patience=0.01)]
)


@often
async def test_a_change_that_was_not_reported_is_found_by_the_next_check(
    server: FakeRedis, idle: Reader
) -> None:
    server.queues[MINE][b"message"] = server.time
    await until(lambda: idle.got)
    assert idle.inbox.connects == 1


@often
async def test_checks_renew_the_lease_while_messages_are_held(
    server: FakeRedis, plain: Reader
) -> None:
    plain.inbox.want("plain")
    await until(lambda: plain.got)
    plain.inbox.unwant("plain")
    plain.waiting["plain"] = 0
    await until(lambda: len(server.takes) > 3)
    assert {call.arguments[5] for call in server.takes[1:]} == {"0"}
    plain.got[0].acknowledge()
    await until(lambda: server.takes[-1].arguments[8] == "1")
    pings, takes = len(server.asked("PING")), len(server.takes)
    await until(lambda: len(server.asked("PING")) > pings + 2)
    assert len(server.takes) == takes


@often
async def test_redis_learns_that_the_last_batch_came_even_without_readers(
    server: FakeRedis, idle: Reader
) -> None:
    # Before the next request could do so.
    idle.deliver = lambda _: idle.inbox.unwant("mine!")
    server.add(MINE, b"1")
    await until(lambda: server.pops[-1].arguments[2] == "0")
    assert not server.queues["asgi::inflight:{asgi:mine!}:me"]
    pings, pops = len(server.asked("PING")), len(server.pops)
    await until(lambda: len(server.asked("PING")) > pings + 2)
    assert len(server.pops) == pops
