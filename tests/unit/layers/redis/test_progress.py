"""The time at which a connection last received bytes while redis-py reads a reply."""

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis import _parsers  # pyright: ignore[reportPrivateUsage] # the only place that has it

from fast_channels.layers.redis.hosts import parse_hosts
from fast_channels.layers.redis.progress import Progress, limit_silence
from fast_channels.layers.redis.wire import Connection, plain_connection
from tests.waiting import turn, until

LARGE = [b"message", b"room", b"x" * 300_000]
PACKED = b"*3\r\n$7\r\nmessage\r\n$4\r\nroom\r\n$300000\r\n" + b"x" * 300_000 + b"\r\n"


@pytest.fixture
async def stream() -> asyncio.StreamReader:
    """Give a test the stream that a connection reads from."""
    return asyncio.StreamReader()


@pytest.fixture(params=["_AsyncHiredisParser", "_AsyncRESP2Parser"])
async def connection(
    request: pytest.FixtureRequest, stream: asyncio.StreamReader
) -> Connection:
    """Give a test a connection that is open, as far as reading is concerned."""
    parser = getattr(_parsers, request.param)
    [host] = parse_hosts([{"host": "a", "parser_class": parser}])
    connection: Any = plain_connection(host)
    # As connect() does.
    connection._reader = stream
    connection._parser.on_connect(connection)
    return connection  # type: ignore[no-any-return] # it is one


async def pass_time() -> float:
    """Advance the clock of the event loop, and return its new time."""
    clock = asyncio.get_running_loop().time
    before = clock()
    await until(lambda: clock() > before)
    return clock()


async def read(connection: Connection) -> Any:
    return await connection.read_response(disconnect_on_error=False)


async def test_each_part_of_a_reply_counts_when_it_arrives(
    stream: asyncio.StreamReader, connection: Connection
) -> None:
    """The reply arrives whole."""
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


async def test_without_bytes_the_time_is_that_of_creation(
    connection: Connection,
) -> None:
    progress = Progress(connection)
    made = progress.heard()
    await pass_time()
    assert progress.heard() == made


async def test_bytes_that_are_still_read_count_as_arriving(
    connection: Connection,
) -> None:
    progress = Progress(connection)
    now = await pass_time()
    progress.refresh()
    assert progress.heard() >= now


async def test_a_connection_can_have_two_of_them(
    stream: asyncio.StreamReader, connection: Connection
) -> None:
    first, second = Progress(connection), Progress(connection)
    now = await pass_time()
    stream.feed_data(b"+")
    assert first.heard() == second.heard() >= now


async def test_a_connection_is_freed_without_the_garbage_collector() -> None:
    stream = asyncio.StreamReader()
    freed = weakref.ref(stream)
    connection = SimpleNamespace(_reader=stream)
    progress = Progress(cast("Connection", connection))
    gc.disable()
    try:
        del stream, connection, progress
        assert freed() is None
    finally:
        gc.enable()


async def test_a_connection_that_is_not_open_is_a_bug() -> None:
    [host] = parse_hosts(["redis://:secret@a"])
    with pytest.raises(AssertionError, match="has no stream") as info:
        Progress(plain_connection(host))
    assert "secret" not in str(info.value)


# A limit of silence


async def test_a_block_without_bytes_ends_with_a_timeout(
    connection: Connection,
) -> None:
    progress = Progress(connection)
    with pytest.raises(TimeoutError):
        async with limit_silence(progress, 0.01, grace=0.01):
            await asyncio.get_running_loop().create_future()


async def test_a_block_goes_on_while_bytes_arrive() -> None:
    clock = asyncio.get_running_loop().time
    looks: list[float] = []

    def heard() -> float:
        looks.append(clock())
        return looks[-1]

    progress = cast("Progress", SimpleNamespace(heard=heard))
    async with limit_silence(progress, 0.005, grace=0.01):
        await until(lambda: len(looks) > 3)


async def test_what_arrived_while_the_event_loop_was_blocked_is_read_first(
    stream: asyncio.StreamReader, connection: Connection
) -> None:
    progress = Progress(connection)
    loop = asyncio.get_running_loop()
    async with limit_silence(progress, 0.01, grace=5):
        # By then the time is over, and the block waits only to read what has arrived.
        blocked_until = loop.time() + 0.02
        while loop.time() < blocked_until:
            pass
        await turn()
        stream.feed_data(PACKED)
        assert await read(connection) == LARGE
