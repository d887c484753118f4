"""Another process with members of groups, for the measurements on Redis.

``python -m tests.benchmarks.members LIBRARY KIND URL PREFIX`` writes a line when it
starts. Each line on stdin is a JSON list of an order and arguments, see the methods of
``_Members``; when the order is done, the answer is a line of JSON with the CPU seconds
of this process so far. There are no sockets: each member counts its messages.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator

import uvloop

from .harness import FLAT, Countdown, silence
from .library import Library, Message, load

__all__: list[str] = []

_TIMEOUT = 120
# 200 characters of text, as in many chats.
_CHAT: Message = {"type": "chat.message", "text": "x" * 200}


class _Members:
    """The members in this process, and the orders."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._layer = library.layer
        self._arrived = Countdown()
        self._idle: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, group: str, count: int) -> None:
        """Add a number of new channels to a group, one after the other."""
        for _ in range(count):
            channel = await self._layer.new_channel()
            await self._layer.group_add(group, channel)
            self._idle.append(channel)

    async def listen(self) -> None:
        """Let each channel that has joined count its messages, as a consumer reads."""

        async def dispatch(message: Message) -> None:
            self._arrived.tick()

        while self._idle:
            serving = self._library.serve(silence, self._idle.pop(), dispatch)
            self._tasks.append(asyncio.create_task(serving))
        # As recommended for processes with many connections.
        gc.collect()
        gc.freeze()

    async def expect(self, count: int) -> None:
        """Start counting messages."""
        self._arrived.start(count)

    async def arrive(self) -> None:
        """Wait until the expected number of messages has arrived."""
        async with asyncio.timeout(_TIMEOUT):
            await self._arrived.wait()

    async def send(self, group: str, count: int) -> None:
        """Send a number of short messages to a group, one after the other."""
        for _ in range(count):
            await self._layer.group_send(group, FLAT)

    async def chat(self, group: str, count: int, at_once: int, interval: float) -> None:
        """Send texts to a group, several at once, at an interval in seconds."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number, some in enumerate(_portions(count, at_once)):
            await asyncio.sleep(start + number * interval - loop.time())
            sends = (self._layer.group_send(group, _CHAT) for _ in range(some))
            await asyncio.gather(*sends)

    async def tell(self) -> None:
        """Only answer."""


def _portions(count: int, most: int) -> Iterator[int]:
    for done in range(0, count, most):
        yield min(most, count - done)


async def _main(name: str, kind: str, url: str, prefix: str) -> None:
    # The parent doesn't have to wait for the imports.
    print("{}", flush=True)
    members = _Members(load(name, kind, url, prefix))
    while line := await asyncio.to_thread(sys.stdin.readline):
        order, *arguments = json.loads(line)
        await getattr(members, order)(*arguments)
        print(json.dumps({"cpu": time.process_time()}), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(*sys.argv[1:]))
