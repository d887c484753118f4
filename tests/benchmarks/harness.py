"""Tools of the measurements: timing, counting commands, and driving consumers."""

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
    """Repeats each measurement for a minimum of seconds, and keeps the median."""

    def __init__(self, seconds: float) -> None:
        self.results: dict[str, float] = {}
        self._seconds = seconds

    async def add(self, name: str, step: Callable[[], Awaitable[float]]) -> None:
        """Repeat a step that returns its measurement."""
        await self.add_all({name: step})

    async def add_all(
        self, steps: Mapping[str, Callable[[], Awaitable[float]]]
    ) -> None:
        """Repeat several steps in turns, to compare them."""
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
    """Return the CPU seconds per operation of some work."""
    start = time.process_time()
    await work
    return (time.process_time() - start) / count


@dataclass(frozen=True)
class Setting:
    """The setting of all measurements on Redis."""

    library: Library
    kind: str
    recorder: Recorder
    connect: Callable[[], Connection]
    """Opens another connection, to inspect the server."""
    server: Connection
    """A connection to prepare the server."""
    prefix: str
    """The prefix of all keys."""
    sender: Process
    """The other process."""
    sizes: Sequence[int]
    """The sizes of groups."""

    @property
    def layer(self) -> Layer:
        """The layer under measurement."""
        return self.library.layer

    async def add(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        count: int,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        """Measure the CPU time and the commands of a number of operations."""

        async def step() -> float:
            prepare()
            return await cpu(work(), count)

        await self.recorder.add(name, step)
        prepare()
        sent, run = await self._commands(work)
        self.recorder.results[f"{name}, sent"] = sent / count
        self.recorder.results[f"{name}, run"] = run / count

    async def _commands(self, work: Callable[[], Awaitable[None]]) -> tuple[int, int]:
        """Return the numbers of commands sent and run meanwhile."""
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
    """Can be awaited until a number of ticks."""

    def __init__(self) -> None:
        self._left = 0
        self._done = asyncio.get_running_loop().create_future()

    def start(self, count: int) -> None:
        """Expect a number of ticks from now on."""
        self._left = count
        self._done = asyncio.get_running_loop().create_future()

    def tick(self) -> None:
        """Count a tick."""
        self._left -= 1
        if not self._left:
            self._done.set_result(None)

    async def wait(self) -> None:
        """Wait until the last tick."""
        await self._done


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(3):
        await asyncio.sleep(0)


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel the tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def silence() -> Message:
    """Wait forever, as for an idle client."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("this future is never resolved")


async def connect(
    library: Library, count: int, countdown: Countdown, joined: Sequence[str] = ()
) -> tuple[list[asyncio.Task[None]], list[str]]:
    """Return the tasks and the channels of a number of connected, idle consumers.

    Each is in the given groups. The countdown ticks for every ``chat.message``.
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
