"""An inbox on a fake Redis, and the messages it delivers."""

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from typing import TypeAlias

from fast_channels.layers.redis.commands import CommandConnection
from fast_channels.layers.redis.queue.inbox import Inbox, InboxTiming, Popped
from fast_channels.layers.redis.shards import Shard
from tests.waiting import until

from .fake_redis import FakeRedis

Logged: TypeAlias = Callable[[], list[tuple[int, str]]]


class Reader:
    """An inbox with the messages it delivers; its channels belong to one process."""

    def __init__(
        self,
        server: FakeRedis,
        timeout: float = 5,
        timing: InboxTiming = Inbox.timing,
        tripwire: str | None = None,
    ) -> None:
        self.got: list[Popped] = []
        # The number of messages that wait in mailboxes of plain channels.
        self.waiting: dict[str, int] = {}
        # Called with each message after it was recorded.
        self.deliver: Callable[[Popped], None] = lambda _: None
        # How often it has connected, and how often all keys were deleted.
        self.connected = 0
        self.flushed = 0
        # Why connections broke, and whether the shard had moved then.
        self.broken: list[str] = []
        self.moved = False
        self.commands = CommandConnection(server.connect, "redis-1", timeout=timeout)
        self.inbox = Inbox(
            Shard(
                "redis-1",
                "asgi:",
                server.connect,
                self.commands,
                timeout,
                tripwire=tripwire,
                broken=self._broken,
            ),
            receiver="me",
            expiry=60,
            max_deliveries=5,
            deliver=self._deliver,
            waiting=lambda name: self.waiting.get(name, 0),
            connected=self._connected,
            flushed=self._flushed,
            timing=timing,
        )

    @property
    def values(self) -> list[bytes]:
        """The delivered messages."""
        return [popped.value for popped in self.got]

    def _deliver(self, popped: Popped) -> None:
        self.got.append(popped)
        self.deliver(popped)

    def _broken(self, why: Exception) -> bool:
        self.broken.append(str(why))
        return self.moved

    def _connected(self) -> None:
        self.connected += 1

    def _flushed(self) -> None:
        self.flushed += 1


@contextlib.asynccontextmanager
async def reading(
    server: FakeRedis,
    timeout: float = 5,
    timing: InboxTiming = Inbox.timing,
    tripwire: str | None = None,
) -> AsyncGenerator[Reader]:
    """Make an inbox, and check that it leaves no connection when closed."""
    reader = Reader(server, timeout, timing, tripwire)
    try:
        yield reader
    finally:
        await reader.inbox.close()
        await reader.commands.close()
    assert server.open == []


async def works(server: FakeRedis, reader: Reader, key: str = "asgi:mine!") -> None:
    """Check that a message arrives."""
    before = len(reader.got)
    value = b"message %d" % before
    server.add(key, value)
    await until(lambda: len(reader.got) > before)
    assert reader.values[before:] == [value]


def fails(why: str) -> list[tuple[int, str]]:
    """Return the log records when the inbox fails and recovers."""
    trying = "trying again until it can"
    return [
        (logging.WARNING, f"redis-1 cannot be read: {why}; {trying}"),
        (logging.WARNING, "redis-1 can be read again"),
    ]
