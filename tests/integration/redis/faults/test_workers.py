"""Several processes that share the messages of one plain channel."""

import asyncio
import contextlib
import random
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from fast_channels.layers import RedisChannelLayer
from tests.redis_servers.server import RedisServer

from . import worker_process
from .conftest import MakeLayer, Storm
from .traffic import LIMIT, Ledger, Traffic, to_channel

CHANNEL = "tasks"
_PROGRAM = Path(worker_process.__file__)
_ROOT = _PROGRAM.parents[4]


class Worker:
    """A process that receives; its output goes to a ledger shared by all workers."""

    def __init__(self, process: asyncio.subprocess.Process, ledger: Ledger) -> None:
        self.numbers = Counter[int]()
        self._process = process
        self._ledger = ledger
        self._reading: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Wait until it runs, and read its output from then on."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LIMIT):
            assert await self._process.stdout.readline() == b"ready\n"
        self._reading = asyncio.create_task(self._read(self._process.stdout))

    async def ended(self) -> None:
        """Wait until it has ended without an error."""
        assert self._reading is not None
        async with asyncio.timeout(LIMIT):
            await self._reading
            assert await self._process.wait() == 0

    async def kill(self) -> None:
        """End it as the kernel does when memory runs out."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def _read(self, lines: asyncio.StreamReader) -> None:
        async for line in lines:
            if line.endswith(b"\n"):
                number = int(line)
                self.numbers[number] += 1
                self._ledger.note({"type": "number", "number": number})


class Workers:
    """Starts workers."""

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self.ledger = Ledger()
        self._arguments = [server.url, prefix, CHANNEL]
        self._all: list[Worker] = []

    async def start(self, count: int) -> list[Worker]:
        """Start more workers, and wait until they receive."""
        started = [await self._start() for _ in range(count)]
        for worker in started:
            await worker.begin()
        return started

    async def close(self) -> None:
        """Kill the remaining workers."""
        for worker in self._all:
            await worker.kill()

    async def _start(self) -> Worker:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", f"{__package__}.worker_process", *self._arguments],
            cwd=_ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        self._all.append(Worker(process, self.ledger))
        return self._all[-1]


@contextlib.asynccontextmanager
async def working(server: RedisServer, prefix: str) -> AsyncGenerator[Workers]:
    workers = Workers(server, prefix)
    try:
        yield workers
    finally:
        await workers.close()


async def test_each_message_goes_to_one_worker(
    redis_server: RedisServer, prefix: str, make_layer: MakeLayer, storm: Storm
) -> None:
    """Four workers that share a channel get each message once, and each gets some."""
    send = to_channel(make_layer(redis_server), CHANNEL)
    async with working(redis_server, prefix) as workers:
        four = await workers.start(4)
        async with Traffic(send) as traffic:
            await traffic.reaches(storm(short=2000, full=20_000))
        await workers.ledger.holds(traffic.acknowledged)
        for _ in four:
            await send({"type": "end"})
        for worker in four:
            await worker.ended()
            assert worker.numbers
        assert workers.ledger.counts == Counter(traffic.acknowledged)


def some_more(ledger: Ledger) -> Callable[[], bool]:
    """Return a condition that holds after a random number of messages."""
    goal = ledger.counts.total() + random.randrange(1, 300)
    return lambda: ledger.counts.total() >= goal


async def test_messages_of_a_killed_worker_go_to_others(
    redis_server: RedisServer, prefix: str, make_layer: MakeLayer, storm: Storm
) -> None:
    """Other workers get the messages of a killed one; only these come twice."""
    send = to_channel(make_layer(redis_server), CHANNEL)
    killed = Counter[int]()
    async with working(redis_server, prefix) as workers:
        running = await workers.start(4)
        async with Traffic(send) as traffic:
            for _ in range(storm(short=3, full=15)):
                # Enough messages that each worker holds some when one is killed.
                await traffic.burst(2000)
                await workers.ledger.until(some_more(workers.ledger))
                victim = running.pop(0)
                await victim.kill()
                killed += victim.numbers
                running += await workers.start(1)
        await workers.ledger.holds(traffic.acknowledged)
        for _ in running:
            await send({"type": "end"})
        for worker in running:
            await worker.ended()
        # Once by the survivors, whatever the dead have printed before.
        assert max((workers.ledger.counts - killed).values()) == 1


async def test_a_message_for_a_closing_receiver_goes_to_another(
    redis_server: RedisServer, make_layer: MakeLayer, storm: Storm
) -> None:
    """A message that arrives while its receiver closes goes to another receiver."""
    sender = make_layer(redis_server)
    received: list[int] = []

    async def receive(layer: RedisChannelLayer) -> None:
        while True:
            received.append((await layer.receive(CHANNEL))["number"])

    count = storm(short=100, full=2000)
    for number in range(count):
        layer = make_layer(redis_server)
        receiving = asyncio.create_task(receive(layer))
        await sender.send(CHANNEL, {"type": "number", "number": -1})
        async with asyncio.timeout(LIMIT):
            while -1 not in received:  # noqa: ASYNC110 # a queue has no events
                await asyncio.sleep(0)
        received.remove(-1)
        sending = asyncio.create_task(
            sender.send(CHANNEL, {"type": "number", "number": number})
        )
        # At a different moment each time.
        for _ in range(number % 20):
            await asyncio.sleep(0)
        await asyncio.gather(layer.close(), sending)
        receiving.cancel()
        await asyncio.wait([receiving])
    async with asyncio.timeout(LIMIT):
        last = make_layer(redis_server)
        while len(received) < count:
            received.append((await last.receive(CHANNEL))["number"])
    assert sorted(received) == list(range(count))
