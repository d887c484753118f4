"""A server, and redis-py's connections to it, that fail and stall as a test asks."""

import asyncio
from collections import deque
from typing import TypeAlias, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

Outcome: TypeAlias = "str | BaseException"


class Server:
    """A server that stalls where a test wants it to.

    It answers each command with the words of the command, if `answers` is true.
    """

    def __init__(self) -> None:
        self.answers = True
        # At which of "connect", "send" and "read" it stalls.
        self.stalls: set[str] = set()
        # Where somebody waits for it.
        self.stalled: list[str] = []
        self.go_on = asyncio.Event()
        # How the next attempts to connect fail, and the next writes.
        self.refusals: deque[BaseException] = deque()
        self.broken_writes: deque[BaseException] = deque()
        # When each attempt to connect was made.
        self.attempts: list[float] = []
        self.writes: list[str] = []
        self.connections: list[Connection] = []

    def connect(self) -> AbstractConnection:
        # What the command connection uses of redis-py is all there is.
        return cast("AbstractConnection", Connection(self))

    @property
    def connection(self) -> "Connection":
        """The connection that was opened last."""
        return self.connections[-1]

    async def stall(self, where: str) -> None:
        if where in self.stalls:
            self.stalled.append(where)
            self.go_on.clear()
            try:
                await self.go_on.wait()
            finally:
                self.stalled.remove(where)


class Connection:
    """Stands in for a connection of redis-py."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.open = False
        self.replies: asyncio.Queue[Outcome] = asyncio.Queue()

    async def connect(self) -> None:
        self.server.attempts.append(asyncio.get_running_loop().time())
        await self.server.stall("connect")
        if self.server.refusals:
            raise self.server.refusals.popleft()
        self.server.connections.append(self)
        self.open = True

    async def send_packed_command(self, command: bytes, check_health: bool) -> None:
        assert self.open
        assert not check_health
        commands = unpack(command)
        self.server.writes.append("".join(f"{words};" for words in commands))
        await self.server.stall("send")
        if self.server.broken_writes:
            raise self.server.broken_writes.popleft()
        if self.server.answers:
            for words in commands:
                self.replies.put_nowait(words)

    async def read_response(self, disconnect_on_error: bool) -> str:
        assert not disconnect_on_error
        await self.server.stall("read")
        reply = await self.replies.get()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    async def disconnect(self, nowait: bool) -> None:
        assert nowait
        assert self.open, "it is closed once"
        self.open = False

    def fail(self, error: BaseException | None = None) -> None:
        """Break, as a reader sees it."""
        self.replies.put_nowait(error or RedisConnectionError("the line was cut"))


def unpack(packed: bytes) -> list[str]:
    """Return the words of each command that is sent, with a space between them."""
    lines = packed.split(b"\r\n")
    commands: list[str] = []
    while lines[0]:
        count = 2 * int(lines[0][1:])
        commands.append(b" ".join(lines[2 : count + 1 : 2]).decode())
        del lines[: count + 1]
    return commands
