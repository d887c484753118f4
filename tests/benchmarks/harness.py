"""What the measures take times and count commands with, and drive consumers with."""

import asyncio
import gc
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.redis_servers.resp import Connection

from .library import Layer, Library, Message
from .processes import Process

__all__ = [
    "FLAT",
    "NESTED",
    "Countdown",
    "Recorder",
    "Setting",
    "connect",
    "cpu",
    "end",
    "settle",
    "silence",
]

FLAT: Message = {"type": "chat.message", "room": "lobby", "number": 1, "text": "Hi"}
NESTED: Message = {
    "type": "chat.message",
    "user": {"id": 7, "name": "Ada", "roles": ["admin", "staff"]},
    "items": [{"id": i, "text": f"item {i}"} for i in range(5)],
}


class Recorder:
    """Repeats each measurement for at least so many seconds, and keeps the median."""

    def __init__(self, seconds: float) -> None:
        self.results: dict[str, float] = {}
        self._seconds = seconds

    async def add(self, name: str, step: Callable[[], Awaitable[float]]) -> None:
        """Repeat a step that returns what it measures."""
        await self.add_all({name: step})

    async def add_all(
        self, steps: Mapping[str, Callable[[], Awaitable[float]]]
    ) -> None:
        """Repeat several steps in turns, as they are to be compared."""
        gc.collect()
        values: dict[str, list[float]] = {name: [] for name in steps}
        enough = time.perf_counter() + self._seconds * len(steps)
        while True:
            for name, step in steps.items():
                values[name].append(await step())
            if time.perf_counter() >= enough:
                break
        for name, measured in values.items():
            self.results[name] = statistics.median(measured)


async def cpu(work: Awaitable[object], count: int = 1) -> float:
    """Return the CPU seconds that something takes, of which there are so many."""
    start = time.process_time()
    await work
    return (time.process_time() - start) / count


@dataclass(frozen=True)
class Setting:
    """Where everything on Redis is measured."""

    library: Library
    kind: str
    recorder: Recorder
    connect: Callable[[], Connection]
    """Opens another connection to look at the server with."""
    server: Connection
    """To prepare the server."""
    prefix: str
    """What the names of all keys begin with."""
    sender: Process
    """The other process."""
    sizes: Sequence[int]
    """How many are in groups."""

    @property
    def layer(self) -> Layer:
        """The layer that is measured."""
        return self.library.layer

    async def add(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        count: int,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        """Measure some work, which is so many operations: their CPU, and commands."""

        async def step() -> float:
            prepare()
            return await cpu(work(), count)

        await self.recorder.add(name, step)
        prepare()
        sent, run = await self._commands(work)
        self.recorder.results[f"{name}, sent"] = sent / count
        self.recorder.results[f"{name}, run"] = run / count

    async def _commands(self, work: Callable[[], Awaitable[None]]) -> tuple[int, int]:
        """Return how many commands were sent meanwhile, and how many have run."""
        sent = run = 0
        stop = secrets.token_hex(8)
        with self.connect() as monitor:
            monitor.command("MONITOR")
            await work()
            self.server.command("ECHO", stop)
            while stop not in (line := str(monitor.read())):
                run += 1
                # The others are run by scripts.
                sent += " lua] " not in line.partition('"')[0]
        return sent, run


class Countdown:
    """Is waited for until so many things have happened."""

    def __init__(self) -> None:
        self._left = 0
        self._done = asyncio.get_running_loop().create_future()

    def start(self, count: int) -> None:
        """Expect so many from now on."""
        self._left = count
        self._done = asyncio.get_running_loop().create_future()

    def tick(self) -> None:
        """Count one."""
        self._left -= 1
        if not self._left:
            self._done.set_result(None)

    async def wait(self) -> None:
        """Wait until the last one has happened."""
        await self._done


async def settle() -> None:
    """Let every task go on until it waits for something."""
    for _ in range(3):
        await asyncio.sleep(0)


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel the tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def silence() -> Message:
    """Be the client that says nothing."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody resolves that future")


async def connect(
    library: Library, count: int, countdown: Countdown, joined: Sequence[str] = ()
) -> tuple[list[asyncio.Task[None]], list[str]]:
    """Return the tasks and the channels of so many connected, idle consumers.

    Each has joined these groups. The countdown ticks for every ``chat.message``.
    """
    channels: list[str] = []

    class Idle:
        groups = list(joined)
        channel_name: str
        accept: Callable[[], Awaitable[None]]

        async def connect(self) -> None:
            await self.accept()
            channels.append(self.channel_name)
            countdown.tick()

        async def chat_message(self, message: Message) -> None:
            countdown.tick()

    application = library.application(Idle, with_layer=True)
    loop = asyncio.get_running_loop()

    async def send(message: Message) -> None:
        pass

    def serve() -> asyncio.Task[None]:
        events: list[Message] = [{"type": "websocket.connect"}]

        async def receive() -> Message:
            if not events:
                await loop.create_future()
            return events.pop()

        return asyncio.create_task(application({"type": "websocket"}, receive, send))

    countdown.start(count)
    tasks = [serve() for _ in range(count)]
    await countdown.wait()
    await settle()
    return tasks, channels
