"""Workers on a real Redis: stopped, killed, overloaded, and cut off."""

import asyncio
import contextlib
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias, cast

import pytest

from fast_channels.exceptions import ChannelFull
from fast_channels.layers import RedisChannelLayer
from fast_channels.layers.redis.queue.endpoint import QueueEndpoint
from fast_channels.layers.redis.queue.memberships import Timing
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelScope,
)
from fast_channels.worker import Worker
from tests.redis_servers.server import RedisServer
from tests.waiting import until

# Seconds after which a test that would wait forever fails.
LIMIT = 10

Start: TypeAlias = Callable[
    [], contextlib.AbstractAsyncContextManager[asyncio.subprocess.Process]
]
"""Starts a worker as a program."""

# A job reports its start, and ends on request.
PROGRAM = """
import sys
from fast_channels.consumer import AsyncConsumer
from fast_channels.layers import (
    RedisChannelLayer, get_channel_layer, register_channel_layer
)

class Jobs(AsyncConsumer):
    async def job_do(self, message):
        layer = get_channel_layer("queue")
        await layer.send("begun", message)
        await layer.receive("go")
        await layer.send("ended", message)

def set_up():
    register_channel_layer("queue", RedisChannelLayer([{url!r}], {prefix!r}))
"""


@pytest.fixture
async def layer(
    redis_server: RedisServer, prefix: str
) -> AsyncIterator[RedisChannelLayer]:
    """Return the layer that a test uses to send and to follow the jobs."""
    async with (
        asyncio.timeout(LIMIT),
        RedisChannelLayer([redis_server.url], prefix) as layer,
    ):
        yield layer


async def send(layer: RedisChannelLayer, channel: str, *numbers: int) -> None:
    for number in numbers:
        await layer.send(channel, {"type": "job.do", "number": number})


async def numbers(layer: RedisChannelLayer, channel: str, count: int) -> list[int]:
    """Receive a number of messages from a channel."""
    return [(await layer.receive(channel))["number"] for _ in range(count)]


# The command line


@pytest.fixture
def start(redis_server: RedisServer, prefix: str, tmp_path: Path) -> Start:
    """Return a function that starts a worker in a folder with its program."""
    program = PROGRAM.replace("{url!r}", repr(redis_server.url))
    program = program.replace("{prefix!r}", repr(prefix))
    (tmp_path / "program.py").write_text(program)

    @contextlib.asynccontextmanager
    async def start() -> AsyncGenerator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "fast_channels.worker", "program:Jobs", "jobs"],
            *["--setup", "program:set_up", "--layer", "queue", "--concurrency", "1"],
            cwd=tmp_path,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return start


async def test_killed_and_stopped(
    layer: RedisChannelLayer,
    start: Start,
) -> None:
    """After a kill the next worker handles waiting messages; SIGTERM lets it finish."""
    await send(layer, "jobs", 0, 1, 2, 3)
    async with start() as process:
        assert await numbers(layer, "begun", 1) == [0]
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
    async with start() as process:
        assert process.stderr is not None
        assert await numbers(layer, "begun", 1) == [1]
        await send(layer, "go", 0)
        assert await numbers(layer, "begun", 1) == [2]
        process.send_signal(signal.SIGTERM)
        while b" stops: " not in await process.stderr.readline():
            pass
        await send(layer, "go", 0)
        assert await process.wait() == 0
        last = (await process.stderr.read()).splitlines()[-1]
    assert last.endswith(b"has stopped: 2 messages handled, 0 failed, 0 cancelled")
    assert await numbers(layer, "ended", 2) == [1, 2]
    assert await numbers(layer, "jobs", 1) == [3]


# In this process


class Jobs:
    """An application that records its messages, and works until it is released."""

    def __init__(self) -> None:
        self.channels: list[str] = []
        self.numbers: list[int] = []
        self.may_work = asyncio.Event()
        self.may_work.set()
        self.changed = asyncio.Event()

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        message = await receive()
        self.channels.append(scope["channel"])
        self.numbers.append(message["number"])
        self.changed.set()
        await self.may_work.wait()

    async def reach(self, count: int) -> None:
        """Wait until the application has had a number of messages."""
        while len(self.numbers) < count:
            self.changed.clear()
            await self.changed.wait()


@contextlib.asynccontextmanager
async def running(*workers: Worker) -> AsyncGenerator[None]:
    """Run workers in this process, each with its own layer, as processes would."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for worker in workers:
            await worker.channel_layer.close()


async def test_overloaded(
    redis_server: RedisServer, prefix: str, layer: RedisChannelLayer
) -> None:
    """A channel of busy workers fills up; every accepted message is handled once."""
    jobs = Jobs()
    jobs.may_work.clear()
    capacity = 5
    layer.capacity = capacity
    workers = [
        Worker(
            jobs, ["jobs"], RedisChannelLayer([redis_server.url], prefix), concurrency=2
        )
        for _ in range(2)
    ]
    async with running(*workers):
        await send(layer, "jobs", 0, 1, 2, 3)
        await jobs.reach(4)
        assert [worker.statistics()["running"] for worker in workers] == [2, 2]
        await send(layer, "jobs", *range(4, 4 + capacity))
        with pytest.raises(ChannelFull):
            await send(layer, "jobs", -1)
        jobs.may_work.set()
        await jobs.reach(4 + capacity)
    assert Counter(jobs.numbers) == Counter(range(4 + capacity))


async def test_fair_turns(
    redis_server: RedisServer,
    prefix: str,
    layer: RedisChannelLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A channel that is always full does not starve another one."""
    # A short time limit for held messages, as if each job took longer:
    monkeypatch.setattr(QueueEndpoint, "timing", Timing(reader=0.001))
    await send(layer, "first", *range(20))
    await send(layer, "second", *range(20))
    worker_layer = RedisChannelLayer([redis_server.url], prefix)
    channels: list[str] = []

    def count() -> int:
        keys = [f"{prefix}{channel}" for channel in ("first", "second")]
        return sum(cast("int", redis_server.command("ZCARD", key)) for key in keys)

    enough = asyncio.Event()

    async def application(
        scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        channels.append(scope["channel"])
        while await asyncio.to_thread(count) + len(channels) < 40:
            pass
        if len(channels) == 20:
            enough.set()

    worker = Worker(application, ["first", "second"], worker_layer, concurrency=1)
    async with running(worker):
        await enough.wait()
    assert min(Counter(channels)[channel] for channel in ("first", "second")) > 4


async def test_restarted_redis(
    own_redis_server: RedisServer,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A worker waits for Redis; it logs the outage and the recovery once."""
    caplog.set_level("INFO", "fast_channels")
    jobs = Jobs()
    url = own_redis_server.url
    layer = RedisChannelLayer([url], prefix)
    async with asyncio.timeout(LIMIT), running(Worker(jobs, ["jobs"], layer)):
        await send(layer, "jobs", 0)
        await jobs.reach(1)
        await asyncio.to_thread(own_redis_server.kill)
        await asyncio.to_thread(own_redis_server.start)
        async with RedisChannelLayer([url], prefix) as other:
            await send(other, "jobs", 1, 2)
        await jobs.reach(3)
        await until(lambda: caplog.text.count("can be read again") == 1)
    assert caplog.text.count("cannot be read: ") == 1
    assert jobs.numbers == [0, 1, 2]
