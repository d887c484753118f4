"""Jobs whose workers are killed, stopped, or killed by the jobs themselves."""

import asyncio
import contextlib
import functools
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from fast_channels.layers import RedisChannelLayer
from tests.redis_servers.server import RedisServer

from . import job_process
from .conftest import MakeLayer, Storm
from .job_process import CONCURRENCY

CHANNEL = "jobs"
# After so many seconds a test fails that would wait for ever.
_LIMIT = 60
_ROOT = Path(job_process.__file__).parents[4]


class Ledger:
    """What the workers of a test have done."""

    def __init__(self) -> None:
        self.begun = Counter[int]()
        self.ended = Counter[int]()
        self._news = asyncio.Event()

    def note(self, line: str) -> None:
        what, number = line.split()
        (self.begun if what == "begun" else self.ended)[int(number)] += 1
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_LIMIT):
            while not condition():
                self._news.clear()
                await self._news.wait()


class JobWorker:
    """A process that does jobs."""

    def __init__(self, process: asyncio.subprocess.Process, ledger: Ledger) -> None:
        self.begun = Counter[int]()
        self.ended = Counter[int]()
        self._process = process
        self._ledger = ledger
        self._reading = asyncio.create_task(self._read())

    @property
    def at_work(self) -> Counter[int]:
        """The jobs that it has begun and not ended."""
        return self.begun - self.ended

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def has_died(self) -> None:
        """Wait until the process is gone, and all that it has said is noted."""
        async with asyncio.timeout(_LIMIT):
            await self._process.wait()
            await self._reading

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self.has_died()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if line.endswith(b"\n"):
                what, number = line.decode().split()
                (self.begun if what == "begun" else self.ended)[int(number)] += 1
                self._ledger.note(line.decode())


class Workers:
    """Starts workers of one channel."""

    def __init__(self, server: RedisServer, prefix: str, most: int) -> None:
        self.ledger = Ledger()
        self._arguments = [server.url, prefix, CHANNEL, str(most)]
        self._all: list[JobWorker] = []

    async def start(self) -> JobWorker:
        """Start one, and wait until it takes jobs."""
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", f"{__package__}.job_process", *self._arguments],
            cwd=_ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(_LIMIT):
            assert await process.stdout.readline() == b"ready\n"
        self._all.append(JobWorker(process, self.ledger))
        return self._all[-1]

    async def close(self) -> None:
        for worker in self._all:
            await worker.kill()


@contextlib.asynccontextmanager
async def working(
    server: RedisServer, prefix: str, max_deliveries: int = 0
) -> AsyncGenerator[Workers]:
    workers = Workers(server, prefix, max_deliveries)
    try:
        yield workers
    finally:
        await workers.close()


def is_saturated(worker: JobWorker) -> bool:
    """Return whether a worker has done some jobs, and does as many as it can."""
    has_done_some = worker.begun.total() > 2 * CONCURRENCY
    return has_done_some and len(worker.at_work) == CONCURRENCY


async def send(layer: RedisChannelLayer, numbers: range, seconds: float) -> None:
    for number in numbers:
        message = {"type": "job.do", "number": number, "seconds": seconds}
        await layer.send(CHANNEL, message)


async def test_workers_that_are_killed(
    redis_server: RedisServer, prefix: str, make_layer: MakeLayer, storm: Storm
) -> None:
    """All that a saturated worker was doing is done by others when it is killed."""
    layer = make_layer(redis_server, expiry=600)
    kills = storm(short=3, full=100)
    async with working(redis_server, prefix) as workers:
        ledger = workers.ledger
        # A backlog: there is always more to do than workers can.
        jobs = range(40 * kills)
        await send(layer, jobs, 0.05)
        at_work = Counter[int]()
        for _ in range(kills):
            victim = await workers.start()
            await ledger.until(functools.partial(is_saturated, victim))
            await victim.kill()
            at_work += victim.at_work
        assert len(at_work) >= CONCURRENCY
        await workers.start()
        await workers.start()
        await ledger.until(lambda: ledger.ended.keys() >= set(jobs))
        # What was begun again was at work, or had ended in the last moment.
        again = sum(count - 1 for count in ledger.begun.values())
        assert again <= at_work.total() + kills * CONCURRENCY


async def test_a_worker_that_is_stopped(
    redis_server: RedisServer, prefix: str, make_layer: MakeLayer
) -> None:
    """A worker that is stopped ends what it does; nothing is lost or done twice."""
    layer = make_layer(redis_server, expiry=600)
    async with working(redis_server, prefix) as workers:
        ledger = workers.ledger
        jobs = range(300)
        await send(layer, jobs, 0.02)
        for _ in range(5):
            worker = await workers.start()
            await ledger.until(functools.partial(is_saturated, worker))
            worker.signal(signal.SIGTERM)
            await worker.has_died()
        await workers.start()
        await ledger.until(lambda: ledger.ended.keys() >= set(jobs))
        assert ledger.begun == ledger.ended == Counter(jobs)


async def test_a_job_that_kills_its_workers(
    redis_server: RedisServer, prefix: str, make_layer: MakeLayer
) -> None:
    """A message that kills each process that takes it is set aside; others are not."""
    layer = make_layer(redis_server, expiry=600)
    poison = {"type": "job.kill", "number": -1}
    async with working(redis_server, prefix, max_deliveries=3) as workers:
        ledger = workers.ledger
        jobs = range(30)
        await send(layer, range(5), 0.2)
        await layer.send(CHANNEL, poison)
        await send(layer, range(5, 30), 0.2)
        # Three deliveries, and one worker that finds out that the third has died.
        for _ in range(3):
            await (await workers.start()).has_died()
        await workers.start()
        await ledger.until(lambda: ledger.ended.keys() >= set(jobs))
        async with asyncio.timeout(_LIMIT):
            while not await layer.dead_letters(CHANNEL):  # noqa: ASYNC110 # no event
                await asyncio.sleep(0.1)
        assert await layer.dead_letters(CHANNEL) == [poison]
        assert await layer.requeue_dead_letters(CHANNEL) == 1
        assert await layer.dead_letters(CHANNEL) == []
    assert await layer.receive(CHANNEL) == poison
