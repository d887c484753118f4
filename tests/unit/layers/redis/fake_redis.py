"""A Redis whose queues an inbox reads, and which fails as a test asks.

What scripts do is tested with real servers; here they do what an inbox needs.
"""

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from fast_channels.layers.redis.packing import pack
from fast_channels.layers.redis.scripts import LEAVE, POP

Queue: TypeAlias = dict[bytes, float]

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
REFUSED = ResponseError("unknown subcommand 'TRACKING'")


@dataclass(frozen=True)
class Call:
    """A script that was run."""

    whole: bool
    keys: list[str]
    arguments: list[str]


class FakeRedis:
    """The server: its queues, and how it fails."""

    def __init__(self) -> None:
        # Values with their scores, by keys; batches that are kept aside are here too.
        self.queues: defaultdict[str, Queue] = defaultdict(dict)
        self.time = 1000.0
        # Keys that hold something else than a queue.
        self.wrong: set[str] = set()
        # Which scripts it knows.
        self.scripts: set[str] = {POP.sha, LEAVE.sha}
        # Commands that get an error, or no answer, or break the connection.
        self.refuses: dict[str, ResponseError] = {}
        self.silent: set[str] = set()
        self.loses: set[str] = set()
        # Whether it says that a connection does not wait yet, once.
        self.deaf = False
        # Writes and attempts to connect that fail, and whether attempts have no end.
        self.broken_writes: deque[BaseException] = deque()
        self.refusals: deque[BaseException] = deque()
        self.unreachable = False
        self.connections: list[Connection] = []
        # What it was told: scripts, and all commands by their first words.
        self.pops: list[Call] = []
        self.leaves: list[Call] = []
        self.told: defaultdict[str, list[list[str]]] = defaultdict(list)

    def connect(self) -> AbstractConnection:
        # What is used of redis-py's connections is all there is.
        return cast("AbstractConnection", Connection(self))

    @property
    def open(self) -> list["Connection"]:
        """The connections that are open."""
        return [connection for connection in self.connections if connection.open]

    @property
    def reader(self) -> "Connection":
        """The connection that is told of changes."""
        [reader] = [connection for connection in self.open if connection.subscribed]
        return reader

    @property
    def popper(self) -> "Connection":
        """The connection on which messages are popped."""
        [popper] = [connection for connection in self.open if connection.popping]
        return popper

    def add(self, key: str, *values: bytes, age: float = 0) -> None:
        """Have somebody send messages, which have waited for so long."""
        for value in values:
            self.queues[key][value] = self.time - age
        for connection in self.open:
            connection.changed(key)

    def flush(self) -> None:
        self.queues.clear()
        for connection in self.open:
            connection.push(None)

    def unblock(self, number: int) -> int:
        """End what a connection waits for, and return whether it waited."""
        if self.deaf:
            self.deaf = False
            return 0
        for connection in self.open:
            if connection.number == number and connection.blocks:
                connection.blocks = []
                connection.replies.put_nowait(None)
                return 1
        return 0

    def run(self, connection: "Connection", words: list[bytes]) -> Any:
        """Run POP or LEAVE."""
        text = [word.decode() for word in words]
        whole = text[0] == "EVAL"
        [script] = [s for s in (POP, LEAVE) if text[1] in (s.text, s.sha)]
        if whole:
            self.scripts.add(script.sha)
        elif script.sha not in self.scripts:
            return NoScriptError("No matching script. Please use EVAL.")
        count = int(text[2])
        call = Call(whole, text[3 : 3 + count], text[3 + count :])
        (self.pops if script is POP else self.leaves).append(call)
        if script is POP:
            connection.popping = True
            return self._pop(call)
        return self._leave(call, words[-len(call.arguments) :][3:])

    def _pop(self, call: Call) -> list[bytes] | ResponseError:
        queue, this, last = call.keys[:3]
        if queue in self.wrong:
            return ResponseError(WRONG_TYPE)
        self.queues.pop(last, None)
        if not self.queues[this]:
            self.queues[this] = take(self.queues[queue], int(call.arguments[0]))
        batch = [[value, b"%f" % score] for value, score in self.queues[this].items()]
        return [b"%f" % self.time, *itertools.chain(*batch)]

    def _leave(self, call: Call, returned: list[bytes]) -> ResponseError | None:
        queue, last, unseen = call.keys[:3]
        back = self.queues.pop(unseen, {})
        if self.queues.pop(last, None) or call.arguments[2] == "0":
            for score, value in zip(returned[::2], returned[1::2], strict=True):
                back[value] = float(score)
        if back and queue in self.wrong:
            return ResponseError(WRONG_TYPE)
        self.queues[queue] |= back
        return None


