"""When a connection has last received bytes, while redis-py reads a reply."""

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis import _parsers  # pyright: ignore[reportPrivateUsage] # nowhere else
from redis.asyncio.connection import AbstractConnection

from fast_channels.layers.redis import progress as module
from fast_channels.layers.redis.hosts import parse_hosts
from fast_channels.layers.redis.progress import Progress, limit_silence
from fast_channels.layers.redis.wire import plain_connection
from tests.waiting import turn, until

LARGE = [b"message", b"room", b"x" * 300_000]
PACKED = b"*3\r\n$7\r\nmessage\r\n$4\r\nroom\r\n$300000\r\n" + b"x" * 300_000 + b"\r\n"


@pytest.fixture
async def stream() -> asyncio.StreamReader:
    """Give a test what a connection reads from."""
    return asyncio.StreamReader()


@pytest.fixture(params=["_AsyncHiredisParser", "_AsyncRESP2Parser"])
async def connection(
    request: pytest.FixtureRequest, stream: asyncio.StreamReader
) -> AbstractConnection:
    """Give a test a connection that is open, as far as reading goes."""
    parser = getattr(_parsers, request.param)
    [host] = parse_hosts([{"host": "a", "parser_class": parser}])
    connection: Any = plain_connection(host)
    # As connect() does.
    connection._reader = stream
    connection._parser.on_connect(connection)
    return connection  # type: ignore[no-any-return] # it is one


async def pass_time() -> float:
    """Let the clock of the event loop go on, and return what it shows then."""
    clock = asyncio.get_running_loop().time
    before = clock()
    await until(lambda: clock() > before)
    return clock()


async def read(connection: AbstractConnection) -> Any:
    return cast("Any", await connection.read_response(disconnect_on_error=False))


async def test_parts_of_a_reply(
    stream: asyncio.StreamReader, connection: AbstractConnection
) -> None:
    """Each part of a reply counts when it arrives, and the reply comes out whole."""
    begun = await pass_time()
    progress = Progress(connection)
    first = progress.heard()
    assert first >= begun
    reading = asyncio.create_task(read(connection))
    third = len(PACKED) // 3
    for start in range(0, len(PACKED), third):
        assert not reading.done()
        now = await pass_time()
        assert progress.heard() < now
        stream.feed_data(PACKED[start : start + third])
        assert progress.heard() >= now
        await turn()
    assert await reading == LARGE


async def test_silence(connection: AbstractConnection) -> None:
    """Without bytes it is the time when it was made, however long that is ago."""
    progress = Progress(connection)
    made = progress.heard()
    await pass_time()
    assert progress.heard() == made


async def test_two_of_one_connection(
    stream: asyncio.StreamReader, connection: AbstractConnection
) -> None:
    """Whatever uses a connection may have one of its own."""
    first, second = Progress(connection), Progress(connection)
    now = await pass_time()
    stream.feed_data(b"+")
    assert first.heard() == second.heard() >= now


async def test_leaves_no_cycle() -> None:
    """A connection that is dropped is freed at once, without the garbage collector."""
    stream = asyncio.StreamReader()
    freed = weakref.ref(stream)
    connection = SimpleNamespace(_reader=stream)
    progress = Progress(cast("AbstractConnection", connection))
    gc.disable()
    try:
        del stream, connection, progress
        assert freed() is None
    finally:
        gc.enable()


async def test_connection_that_is_not_open() -> None:
    """A connection without a stream is a fault, and its error says what it may be."""
    [host] = parse_hosts(["redis://:secret@a"])
    with pytest.raises(AssertionError, match="has no stream") as info:
        Progress(plain_connection(host))
    assert "secret" not in str(info.value)


# A limit of silence


async def test_silence_ends_a_block(connection: AbstractConnection) -> None:
    """A block in which nothing is heard for too long raises TimeoutError."""
    progress = Progress(connection)
    with pytest.raises(TimeoutError):
        async with limit_silence(progress, 0.01):
            await asyncio.get_running_loop().create_future()


async def test_a_reply_that_takes_long() -> None:
    """A block goes on while bytes arrive, also for several times the limit."""
    clock = asyncio.get_running_loop().time
    looks: list[float] = []

    def heard() -> float:
        looks.append(clock())
        return looks[-1]

    async with limit_silence(cast("Progress", SimpleNamespace(heard=heard)), 0.005):
        await until(lambda: len(looks) > 3)


async def test_a_blocked_event_loop(
    stream: asyncio.StreamReader,
    connection: AbstractConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What has arrived while the event loop was blocked is read before it counts."""
    monkeypatch.setattr(module, "_GRACE", 5)
    progress = Progress(connection)
    loop = asyncio.get_running_loop()
    async with limit_silence(progress, 0.01):
        # By then its time is over, and it waits for what is there to be read.
        blocked_until = loop.time() + 0.02
        while loop.time() < blocked_until:
            pass
        await turn()
        stream.feed_data(PACKED)
        assert await read(connection) == LARGE
