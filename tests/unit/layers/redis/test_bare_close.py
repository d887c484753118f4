"""What a bare ``loop.close()`` leaves: readers that the garbage collector finds."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from fast_channels.layers.redis.pubsub.subscriber import Subscriber
from tests.waiting import until

from .pubsub.fake_pubsub import FakePubSub, Log, hear
from .queue.fake_redis import FakeRedis
from .queue.reader import Reader


async def read() -> object:
    """Let an inbox read, with a connection that hears of changes."""
    reader = Reader(FakeRedis(), 5)
    reader.inbox.want("mine!")
    await until(lambda: reader.connected == 1)
    return reader


async def connect() -> object:
    """Let an inbox connect, in vain."""
    server = FakeRedis()
    connecting = asyncio.Event()

    class Connection:
        async def connect(self) -> None:
            connecting.set()
            await asyncio.Event().wait()

    server.connect = Connection  # type: ignore[assignment,method-assign] # pyright: ignore[reportAttributeAccessIssue] # all of it that is used
    reader = Reader(server, 5)
    reader.inbox.want("mine!")
    await connecting.wait()
    return reader


async def listen() -> object:
    """Let a subscriber hear something."""
    log = Log()
    subscriber = Subscriber(
        FakePubSub().connect,
        name="redis-1",
        received=log.received,
        lost=log.lost,
        restored=log.restored,
        timeout=5,
    )
    await hear(subscriber, "a")
    return subscriber


@pytest.mark.parametrize("begin", [read, connect, listen])
def test_bare_close(
    begin: Callable[[], Awaitable[object]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They end without an error, a word in the log of ours, or another attempt."""

    async def get(replies: asyncio.Queue[object]) -> object:
        # That of asyncio fails when it is thrown away, other than a real connection.
        while replies.empty():  # noqa: ASYNC110 # it is woken by nothing
            await asyncio.sleep(0.001)
        return replies.get_nowait()

    monkeypatch.setattr(asyncio.Queue, "get", get)
    states: list[object] = []

    def run() -> None:
        loop = asyncio.new_event_loop()

        async def main() -> None:
            states.append(await begin())

        loop.run_until_complete(main())
        loop.close()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(run).result()
    left = weakref.ref(states.pop())
    # pytest fails the test for what a finaliser raises.
    gc.collect()
    assert left() is None
    # asyncio complains of tasks that were destroyed.
    assert {record.name for record in caplog.records} <= {"asyncio"}
