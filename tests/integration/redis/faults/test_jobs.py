"""Workers that are killed or stopped, or that a job kills."""

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
# Seconds after which a test that would wait forever fails.
_LIMIT = 60
_ROOT = Path(job_process.__file__).parents[4]


class Ledger:
    """Records of the jobs that a test's workers have done."""

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
    """A worker process."""

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
        """Wait until the process has ended and all of its output is recorded."""
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
    """Starts workers for one channel."""

    def __init__(self, server: RedisServer, prefix: str, most: int) -> None:
        self.ledger = Ledger()
        self._arguments = [server.url, prefix, CHANNEL, str(most)]
        self._all: list[JobWorker] = []

    async def start(self) -> JobWorker:
        """Start a worker, and wait until it takes jobs."""
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
    """Return whether a worker has done some jobs and is working at full capacity."""
    has_done_some = worker.begun.total() > 2 * CONCURRENCY
    return has_done_some and len(worker.at_work) == CONCURRENCY


async def send(layer: RedisChannelLayer, numbers: range, seconds: float) -> None:
    for number in numbers:
        message = {"type": "job.do", "number": number, "seconds": seconds}
        await layer.send(CHANNEL, message)


async def test_jobs_of_killed_workers_are_done_by_others(
    redis_server: RedisServer, prefix: str, make_layer: MakeLayer, storm: Storm
) -> None:
    """When a saturated worker is killed, others do all of its unfinished jobs."""
    layer = make_layer(redis_server, expiry=600)
    kills = storm(short=3, full=100)
    async with working(redis_server, prefix) as workers:
        ledger = workers.ledger
        # Jobs arrive faster than the workers can do them.
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
        # A repeated job was in progress when its worker died, or had only just ended.
        again = sum(count - 1 for count in ledger.begun.values())
        assert again <= at_work.total() + kills * CONCURRENCY


async def test_a_stopped_worker_finishes_its_jobs(
    redis_server: RedisServer, prefix: str, make_layer: MakeLayer
) -> None:
    """A stopped worker finishes its jobs; no job is lost or done twice."""
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


async def test_a_job_that_kills_its_workers_becomes_a_dead_letter(
    redis_server: RedisServer, prefix: str, make_layer: MakeLayer
) -> None:
    """A message that kills every process that takes it is set aside; others are not."""
    layer = make_layer(redis_server, expiry=600)
    poison = {"type": "job.kill", "number": -1}
    async with working(redis_server, prefix, max_deliveries=3) as workers:
        ledger = workers.ledger
        jobs = range(30)
        await send(layer, range(5), 0.2)
        await layer.send(CHANNEL, poison)
        await send(layer, range(5, 30), 0.2)
        # Three workers die of it; a fourth notices that the third has died.
        for _ in range(3):
            await (await workers.start()).has_died()
        await workers.start()
        await ledger.until(lambda: ledger.ended.keys() >= set(jobs))
        async with asyncio.timeout(_LIMIT):
            while not await layer.dead_letters(CHANNEL):  # noqa: ASYNC110 # dead letters have no event
                await asyncio.sleep(0.1)
        assert await layer.dead_letters(CHANNEL) == [poison]
        assert await layer.requeue_dead_letters(CHANNEL) == 1
        assert await layer.dead_letters(CHANNEL) == []
    assert await layer.receive(CHANNEL) == poison
