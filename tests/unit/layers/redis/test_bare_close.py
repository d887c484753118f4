"""The garbage collector finds connections after a bare ``loop.close()``."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from fast_channels.layers.redis.commands import CommandConnection
from fast_channels.layers.redis.pubsub.subscriber import Subscriber
from tests.waiting import until

from .fake_server import EchoServer
from .pubsub.fake_pubsub import FakePubSub, Log, hear
from .queue.fake_redis import FakeRedis
from .queue.reader import Reader


async def read() -> object:
    """Let an inbox read, with a connection that receives changes."""
    reader = Reader(FakeRedis())
    reader.inbox.want("mine!")
    await until(lambda: reader.connected == 1)
    return reader


async def connect() -> object:
    """Let an inbox try to connect."""
    server = FakeRedis()
    server.stalls.add("connect")
    reader = Reader(server)
    reader.inbox.want("mine!")
    await until(lambda: server.stalled)
    return reader


async def listen() -> object:
    """Let a subscriber receive a message."""
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


async def send() -> object:
    """Send a command that gets no reply."""
    server = EchoServer()
    server.answers = False
    redis = CommandConnection(server.connect, "redis-1")
    redis.submit("PING").add_done_callback(lambda reply: reply.exception())
    await until(lambda: server.writes)
    return redis


@pytest.mark.parametrize("begin", [read, connect, listen, send])
def test_readers_end_silently_after_a_bare_loop_close(
    begin: Callable[[], Awaitable[object]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def get(replies: asyncio.Queue[object]) -> object:
        # Unlike a real connection, asyncio's fails when it is collected.
        while replies.empty():  # noqa: ASYNC110 # nothing would wake it
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
    # pytest fails the test for errors of finalisers.
    gc.collect()
    assert left() is None
    # asyncio reports destroyed tasks.
    assert {record.name for record in caplog.records} <= {"asyncio"}