class Connection:
    """Stands in for a connection of redis-py."""

    def __init__(self, server: FakeRedis) -> None:
        self.server = server
        self.number = 0
        self.open = False
        self.subscribed = False
        self.popping = False
        # The connection that is told when one of the keys changes.
        self.redirect: Connection | None = None
        self.keys: set[str] = set()
        # The keys that it waits for.
        self.blocks: list[str] = []
        self.replies: asyncio.Queue[Any] = asyncio.Queue()

    async def connect(self) -> None:
        if self.server.unreachable:
            await asyncio.get_running_loop().create_future()
        if self.server.refusals:
            raise self.server.refusals.popleft()
        self.server.connections.append(self)
        self.number = len(self.server.connections)
        self.open = True

    async def disconnect(self, nowait: bool) -> None:
        assert nowait
        self.open = False

    async def send_command(self, *command: str | float, check_health: bool) -> None:
        await self.send_packed_command(pack(command), check_health)

    async def send_packed_command(self, command: bytes, check_health: bool) -> None:
        assert self.open
        assert not check_health
        if self.server.broken_writes:
            raise self.server.broken_writes.popleft()
        for words in unpack(command):
            self._answer(words)
        # Whoever got an answer reads it first, however slow this machine is.
        await asyncio.sleep(0)

    async def read_response(self, disconnect_on_error: bool) -> Any:
        assert not disconnect_on_error
        reply = await self.replies.get()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def fail(self, error: BaseException | None = None) -> None:
        """Break, as seen by whoever reads."""
        self.replies.put_nowait(error or RedisConnectionError("the line was cut"))

    def push(self, key: str | None) -> None:
        """Tell that a key has changed, or all, if anybody is to be told."""
        if self.redirect is not None:
            keys = None if key is None else [key.encode()]
            self.redirect.replies.put_nowait(
                [b"message", b"__redis__:invalidate", keys]
            )

    def changed(self, key: str) -> None:
        if key in self.keys:
            self.keys.remove(key)
            self.push(key)
        if key in self.blocks:
            self.replies.put_nowait(self._block())

    def _answer(self, words: list[bytes]) -> None:
        text = [word.decode() for word in words]
        server, name = self.server, text[0]
        if name == "CLIENT":
            name = f"CLIENT {text[1]}"
        server.told[name].append(text)
        if name in server.refuses:
            self.replies.put_nowait(server.refuses[name])
            return
        if name.startswith("EVAL"):
            reply = server.run(self, words)
        else:
            reply = self._commands[name](self, text)
        if name in server.loses:
            server.loses.remove(name)
            self.fail()
        elif name not in server.silent and not self.blocks:
            self.replies.put_nowait(reply)

    def _block(self) -> list[bytes] | None:
        for key in self.blocks:
            for value, score in take(self.server.queues[key], 1).items():
                self.blocks = []
                return [key.encode(), value, b"%f" % score]
        return None

    def _zcard(self, text: list[str]) -> int | ResponseError:
        self.keys.add(text[1])
        if text[1] in self.server.wrong:
            return ResponseError(WRONG_TYPE)
        return len(self.server.queues[text[1]])

    def _subscribe(self, text: list[str]) -> list[bytes]:
        self.subscribed = True
        return [b"subscribe", text[1].encode(), b"1"]

    def _tracking(self, text: list[str]) -> bytes:
        [self.redirect] = [
            connection
            for connection in self.server.open
            if connection.number == int(text[4])
        ]
        return b"OK"

    def _bzpopmin(self, text: list[str]) -> list[bytes] | ResponseError | None:
        if "BZPOPMIN" in self.server.silent:
            return None
        for key in text[1:-1]:
            if key in self.server.wrong:
                return ResponseError(WRONG_TYPE)
            if self.server.queues[key]:
                break
        self.blocks = text[1:-1]
        loop = asyncio.get_running_loop()
        loop.call_later(float(text[-1]), self.server.unblock, self.number)
        return self._block()

    _commands: dict[str, Callable[["Connection", list[str]], Any]] = {
        "BZPOPMIN": _bzpopmin,
        "CLIENT ID": lambda self, _: self.number,
        "CLIENT TRACKING": _tracking,
        "CLIENT UNBLOCK": lambda self, text: self.server.unblock(int(text[2])),
        "PING": lambda _, __: [b"pong", b""],
        "SUBSCRIBE": _subscribe,
        "ZCARD": _zcard,
    }


async def turn(times: int = 30) -> None:
    """Let every task that can go on do so."""
    for _ in range(times):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 # fakes have no events
            await asyncio.sleep(0)


def take(queue: Queue, count: int) -> Queue:
    """Remove the oldest values of a queue."""
    oldest = sorted(queue, key=lambda value: (queue[value], value))[:count]
    return {value: queue.pop(value) for value in oldest}


def unpack(packed: bytes) -> list[list[bytes]]:
    """Return the words of each command that is sent."""
    lines = packed.split(b"\r\n")
    commands: list[list[bytes]] = []
    while lines[0]:
        count = 2 * int(lines[0][1:])
        commands.append(lines[2 : count + 1 : 2])
        del lines[: count + 1]
    return commands
