"""The inbox: what it reads, when, and in which order."""

import math

import pytest

from fast_channels.layers.redis import inbox as inbox_module

from .fake_redis import Call, FakeRedis, turn, until
from .reader import Reader

MINE, PLAIN = "asgi:mine!", "asgi:plain"


def slots(calls: list[Call]) -> list[list[str]]:
    """Return where this batch is kept, and where the last."""
    kept = "asgi::inflight:mine!:me:"
    return [[key.removeprefix(kept) for key in call.keys[1:]] for call in calls]


# Rules 1 and 2: what is popped is delivered, while somebody waits for it


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
    assert [call.arguments[2] for call in server.pops] == ["1", "0"], "drops old ones"


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
    assert slots(server.pops)[::2] == [["0", "1"]] * 2, "there was nothing in them"


async def test_unwanted(server: FakeRedis, idle: Reader) -> None:
    """A queue is left alone while nobody waits for what is in it."""
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


# Rule 3: batches


async def test_batches(
    server: FakeRedis, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are kept in two slots in turn, and none is asked for in vain."""
    monkeypatch.setattr(inbox_module, "_BATCH", 2)
    server.add(MINE, b"1", b"2", b"3", b"4", b"5")
    reader.inbox.want("mine!")
    await until(lambda: reader.values == [b"1", b"2", b"3", b"4", b"5"])
    await turn()
    assert slots(server.pops) == [["0", "1"], ["1", "0"], ["0", "1"]]
    assert [call.arguments[0] for call in server.pops] == ["2", "2", "2"]


@pytest.mark.parametrize("lost", ["EVALSHA", "ZCARD"])
async def test_lost_batch(server: FakeRedis, reader: Reader, lost: str) -> None:
    """A batch that was lost on its way is asked for again, even if nobody waits."""
    server.loses.add(lost)
    server.add(MINE, b"1", b"2")
    reader.inbox.want("mine!")
    await until(lambda: server.pops)
    reader.inbox.unwant("mine!")
    await until(lambda: len(reader.got) == 2)
    assert slots(server.pops) == [["0", "1"], ["0", "1"]]
    server.add(MINE, b"3")
    reader.inbox.want("mine!")
    await until(lambda: len(reader.got) == 3)
    assert slots(server.pops)[2:] == [["1", "0"]]
    assert reader.values == [b"1", b"2", b"3"]


# Rule 4: queues of plain channels


async def take(reader: Reader) -> int:
    """Be a reader that takes all that waits, and comes back for more."""
    await until(lambda: reader.waiting["plain"])
    taken, reader.waiting["plain"] = reader.waiting["plain"], 0
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
    monkeypatch.setattr(inbox_module, "_QUICK", quick)
    plain.inbox.want("plain")
    assert [await take(plain) for _ in expected] == expected
    assert plain.values == [b"%03d" % number for number in range(sum(expected))]


@pytest.mark.parametrize(("readers", "count"), [(3, 3), (150, 100)])
async def test_readers(
    server: FakeRedis, plain: Reader, readers: int, count: int
) -> None:
    """As many messages are popped as readers wait, and none while any is unclaimed."""
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
    assert server.pops[0].keys[3:] == ["asgi::receivers:plain"]
    assert server.pops[0].arguments[4:] == ["me", "30.0", "asgi::inflight:plain:"]


@pytest.mark.parametrize("readers", [0, 1])
async def test_give_back(
    server: FakeRedis, plain: Reader, readers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left lying goes back, in its place, and is there for who comes then."""
    monkeypatch.setattr(inbox_module, "_QUICK", 0)
    plain.inbox.want("plain")
    await until(lambda: plain.got)
    plain.inbox.unwant("plain")
    plain.waiting["plain"] = 0
    plain.got[0].give_back()
    plain.inbox.wake()
    for _ in range(readers):
        plain.inbox.want("plain")
    await until(lambda: server.leaves)
    queue, receivers = "asgi::inflight:plain:me:", "asgi::receivers:plain"
    assert server.leaves[0].keys == [PLAIN, f"{queue}0", f"{queue}1", receivers]
    assert server.leaves[0].arguments == ["60000", "me", "1", "1000.000000", "000"]
    if not readers:
        await turn()
        assert len(server.queues[PLAIN]) == 300
        plain.inbox.want("plain")
    await until(lambda: plain.values == [b"000", b"000"])
    plain.got[1].give_back()
    plain.inbox.wake()
    await until(lambda: len(server.leaves) == 2)
    assert server.leaves[1].arguments[3:] == ["1000.000000", "000"]


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


async def test_forgotten(
    server: FakeRedis, plain: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is told that a queue has no reader any more, once nothing waits for one."""
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.01)
    plain.inbox.want("plain")
    await until(lambda: plain.got)
    plain.inbox.unwant("plain")
    pings = len(server.told["PING"])
    await until(lambda: len(server.told["PING"]) > pings + 2)
    assert server.leaves == []
    plain.waiting["plain"] = 0
    await until(lambda: server.leaves)
    assert server.leaves[0].arguments == ["60000", "me", "1"]
    pings = len(server.told["PING"])
    await until(lambda: len(server.told["PING"]) > pings + 2)
    assert len(server.leaves) == 1
