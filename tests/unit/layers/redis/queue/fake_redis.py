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

from fast_channels.layers.redis.scripts import (
    GROUP_ADD,
    GROUP_DISCARD,
    POP,
    RECOVER,
    SEND,
    TAKE,
    Script,
)
from fast_channels.layers.redis.wire import pack

Queue: TypeAlias = dict[bytes, float]

WRONG_TYPE = ResponseError(
    "WRONGTYPE Operation against a key holding the wrong kind of value"
)
REFUSED = ResponseError("unknown subcommand 'TRACKING'")


SCRIPTS = (POP, TAKE, RECOVER, SEND, GROUP_ADD, GROUP_DISCARD)


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
        # Keys that it refuses, and why: they hold something else than a queue, say.
        self.refused: dict[str, ResponseError] = {}
        # Whether there are recovered messages.
        self.more = False
        # The numbers of the batches that it keeps, and the receivers that have died.
        self.numbers: dict[str, bytes] = {}
        self.dead: list[bytes] = []
        # How many messages are recovered of each, and how many are dead letters.
        self.recovers = [0, 0]
        # Which scripts it knows.
        self.scripts: set[str] = {script.sha for script in SCRIPTS}
        # Commands that get an error, or no answer, or break the connection.
        self.refuses: dict[str, ResponseError] = {}
        self.silent: set[str] = set()
        self.loses: set[str] = set()
        # Writes and attempts to connect that fail, and whether attempts have no end.
        self.broken_writes: deque[BaseException] = deque()
        self.refusals: deque[BaseException] = deque()
        self.unreachable = False
        self.connections: list[Connection] = []
        # What it was told: scripts, and all commands by their first words.
        self.pops: list[Call] = []
        self.takes: list[Call] = []
        self.recoveries: list[Call] = []
        self.changes: list[tuple[Script, Call]] = []
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

    def run(self, connection: "Connection", words: list[bytes]) -> Any:
        """Run a script."""
        text = [word.decode() for word in words]
        whole = text[0] == "EVAL"
        [script] = [s for s in SCRIPTS if text[1] in (s.text, s.sha)]
        if whole:
            self.scripts.add(script.sha)
        elif script.sha not in self.scripts:
            return NoScriptError("No matching script. Please use EVAL.")
        count = int(text[2])
        call = Call(whole, text[3 : 3 + count], text[3 + count :])
        if script in {GROUP_ADD, GROUP_DISCARD, SEND}:
            return self._change(script, call)
        connection.popping = True
        if script is RECOVER:
            self.recoveries.append(call)
            self.dead.remove(call.arguments[0].encode())
            return self.recovers
        (self.pops if script is POP else self.takes).append(call)
        if call.keys[0] in self.refused:
            return self.refused[call.keys[0]]
        if script is POP:
            return self._pop(call)
        return self._take(call, words[-len(call.arguments) :][10:])

    def _change(self, script: Script, call: Call) -> Any:
        if script is SEND:
            self.add(call.keys[0], call.arguments[0].encode())
            return 1
        self.changes.append((script, call))
        return [1] if script is GROUP_ADD else []

    def _pop(self, call: Call) -> list[bytes]:
        queue, held = call.keys
        number, last, count = call.arguments[:3]
        kept = self.numbers.get(held, b"")
        if not kept or kept == last.encode():
            self.queues.pop(held, None)
            kept = number.encode()
            batch = take(self.queues[queue], int(count))
            if batch:
                self.numbers[held], self.queues[held] = kept, batch
            else:
                self.numbers.pop(held, None)
        return [b"%f" % self.time, kept, *flat(self.queues[held])]

    def _take(self, call: Call, settled: list[bytes]) -> list[Any]:
        queue, held = call.keys[:2]
        count, expected, done = (int(call.arguments[i]) for i in (5, 7, 8))
        for number, value in enumerate(settled):
            score = self.queues[held].pop(value, None)
            if score is not None and number >= done:
                self.queues[queue][value] = score
        taken: Queue = {}
        differs = count >= 0 and len(self.queues[held]) != expected
        if differs:
            taken = self.queues[held]
        elif count == -1:
            self.queues[queue] |= self.queues.pop(held, {})
        else:
            taken = take(self.queues[queue], count)
            self.queues[held] |= taken
        more = b"1" if self.more else b"0"
        return [
            *[b"%f" % self.time, b"1" if differs else b"0", more],
            *[list(self.dead), flat(taken)],
        ]


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
        # The stream that redis-py's connections read, and that shows their progress.
        self._reader = asyncio.StreamReader()
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
        """Break, as a reader sees it."""
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
        elif name not in server.silent:
            self.replies.put_nowait(reply)

    def _zcard(self, text: list[str]) -> int | ResponseError:
        self.keys.add(text[1])
        return self.server.refused.get(text[1], len(self.server.queues[text[1]]))

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

    _commands: dict[str, Callable[["Connection", list[str]], Any]] = {
        "CLIENT ID": lambda self, _: self.number,
        "CLIENT TRACKING": _tracking,
        "PING": lambda _, __: [b"pong", b""],
        "SET": lambda _, __: b"OK",
        "SUBSCRIBE": _subscribe,
        "ZCARD": _zcard,
        "ZREM": lambda _, __: 1,
    }


def take(queue: Queue, count: int) -> Queue:
    """Remove the oldest values of a queue."""
    oldest = sorted(queue, key=lambda value: (queue[value], value))[:count]
    return {value: queue.pop(value) for value in oldest}


def flat(queue: Queue) -> list[bytes]:
    """Return values and scores, in turn."""
    pairs = [[value, b"%f" % score] for value, score in queue.items()]
    return list(itertools.chain(*pairs))


def unpack(packed: bytes) -> list[list[bytes]]:
    """Return the words of each command that is sent."""
    lines = packed.split(b"\r\n")
    commands: list[list[bytes]] = []
    while lines[0]:
        count = 2 * int(lines[0][1:])
        commands.append(lines[2 : count + 1 : 2])
        del lines[: count + 1]
    return commands
