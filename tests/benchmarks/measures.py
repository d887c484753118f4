"""The measurements in memory, of this interpreter's library.

``python -m tests.benchmarks.measures fast_channels 0.3`` takes each measurement for at
least 0.3 seconds, and writes them to stdout as JSON: times in seconds, and memory in
bytes and tasks. Each time is the median of its repetitions.
"""

import asyncio
import functools
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

from .harness import FLAT, NESTED, Countdown, Recorder, connect, end, settle, silence
from .library import Application, Layer, Library, Message, load

_FRAMES = 500
_IDLE = 100
_MEMBERS = 1000


async def measure(library: Library, seconds: float) -> dict[str, float]:
    """Take all measurements, each for about this long."""
    recorder = Recorder(seconds)
    add = recorder.add
    await add("frame", lambda: _frame(library.application(_Echo)))
    await add(
        "frame, layer", lambda: _frame(library.application(_Echo, with_layer=True))
    )
    await add("frame, by hand", lambda: _frame(_echo_by_hand))
    await _add_events(library, recorder)
    for name, message in (("flat", FLAT), ("nested", NESTED)):
        group = await _Group.of(library.new_layer())
        await add(f"group_receive, {name}", functools.partial(group.deliver, message))
        await group.send(message, receive=False)
        await add(f"group_send, {name}", functools.partial(group.send, message))
    return recorder.results | await _idle(library)


# A frame


class _Echo:
    send: Callable[..., Awaitable[None]]

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.send(text_data=text_data)


async def _echo_by_hand(scope: Message, receive: Any, send: Any) -> None:
    """Do the same as ``_Echo`` with as little code as possible."""

    async def handler(message: Message) -> None:
        if message["type"] == "websocket.disconnect":
            raise EOFError
        await send({"type": "websocket.send", "text": message["text"]})

    await receive()
    try:
        while True:
            await handler(await receive())
    except EOFError:
        pass


async def _frame(application: Application) -> float:
    """Return the time to receive a frame, handle it and send one.

    The frame arrives as from a server: ``receive()`` waits for a future, which another
    callback of the event loop resolves. Sending does nothing.
    Channels first checks, in a thread, for database connections to close before it
    handles each message; this is included, as its users wait for it.
    """
    loop = asyncio.get_running_loop()
    frames = iter(range(_FRAMES))
    events: list[Message] = [{"type": "websocket.connect"}]

    async def receive() -> Message:
        if events:
            return events.pop()
        arrival: asyncio.Future[None] = loop.create_future()
        loop.call_soon(arrival.set_result, None)
        await arrival
        if next(frames, None) is None:
            return {"type": "websocket.disconnect", "code": 1000}
        return {"type": "websocket.receive", "text": "Hi"}

    async def send(message: Message) -> None:
        pass

    start = time.perf_counter()
    await application({"type": "websocket"}, receive, send)
    return (time.perf_counter() - start) / _FRAMES


# An event


async def _add_events(library: Library, recorder: Recorder) -> None:
    """Measure the cost of an event that wakes an idle consumer.

    There are a hundred consumers, so that one turn of the event loop is a small part
    of it. All of them wait, for their client and for their channel; each is sent one
    message through the in-memory layer; the time ends when all handlers have run and
    all consumers wait again.

    "loop" is only the loop of a consumer: fast_channels' dispatch loop,
    Channels' ``await_many_dispatch``; the handler only counts. "event" is a whole
    consumer.
    """
    layer, handled = library.layer, Countdown()

    async def dispatch(message: Message) -> None:
        handled.tick()

    async def wake(channels: list[str]) -> float:
        handled.start(_IDLE)
        start = time.perf_counter()
        for channel in channels:
            await layer.send(channel, FLAT)
        await handled.wait()
        await settle()
        return (time.perf_counter() - start) / _IDLE

    channels = [await layer.new_channel() for _ in range(_IDLE)]
    tasks = [
        asyncio.create_task(library.serve(silence, channel, dispatch))
        for channel in channels
    ]
    await settle()
    await recorder.add("loop", functools.partial(wake, channels))
    await end(tasks)

    tasks, channels = await connect(library, _IDLE, handled)
    await recorder.add("event", functools.partial(wake, channels))
    await end(tasks)


# A group


class _Group:
    """A thousand channels in a group of an in-memory layer; no consumers."""

    def __init__(self, layer: Layer, channels: list[str]) -> None:
        self._layer = layer
        self._channels = channels

    @classmethod
    async def of(cls, layer: Layer) -> "_Group":
        channels = [await layer.new_channel() for _ in range(_MEMBERS)]
        for channel in channels:
            await layer.group_add("members", channel)
        return cls(layer, channels)

    async def send(self, message: Message, *, receive: bool = True) -> float:
        """Return the time of ``group_send()`` without receivers.

        The layer keeps the queue of a channel while it holds messages, as it does for a
        consumer; so each channel holds one.
        """
        start = time.perf_counter()
        await self._layer.group_send("members", message)
        taken = time.perf_counter() - start
        if receive:
            received = [await self._layer.receive(c) for c in self._channels]
            _check_copies(message, received)
        return taken

    async def deliver(self, message: Message) -> float:
        """Return the time until all waiting members have received a message."""
        tasks = [asyncio.create_task(self._layer.receive(c)) for c in self._channels]
        await settle()
        start = time.perf_counter()
        await self._layer.group_send("members", message)
        received = [await task for task in tasks]
        taken = time.perf_counter() - start
        _check_copies(message, received)
        return taken


def _check_copies(message: Message, received: list[Message]) -> None:
    """Check that every member has received its own copy of the message."""
    assert all(copy == message for copy in received)
    own = [message, *received]
    mutable = [key for key, value in message.items() if isinstance(value, dict | list)]
    assert len({id(copy) for copy in own}) == _MEMBERS + 1
    for key in mutable:
        assert len({id(copy[key]) for copy in own}) == _MEMBERS + 1


# A connection


async def _idle(library: Library) -> dict[str, float]:
    """Return the tasks and the memory of an idle consumer that has a layer.

    This includes the server's task for the connection and, in the memory, the needs of
    the fake server: a future and two functions.
    """
    count = 1000
    tracemalloc.start()
    gc.collect()
    memory, tasks_before = tracemalloc.get_traced_memory()[0], len(asyncio.all_tasks())
    tasks, channels = await connect(library, count, Countdown())
    gc.collect()
    results = {
        "bytes": (tracemalloc.get_traced_memory()[0] - memory) / count,
        "tasks": (len(asyncio.all_tasks()) - tasks_before) / count,
    }
    tracemalloc.stop()
    assert len(channels) == count
    await end(tasks)
    return results


def main() -> None:
    """Measure, and print the results."""
    library = load(sys.argv[1], "memory")
    results = asyncio.run(measure(library, float(sys.argv[2])), debug=False)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
