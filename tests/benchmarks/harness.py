"""What the measures drive consumers with, and take their times with."""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

from .library import Library, Message

__all__ = ["FLAT", "Countdown", "Recorder", "connect", "end", "settle", "silence"]

FLAT: Message = {"type": "chat.message", "room": "lobby", "number": 1, "text": "Hi"}


class Recorder:
    """Repeats each measurement for at least so many seconds, and keeps the median."""

    def __init__(self, seconds: float) -> None:
        self.results: dict[str, float] = {}
        self._seconds = seconds

    async def add(self, name: str, step: Callable[[], Awaitable[float]]) -> None:
        """Repeat a step that returns what it measures."""
        gc.collect()
        values: list[float] = []
        enough = time.perf_counter() + self._seconds
        while len(values) < 3 or time.perf_counter() < enough:
            values.append(await step())
        self.results[name] = statistics.median(values)


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
