"""The inbox: where Redis does not tell of changes, one connection blocks."""

import asyncio
import logging
import time

import pytest
from redis.exceptions import ResponseError

from fast_channels.layers.redis import inbox as inbox_module

from .fake_redis import REFUSED, FakeRedis, turn, until
from .reader import Logged, Reader, fails, reading, works

MINE, TOO = "asgi:mine!", "asgi:too!"


async def test_refused(server: FakeRedis, reader: Reader, logged: Logged) -> None:
    """One connection pops and blocks, for good, which is a warning."""
    server.refuses["CLIENT TRACKING"] = REFUSED
    reader.inbox.want("mine!")
    await until(lambda: server.told["BZPOPMIN"])
    await works(server, reader)
    await until(lambda: server.told["BZPOPMIN"][1:])
    assert server.told["BZPOPMIN"] == [["BZPOPMIN", MINE, "10.0"]] * 2
    assert server.open == [server.popper]
    server.refuses.clear()
    server.popper.fail()
    await until(lambda: reader.connected == 2)
    await works(server, reader)
    assert len(server.told["CLIENT TRACKING"]) == 1
    (level, text), *later = logged()
    assert level == logging.WARNING
    assert text.startswith(f"redis-1 refuses to tell when a queue changes ({REFUSED})")
    assert later == fails("the line was cut")


@pytest.mark.parametrize("deaf", [False, True], ids=["", "too-early"])
async def test_unblock(server: FakeRedis, blocking: Reader, deaf: bool) -> None:
    """A reader that comes while it blocks ends that, at the second try if need be."""
    server.deaf = deaf
    server.add(TOO, b"message")
    blocking.inbox.want("too!")
    await until(lambda: blocking.got)
    assert len(server.told["CLIENT UNBLOCK"]) == 1 + deaf
    await works(server, blocking)
    await works(server, blocking, TOO)


async def test_unblock_in_vain(server: FakeRedis, blocking: Reader) -> None:
    """To end what has ended by itself does no harm, nor does it to be forbidden to."""
    server.silent.add("ZCARD")
    server.add(MINE, b"1")
    blocking.inbox.want("too!")
    await until(lambda: server.told["CLIENT UNBLOCK"])
    await turn()
    server.silent.clear()
    server.refuses["CLIENT UNBLOCK"] = ResponseError("NOPERM")
    server.popper.replies.put_nowait(0)
    server.popper.replies.put_nowait(0)
    await until(lambda: len(server.told["BZPOPMIN"]) == 2)
    blocking.inbox.want("third!")
    await until(lambda: len(server.told["CLIENT UNBLOCK"]) == 2)
    await works(server, blocking)
    await works(server, blocking, "asgi:third!")


async def test_no_id(server: FakeRedis, blocking: Reader) -> None:
    """Where it cannot be told of readers either, it looks for them every second."""
    server.refuses["CLIENT ID"] = ResponseError("unknown command")
    blocking.inbox.reconnect()
    await until(lambda: len(server.told["BZPOPMIN"]) == 2)
    server.add(TOO, b"message")
    blocking.inbox.want("too!")
    await turn()
    assert server.told["CLIENT UNBLOCK"] == []
    assert blocking.got == []
    assert server.unblock(server.connections[-1].number)
    await until(lambda: blocking.got)
    assert server.told["BZPOPMIN"][1] == ["BZPOPMIN", MINE, "1.0"]


async def test_block_ends(
    server: FakeRedis, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It blocks again and again while somebody waits, and then tells Redis."""
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.01)
    server.refuses["CLIENT TRACKING"] = REFUSED
    reader.inbox.want("plain")
    await until(lambda: len(server.told["BZPOPMIN"]) == 3)
    server.add("asgi:plain", b"message")
    await until(lambda: reader.got)
    reader.inbox.unwant("plain")
    reader.got[0].give_back()
    reader.inbox.wake()
    await until(lambda: server.leaves)
    assert server.leaves[0].arguments[2:] == ["0", "1000.000000", "message"]
    assert list(server.queues["asgi:plain"]) == [b"message"]
    assert reader.inbox.connects == 1
    assert server.told["PING"] == []


async def test_no_queue(server: FakeRedis, blocking: Reader, logged: Logged) -> None:
    """A key that holds no queue does not keep it from blocking for others."""
    server.wrong.add(TOO)
    blocking.inbox.want("too!")
    await until(logged)
    await works(server, blocking)
    await until(lambda: len(server.told["BZPOPMIN"]) == 3)
    assert blocking.inbox.connects == 1
    # One that goes wrong while it blocks is found when it blocks again.
    blocking.inbox.want("third!")
    await until(lambda: "asgi:third!" in server.popper.blocks)
    server.wrong.add("asgi:third!")
    await works(server, blocking)
    await until(lambda: blocking.inbox.connects == 2)
    await works(server, blocking)
    await until(lambda: server.popper.blocks)
    assert [command[1:-1] for command in server.told["BZPOPMIN"][:5]] == [
        [MINE],
        [MINE],
        [MINE],
        [MINE, "asgi:third!"],
        [MINE, "asgi:third!"],
    ]
    assert server.popper.blocks == [MINE]
    levels = [level for level, _ in logged()]
    assert levels.count(logging.ERROR) == 2
    assert blocking.inbox.connects == 2


async def test_no_reply(
    server: FakeRedis, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not reply when it was to stop blocking is left."""
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.01)
    server.refuses["CLIENT TRACKING"] = REFUSED
    server.silent.add("BZPOPMIN")
    async with reading(server, timeout=0.1) as reader:
        reader.inbox.want("mine!")
        await until(lambda: reader.inbox.failing)
        server.silent.clear()
        await until(lambda: not reader.inbox.failing)
        await works(server, reader)
    assert logged()[1:] == fails("it did not reply for 0.1 seconds")


async def test_late_reply(server: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that has come while the event loop was blocked is read after that."""
    monkeypatch.setattr(inbox_module, "_INTERVAL", 0.01)
    monkeypatch.setattr(inbox_module, "_GRACE", 5)
    server.refuses["CLIENT TRACKING"] = REFUSED
    server.silent.add("BZPOPMIN")
    async with reading(server, timeout=0.1) as reader:
        reader.inbox.want("mine!")
        await until(lambda: server.told["BZPOPMIN"])
        asyncio.get_running_loop().call_soon(time.sleep, 0.2)
        # To read from a socket takes a few turns of the event loop.
        await turn(5)
        server.silent.clear()
        server.popper.replies.put_nowait([MINE.encode(), b"message", b"1000"])
        await until(lambda: reader.got)
        await works(server, reader)
        assert reader.connected == 1
