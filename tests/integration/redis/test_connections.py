"""The command connection with a real server that breaks, freezes or starts late."""

import asyncio
import contextlib
import functools
import gc
import itertools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, TypeAlias

import pytest
import uvloop
from asgiref.sync import async_to_sync
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.per_loop import PerLoop
from fast_channels.layers.redis.commands import CommandConnection
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.proxy import RoundTripProxy
from tests.redis_servers.server import RedisServer, wait_until

_greeting: dict[str, Any] = {}
# redis-py 5 reads its version from a file once; later releases read it for each
# connection, unless it is given.
with contextlib.suppress(ImportError):
    from redis.driver_info import DriverInfo

    _greeting["driver_info"] = DriverInfo()

_PASSWORD = "secret"  # noqa: S105 # of short-lived servers

Main: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
Run: TypeAlias = Callable[[Main], None]

RUNS: dict[str, Run] = {
    "asyncio": lambda main: asyncio.run(main()),
    "uvloop": lambda main: uvloop.run(main()),
    "async_to_sync": lambda main: async_to_sync(main)(),
}
every_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


def connection_to(
    server: RedisServer | RoundTripProxy, *, timeout: float = 5, **options: Any
) -> CommandConnection:
    connect = functools.partial(
        Connection,
        host=server.host,
        port=server.port,
        protocol=2,
        socket_timeout=None,
        socket_connect_timeout=2,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        **_greeting,
        **options,
    )
    return CommandConnection(connect, f"port {server.port}", timeout=timeout)


@contextlib.asynccontextmanager
async def connected(
    server: RedisServer | RoundTripProxy, *, timeout: float = 5, **options: Any
) -> AsyncGenerator[CommandConnection]:
    redis = connection_to(server, timeout=timeout, **options)
    try:
        yield redis
    finally:
        await redis.close()


@pytest.fixture
def trouble(own_redis_server: RedisServer) -> Iterator[RedisServer]:
    """A separate server, which is resumed before it stops."""
    yield own_redis_server
    own_redis_server.resume()


# Round trips


async def test_shared_round_trips(round_trips: RoundTripProxy) -> None:
    """Commands that are sent at once share round trips; a single one takes one."""
    async with connected(round_trips) as redis:
        await redis.execute("PING")
        before = round_trips.round_trips
        for number in range(10):
            assert await redis.execute("ECHO", number) == str(number).encode()
        assert round_trips.round_trips - before == 10
        before = round_trips.round_trips
        names = [b"%d" % number for number in range(2000)]
        replies = [asyncio.create_task(redis.execute("ECHO", name)) for name in names]
        assert await asyncio.gather(*replies) == names
        assert 1 <= round_trips.round_trips - before <= 20
        assert redis.connects == 1


async def test_cancel_storm(redis_server: RedisServer) -> None:
    """Cancelling hundreds of commands, sent or not, does not affect the others."""
    async with connected(redis_server) as redis:
        await redis.execute("PING")
        tasks = [
            asyncio.create_task(redis.execute("ECHO", number)) for number in range(1000)
        ]
        for task in tasks[:400:2]:
            task.cancel()
        # The others are written now.
        await asyncio.sleep(0)
        for task in tasks[400::2]:
            task.cancel()
        await asyncio.wait(tasks)
        kept = tasks[1::2]
        assert [task.result() for task in kept] == [
            str(number).encode() for number in range(1, 1000, 2)
        ]
        assert await redis.execute("ECHO", "on") == b"on"
        assert redis.connects == 1


# Connections that break


@every_run
def test_killed_clients(trouble: RedisServer, run: Run) -> None:
    """Each command gets its own reply or fails, however often the connection breaks."""
    kills = 50
    over = threading.Event()
    numbers = itertools.count()
    got: list[bool] = []

    async def send(redis: CommandConnection) -> None:
        while not over.is_set():
            number = next(numbers)
            try:
                reply = await redis.execute("ECHO", number)
            except RedisUnavailable:
                got.append(False)
            else:
                assert reply == str(number).encode()
                got.append(True)

    def wait_for_more(count: int) -> None:
        enough = len(got) + count
        wait_until(lambda: len(got) > enough, "commands get replies", 10)

    def kill() -> None:
        try:
            for _ in range(kills):
                # Only a connection that is in use breaks a command.
                wait_for_more(50)
                trouble.kill_clients()
        finally:
            over.set()

    async def main() -> None:
        async with connected(trouble) as redis:
            await asyncio.gather(
                asyncio.to_thread(kill), *(send(redis) for _ in range(20))
            )
            await recovered(redis)
            assert redis.connects > kills / 2

    run(main)
    assert sum(got) > kills


