"""A fake server whose connections refuse, stall and break when a test says so.

Subclasses differ in their replies: for a queue layer, for a pub/sub layer, and as a
Sentinel.
"""

import abc
import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.wire import RedisConnectionError

# Pauses of no length: a link only lets other tasks run.
NO_PAUSE = Timing(jitter=lambda _, __: 0)


class FakeConnection:
    """Stands in for a connection of redis-py."""

    def __init__(self, server: "FakeServer[Any]") -> None:
        self.server = server
        self.is_connected = False
        self.replies: asyncio.Queue[Any] = asyncio.Queue()
        # The stream that redis-py reads from: fed with every reply, and never read.
        self._reader = asyncio.StreamReader()

    async def connect(self) -> None:
        self.server.attempts.append(asyncio.get_running_loop().time())
        await self.server.stall("connect")
        if self.server.unreachable:
            raise RedisConnectionError("refused")
        if self.server.refusals:
            raise self.server.refusals.popleft()
        self.server.connections.append(self)
        self.is_connected = True

    async def disconnect(self, nowait: bool) -> None:
        assert nowait
        self.is_connected = False

    async def send_packed_command(self, command: bytes, check_health: bool) -> None:
        assert self.is_connected
        assert not check_health
        commands = unpack(command)
        self.server.writes.append("".join(f"{text(words)};" for words in commands))
        await self.server.stall("send")
        if self.server.broken_writes:
            raise self.server.broken_writes.popleft()
        for words in commands:
            self.server.obey(self, words)

    async def read_response(self, *, disconnect_on_error: bool) -> Any:
        assert not disconnect_on_error
        await self.server.stall("read")
        reply = await self.replies.get()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def reply(self, reply: object) -> None:
        """Send a reply, or break the connection for its reader."""
        self.send_part()
        self.replies.put_nowait(reply)

    def send_part(self) -> None:
        """Send some bytes of a reply that is not complete yet."""
        self._reader.feed_data(b"?")

    def fail(self, error: BaseException | None = None) -> None:
        """Break the connection for its reader."""
        self.reply(error or RedisConnectionError("the line was cut"))


C = TypeVar("C", bound=FakeConnection)


class FakeServer(abc.ABC, Generic[C]):
    """A server that refuses, stalls and breaks when a test says so.

    Args: kind: The class of its connections.
    """

    def __init__(self, kind: Callable[["FakeServer[C]"], C]) -> None:
        self._kind = kind
        # The steps of "connect", "send" and "read" at which it stalls until the event
        # is set.
        self.stalls: set[str] = set()
        self.go_on = asyncio.Event()
        # The steps at which tasks wait for it.
        self.stalled: list[str] = []
        # Errors for the next attempts to connect, and for the next writes.
        self.refusals: deque[BaseException] = deque()
        self.broken_writes: deque[BaseException] = deque()
        # Whether it refuses all attempts to connect.
        self.unreachable = False
        # Whether it replies at all.
        self.answers = True
        # Commands that get an error, that get no reply, and that once get no reply and
        # break the connection.
        self.refuses: dict[str, Exception] = {}
        self.silent: set[str] = set()
        self.loses: set[str] = set()
        # The time of each attempt to connect; the opened connections.
        self.attempts: list[float] = []
        self.connections: list[C] = []
        # The commands of each write, and all commands.
        self.writes: list[str] = []
        self.told: list[list[str]] = []

    def connect(self) -> C:
        return self._kind(self)

    @property
    def connection(self) -> C:
        """The connection that was opened last."""
        return self.connections[-1]

    @property
    def open(self) -> list[C]:
        """The connections that are open."""
        return [each for each in self.connections if each.is_connected]

    def asked(self, name: str) -> list[list[str]]:
        """Return the commands with a name."""
        return [words for words in self.told if name_of(words) == name]

    def cut(self, error: BaseException | None = None) -> None:
        """Break all connections for their readers."""
        for connection in self.open:
            connection.fail(error)

    async def stall(self, where: str) -> None:
        if where in self.stalls:
            self.stalled.append(where)
            self.go_on.clear()
            try:
                await self.go_on.wait()
            finally:
                self.stalled.remove(where)

    def obey(self, connection: Any, words: list[bytes]) -> None:
        name = name_of(decoded(words))
        self.told.append(decoded(words))
        if name in self.refuses:
            connection.reply(self.refuses[name])
            return
        replies = self.answer(connection, words)
        if name in self.loses:
            self.loses.remove(name)
            connection.fail()
        elif self.answers and name not in self.silent:
            for reply in replies:
                connection.reply(reply)

    @abc.abstractmethod
    def answer(self, connection: C, words: list[bytes]) -> list[Any]:
        """Return the replies to a command."""


class EchoServer(FakeServer[FakeConnection]):
    """A server that replies to each command with its words."""

    def __init__(self) -> None:
        super().__init__(FakeConnection)

    def answer(self, connection: FakeConnection, words: list[bytes]) -> list[Any]:
        del connection
        return [text(words)]


def decoded(words: list[bytes]) -> list[str]:
    return [word.decode(errors="replace") for word in words]


def text(words: list[bytes]) -> str:
    return " ".join(decoded(words))


def name_of(words: list[str]) -> str:
    return " ".join(words[: 2 if words[0] == "CLIENT" else 1])


def unpack(packed: bytes) -> list[list[bytes]]:
    """Return the words of each command that is sent."""
    lines = packed.split(b"\r\n")
    commands: list[list[bytes]] = []
    while lines[0]:
        count = 2 * int(lines[0][1:])
        commands.append(lines[2 : count + 1 : 2])
        del lines[: count + 1]
    return commands
