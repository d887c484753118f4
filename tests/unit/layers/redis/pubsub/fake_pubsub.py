"""A Redis that publishes, and that stalls, refuses and breaks as a test asks."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from fast_channels.layers.redis.pubsub.subscriber import Subscriber
from tests.unit.layers.redis.queue.fake_redis import unpack
from tests.waiting import until


class FakePubSub:
    """The server: who has subscribed to what, and how it fails."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        # When each attempt to connect was made.
        self.attempts: list[float] = []
        # Each command but PING, and how many writes and PINGs there were.
        self.told: list[list[str]] = []
        self.writes = 0
        self.pings = 0
        # Whether confirmations are held back, and those that are.
        self.holds = False
        self.held: deque[tuple[Connection, list[Any]]] = deque()
        # Names that are refused, and what the answer is.
        self.forbidden: dict[str, Exception] = {}
        # Whether nobody can connect; how the next attempts fail, and the next writes.
        self.unreachable = False
        self.refusals: deque[BaseException] = deque()
        self.broken_writes: deque[BaseException] = deque()
        # At which of "connect", "send" and "pong" it stalls for ever.
        self.stalls: set[str] = set()
        # How many wait for it at this moment.
        self.stalled = 0

    def connect(self) -> AbstractConnection:
        # What is used of redis-py's connections is all there is.
        return cast("AbstractConnection", Connection(self))

    @property
    def open(self) -> list["Connection"]:
        """The connections that are open."""
        return [connection for connection in self.connections if connection.open]

    @property
    def subscribed(self) -> list[str]:
        """What is subscribed to, by all connections together."""
        names = (name for connection in self.open for name in connection.names)
        return sorted(names)

    def publish(self, name: str, data: bytes) -> int:
        """Send to all who have subscribed, and return how many there were."""
        return sum(connection.push(name, data) for connection in self.open)

    def release(self, count: int = 1) -> None:
        """Send so many of the confirmations that are held back."""
        for _ in range(count):
            connection, reply = self.held.popleft()
            connection.reply(reply)

    def cut(self, error: BaseException | None = None) -> None:
        """Break all connections, as a reader sees it."""
        for connection in self.open:
            connection.reply(error or RedisConnectionError("the line was cut"))

    async def stall(self, where: str) -> None:
        if where in self.stalls:
            self.stalled += 1
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.stalled -= 1


class Connection:
    """Stands in for a connection of redis-py."""

    def __init__(self, server: FakePubSub) -> None:
        self.server = server
        self.open = False
        self.names: dict[str, str] = {}
        """What it has subscribed to, with the verb."""
        self._replies: asyncio.Queue[Any] = asyncio.Queue()
        # What redis-py reads from: fed with every reply, and never read.
        self._reader = asyncio.StreamReader()

    @property
    def is_connected(self) -> bool:
        return self.open

    def reply(self, reply: Any) -> None:
        """Send a reply, or break as a reader sees it."""
        self._reader.feed_data(b"?")
        self._replies.put_nowait(reply)

    def send_part(self) -> None:
        """Send some bytes of a reply whose end is still to come."""
        self._reader.feed_data(b"?")

    async def connect(self) -> None:
        self.server.attempts.append(asyncio.get_running_loop().time())
        await self.server.stall("connect")
        if self.server.unreachable:
            raise RedisConnectionError("refused")
        if self.server.refusals:
            raise self.server.refusals.popleft()
        self.server.connections.append(self)
        self.open = True

    async def disconnect(self, nowait: bool) -> None:
        assert nowait
        self.open = False

    async def send_command(self, *command: str, check_health: bool) -> None:
        assert command == ("PING",)
        assert not check_health
        await self.server.stall("send")
        self.server.pings += 1
        if "pong" not in self.server.stalls:
            # As Redis answers whoever has subscribed to something, and who has not.
            self.reply([b"pong", b""] if self.names else b"PONG")

    async def send_packed_command(self, command: bytes, check_health: bool) -> None:
        assert self.open
        assert not check_health
        self.server.writes += 1
        await self.server.stall("send")
        if self.server.broken_writes:
            raise self.server.broken_writes.popleft()
        for words in unpack(command):
            self._obey(words)

    async def read_response(self, disconnect_on_error: bool) -> Any:
        assert not disconnect_on_error
        reply = await self._replies.get()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def push(self, name: str, data: bytes) -> int:
        """Send a message once for each subscription, and return how many there are."""
        count = 0
        for subscription, verb in self.names.items():
            if verb == "SUBSCRIBE" and subscription == name:
                self.reply([b"message", name.encode(), data])
            elif verb == "PSUBSCRIBE" and _matches(name, subscription):
                pattern = subscription.encode()
                self.reply([b"pmessage", pattern, name.encode(), data])
            else:
                continue
            count += 1
        return count

    def _obey(self, words: list[bytes]) -> None:
        verb, *names = [word.decode(errors="replace") for word in words]
        self.server.told.append([verb, *names])
        if verb == "PUBLISH":
            self.reply(self.server.publish(names[0], words[2]))
            return
        for name in self.server.forbidden.keys() & {*names}:
            self.reply(self.server.forbidden[name])
            return
        for name in names:
            if verb.startswith(("UN", "PUN")):
                self.names.pop(name, None)
            else:
                self.names[name] = verb
            reply = [verb.lower().encode(), name.encode(), len(self.names)]
            if self.server.holds:
                self.server.held.append((self, reply))
            else:
                self.reply(reply)


class Log:
    """What a subscriber has told of."""

    def __init__(self) -> None:
        self.events: list[str] = []
        # What is called with the data of each message, after it was noted.
        self.react: Callable[[str], None] = lambda _: None

    def received(self, name: bytes, data: bytes) -> None:
        self.events.append(f"{name.decode()}: {data.decode()}")
        self.react(data.decode())

    def lost(self) -> None:
        self.events.append("lost")

    def restored(self) -> None:
        self.events.append("restored")


@asynccontextmanager
async def subscribing(
    server: FakePubSub, log: Log, *, timeout: float = 10
) -> AsyncGenerator[Subscriber]:
    """Make a subscriber, and expect that it leaves no connection when it is closed."""
    subscriber = Subscriber(
        server.connect,
        name="redis-1",
        received=log.received,
        lost=log.lost,
        restored=log.restored,
        timeout=timeout,
    )
    try:
        yield subscriber
    finally:
        await subscriber.close()
    assert server.open == []


async def hear(subscriber: Subscriber, *names: str) -> None:
    """Listen to some names, and wait until they are heard."""
    for name in names:
        subscriber.listen(name)
    await until(lambda: not any(map(subscriber.pending, names)))


def _matches(name: str, pattern: str) -> bool:
    """Match as Redis does, as far as ``*`` and backslashes go."""
    parts = re.findall(r"\\(.)|(\*)|([^\\*])", pattern, re.DOTALL)
    regex = "".join(
        ".*" if star else re.escape(escaped or plain) for escaped, star, plain in parts
    )
    return re.fullmatch(regex, name, re.DOTALL) is not None
