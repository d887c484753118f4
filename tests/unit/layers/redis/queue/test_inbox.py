"""The inbox: what it reads, when, and in which order."""

import logging
import math

import pytest

from fast_channels.layers.redis.queue import batches, plain_queue
from fast_channels.layers.redis.queue import inbox as inbox_module
from tests.waiting import turn, until

from .fake_redis import Call, FakeRedis
from .reader import Logged, Reader

MINE, PLAIN = "asgi:mine!", "asgi:plain"


def numbers(calls: list[Call]) -> list[int]:
    """Return the number of the last batch that each call says has come, from 1 on.

    0 stands for no batch.
    """
    batches = [call.arguments[0] for call in calls]
    return [
        batches.index(call.arguments[1]) + 1 if call.arguments[1] in batches else 0
        for call in calls
    ]


# Rules 1 and 2: messages are popped and delivered while a receiver waits


async def test_order(server: FakeRedis, reader: Reader) -> None:
    """Messages are delivered in order, with the time that they may still wait."""
    server.add(MINE, b"1", age=20)
    server.add(MINE, b"2", age=10.5)
    server.add(MINE, b"3")
    reader.inbox.want("mine!")
    await until(lambda: len(reader.got) == 3)
    assert reader.values == [b"1", b"2", b"3"]
    assert [popped.left for popped in reader.got] == [40, 49.5, 60]
    assert {popped.queue.name for popped in reader.got} == {"mine!"}


@pytest.mark.parametrize("age", [3600, -3600], ids=["behind", "ahead"])
async def test_clocks(server: FakeRedis, idle: Reader, age: float) -> None:
    """A message cannot have waited for longer than since its queue was empty."""
    server.add(MINE, b"message", age=age)
    await until(lambda: idle.got)
    assert 59 < idle.got[0].left <= 60
    assert [call.arguments[5] for call in server.pops] == ["1", "0"], "drops old ones"


async def test_push(server: FakeRedis, idle: Reader) -> None:
    """A queue is asked for again when Redis says that it has changed, and only then."""
    server.popper.push("asgi:other!")
    await turn()
    assert len(server.pops) == 1
    server.add(MINE, b"1")
    await until(lambda: idle.values == [b"1"])
    server.add(MINE, b"2", b"3")
    await until(lambda: idle.values == [b"1", b"2", b"3"])
    await turn()
    assert len(server.pops) == 3
    assert server.told["PING"] == []


async def test_overtaken(server: FakeRedis, reader: Reader) -> None:
    """A change of which Redis tells before it replies is not forgotten."""
    server.silent.add("ZCARD")
    reader.inbox.want("mine!")
    await until(lambda: server.pops)
    server.add(MINE, b"message", age=50)
    await turn()
    server.silent.clear()
    server.popper.replies.put_nowait(0)
    await until(lambda: reader.got)
    assert reader.got[0].left == 10, "the queue was not seen empty before it came"


async def test_flush(server: FakeRedis, idle: Reader) -> None:
    """All queues are asked for again when all keys have been deleted."""
    idle.inbox.want("too!")
    await until(lambda: len(server.pops) == 2)
    await turn()
    server.flush()
    await until(lambda: len(server.pops) == 4)
    assert idle.flushed == 1
    assert {call.keys[0] for call in server.pops[2:]} == {MINE, "asgi:too!"}
    assert numbers(server.pops) == [0] * 4, "there was nothing in them"


async def test_unwanted(server: FakeRedis, idle: Reader) -> None:
    """Nothing is popped from a queue without a waiting receiver."""
    idle.inbox.unwant("mine!")
    idle.inbox.unwant("mine!")
    idle.inbox.unwant("never heard of!")
    server.add(MINE, b"message")
    idle.inbox.wake()
    await turn()
    assert idle.got == []
    idle.inbox.want("mine!")
    await until(lambda: idle.got)


async def test_one_round_trip(server: FakeRedis, reader: Reader) -> None:
    """Queues are asked for together, and waiting for one delays no other."""
    for name in ("a!", "b!", "c!"):
        server.add(f"asgi:{name}", name.encode())
        reader.inbox.want(name)
    await until(lambda: reader.values == [b"a!", b"b!", b"c!"])
    assert reader.inbox.connects == reader.connected == 1
    assert len(server.open) == 2


# Batches


