"""An inbox that reads a fake Redis."""

import logging
from collections.abc import AsyncIterator

import pytest

from fast_channels.layers.redis.queue import inbox as inbox_module
from fast_channels.layers.redis.queue import tracking
from fast_channels.layers.redis.queue.inbox import Inbox, InboxTiming
from tests.waiting import turn, until

from .queue.fake_redis import FakeRedis
from .queue.reader import Logged, Reader, reading


@pytest.fixture
async def server() -> FakeRedis:
    return FakeRedis()


@pytest.fixture
def inbox_timing() -> InboxTiming:
    return Inbox.timing


@pytest.fixture
async def reader(server: FakeRedis, inbox_timing: InboxTiming) -> AsyncIterator[Reader]:
    async with reading(server, timing=inbox_timing) as reader:
        yield reader


@pytest.fixture
async def idle(server: FakeRedis, reader: Reader) -> Reader:
    """An inbox that has seen its queue empty, and waits."""
    reader.inbox.want("mine!")
    await until(lambda: server.pops)
    await turn()
    return reader


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    """Return the log records of the inbox."""
    names = {inbox_module.__name__, tracking.__name__}
    for name in names:
        caplog.set_level(logging.INFO, name)
    return lambda: [
        (level, text) for name, level, text in caplog.record_tuples if name in names
    ]