async def test_restarted_server(trouble: RedisServer) -> None:
    """A restarted server is used again, and commands wait meanwhile."""
    async with connected(trouble) as redis:
        await redis.execute("PING")
        await asyncio.to_thread(trouble.kill)
        await until_gone(redis)
        waiting = [redis.submit("ECHO", name) for name in "ab"]
        await asyncio.to_thread(trouble.start)
        assert [await reply for reply in waiting] == [b"a", b"b"]
        assert redis.connects == 2


async def recovered(redis: CommandConnection) -> None:
    """Wait until a command gets its reply again."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(RedisUnavailable):
                assert await redis.execute("ECHO", "on") == b"on"
                return


async def until_gone(redis: CommandConnection) -> None:
    """Wait until the connection has noticed that the server is gone."""
    while redis.connected:  # noqa: ASYNC110 # it has no event
        await asyncio.sleep(0.001)


async def test_paused_server(trouble: RedisServer) -> None:
    """With a frozen server commands fail in time; a resumed server is used again."""
    async with connected(trouble, timeout=0.3) as redis:
        await redis.execute("PING")
        await asyncio.to_thread(trouble.pause)
        # The first command was written; the second connects, but gets no reply.
        for _ in range(2):
            async with asyncio.timeout(5):
                with pytest.raises(RedisUnavailable, match=r"^port \d+ is not") as info:
                    await redis.execute("PING")
            assert isinstance(info.value.__cause__, TimeoutError)
        await asyncio.to_thread(trouble.resume)
        await recovered(redis)


async def test_server_that_stops_reading(trouble: RedisServer) -> None:
    """Megabytes for a frozen server, which fill all buffers, also fail in time."""
    async with connected(trouble, timeout=0.3) as redis:
        await redis.execute("PING")
        await asyncio.to_thread(trouble.pause)
        async with asyncio.timeout(10):
            with pytest.raises(RedisUnavailable):
                await redis.execute("ECHO", bytes(30_000_000))
        await asyncio.to_thread(trouble.resume)
        await recovered(redis)


async def test_late_server(trouble: RedisServer) -> None:
    """With a server that is down commands fail in time, and work once it starts."""
    await asyncio.to_thread(trouble.kill)
    async with connected(trouble, timeout=0.2) as redis:
        async with asyncio.timeout(5):
            with pytest.raises(RedisUnavailable, match=r"is not available: \w"):
                await redis.execute("PING")
        assert redis.connects == 0
        await asyncio.to_thread(trouble.start)
        await recovered(redis)


# Nothing is left


@every_run
def test_many_loops(
    trouble: RedisServer, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred loops, one after the other, leave no connection and no warning."""
    caplog.set_level("WARNING")
    left: set[asyncio.Task[object]] = set()
    states = PerLoop(lambda: connection_to(trouble), CommandConnection.close)

    async def main() -> None:
        redis = states.get()
        assert await redis.execute("ECHO", "on") == b"on"
        # The loop ends before this command gets its reply.
        left.add(asyncio.create_task(redis.execute("ECHO", "left")))
        await asyncio.sleep(0)

    for _ in range(100):
        run(main)
        assert states.peek() == []
    wait_until(lambda: trouble.clients() == [], "all connections are closed", 5)
    assert all(task.cancelled() for task in left)
    left.clear()
    gc.collect()
    assert caplog.messages == []


# Options for redis-py's connection


async def test_password_and_db(redis_binary: ServerBinary) -> None:
    """The password and the database are passed to redis-py."""
    with RedisServer(redis_binary, password=_PASSWORD) as server:
        async with connected(server, password=_PASSWORD, db=3) as redis:
            await redis.execute("SET", "key", "value")
            assert await redis.execute("GET", "key") == b"value"
        async with connected(server, password=_PASSWORD) as redis:
            assert await redis.execute("GET", "key") is None
        wrong: list[dict[str, Any]] = [
            {},
            {"password": "wrong"},
            {"password": _PASSWORD, "db": 99},
        ]
        for options in wrong:
            async with asyncio.timeout(3), connected(server, **options) as redis:
                with pytest.raises(RedisUnavailable, match=r"is not available"):
                    await redis.execute("PING")