async def test_batches(
    server: FakeRedis, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request says which batch has come, and none is sent in vain."""
    monkeypatch.setattr(batches, "BATCH", 2)
    server.add(MINE, b"1", b"2", b"3", b"4", b"5")
    reader.inbox.want("mine!")
    await until(lambda: reader.values == [b"1", b"2", b"3", b"4", b"5"])
    await turn()
    assert numbers(server.pops) == [0, 1, 2]
    assert [call.arguments[2] for call in server.pops] == ["2", "2", "2"]


@pytest.mark.parametrize("lost", ["EVALSHA", "ZCARD"])
async def test_lost_batch(server: FakeRedis, reader: Reader, lost: str) -> None:
    """A batch that was lost on its way comes again, even if nothing waits for it."""
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


async def test_old_data(server: FakeRedis, idle: Reader) -> None:
    """What a server with older data delivers again is received once."""
    server.add(MINE, b"1", b"2")
    await until(lambda: len(idle.got) == 2)
    [held] = server.numbers
    before = dict(server.queues[held])
    server.add(MINE, b"3")
    await until(lambda: len(idle.got) == 3)
    # It was restored from a copy of a moment ago.
    server.numbers[held], server.queues[held] = b"0", before
    server.queues[MINE][b"3"] = server.time
    server.reader.fail()
    await until(lambda: idle.connected == 2)
    server.add(MINE, b"4")
    await until(lambda: len(idle.got) == 4)
    assert idle.values == [b"1", b"2", b"3", b"4"]


# Plain channels


async def take(reader: Reader) -> int:
    """Be a reader that takes all that waits, and comes back for more."""
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
    ("quick", "expected"),
    [(0, [1, 1, 1, 1]), (math.inf, [1, 2, 4, 8, 16, 32, 64, 100, 73])],
    ids=["slow", "quick"],
)
async def test_ahead(
    plain: Reader,
    monkeypatch: pytest.MonkeyPatch,
    quick: float,
    expected: list[int],
) -> None:
    """A reader gets one message at a time, or more and more if it comes back fast."""
    monkeypatch.setattr(plain_queue, "_QUICK", quick)
    plain.inbox.want("plain")
    assert [await take(plain) for _ in expected] == expected
    assert plain.values == [b"%03d" % number for number in range(sum(expected))]


@pytest.mark.parametrize(("readers", "count"), [(3, 3), (150, 100)])
async def test_readers(
    server: FakeRedis, plain: Reader, readers: int, count: int
) -> None:
    """As many messages are taken as readers wait, and none while any is unclaimed."""
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


async def test_acknowledging(server: FakeRedis, plain: Reader) -> None:
    """A message is held until it is acknowledged, which Redis learns soon."""
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


async def test_acknowledging_together(server: FakeRedis, plain: Reader) -> None:
    """What need not be known soon is said with the next request."""
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


async def test_acknowledging_what_was_lost(server: FakeRedis, plain: Reader) -> None:
    """What was acknowledged is acknowledged again when the reply was lost."""
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


async def test_lost_messages(server: FakeRedis, plain: Reader) -> None:
    """Messages that were lost on their way come again, and those at work do not."""
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


async def test_what_others_recovered(server: FakeRedis, plain: Reader) -> None:
    """A message that others have recovered is theirs, whatever becomes of it here."""
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


async def test_old_data_of_a_plain_channel(server: FakeRedis, plain: Reader) -> None:
    """What was acknowledged is acknowledged again by a server with older data."""
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


@pytest.mark.parametrize("readers", [0, 1])
async def test_give_back(
    server: FakeRedis, plain: Reader, readers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left lying goes back, in its place, and is there for the next reader."""
    monkeypatch.setattr(plain_queue, "_QUICK", 0)
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


async def test_dead_receivers(server: FakeRedis, plain: Reader, logged: Logged) -> None:
    """What a dead receiver held is recovered, one message at a time, and logged."""
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
    # It asks for more of them while there are any.
    await until(lambda: len(server.takes) > 3)
    server.more = False
    levels = [level for level, _ in logged()]
    assert levels == [logging.WARNING, logging.ERROR]
    assert "3 messages of channel 'plain' are delivered again" in logged()[0][1]
    assert "1 messages of channel 'plain' have each been taken by 5" in logged()[1][1]


# The check


async def test_lost_push(
    server: FakeRedis, idle: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message of which Redis did not tell is found by the next check."""
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.01)
    # The next check is as far away as it was.
    idle.inbox.reconnect()
    await until(lambda: idle.connected == 2)
    server.queues[MINE][b"message"] = server.time
    await until(lambda: idle.got)
    await until(lambda: len(server.told["PING"]) > 3)
    assert idle.inbox.connects == 2, "it goes on while PING is answered"


async def test_leases(
    server: FakeRedis, plain: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it holds messages, checks renew the lease, and later they do not."""
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.01)
    plain.inbox.want("plain")
    await until(lambda: plain.got)
    plain.inbox.unwant("plain")
    plain.waiting["plain"] = 0
    await until(lambda: len(server.takes) > 3)
    assert {call.arguments[5] for call in server.takes[1:]} == {"0"}
    plain.got[0].acknowledge()
    await until(lambda: server.takes[-1].arguments[8] == "1")
    pings, takes = len(server.told["PING"]), len(server.takes)
    await until(lambda: len(server.told["PING"]) > pings + 2)
    assert len(server.takes) == takes


async def test_forgotten(
    server: FakeRedis, idle: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis learns that the last batch has come, even if nothing waits any more."""
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.01)
    idle.inbox.reconnect()
    await until(lambda: idle.connected == 2)
    server.add(MINE, b"1")
    await until(lambda: idle.got)
    idle.inbox.unwant("mine!")
    await until(lambda: server.pops[-1].arguments[2] == "0")
    assert not server.queues["asgi::inflight:{asgi:mine!}:me"]
    pings, pops = len(server.told["PING"]), len(server.pops)
    await until(lambda: len(server.told["PING"]) > pings + 2)
    assert len(server.pops) == pops
