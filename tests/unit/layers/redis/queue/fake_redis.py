"""A fake Redis with queues for an inbox, which fails when a test says so.

Real servers test the scripts; here, a script does only what an inbox needs.
"""

import asyncio
import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, TypeAlias

from fast_channels.layers.redis.scripts import (
    GROUP_ADD,
    GROUP_DISCARD,
    POP,
    RECOVER,
    SEND,
    TAKE,
    Script,
)
from fast_channels.layers.redis.wire import NoScriptError, ResponseError
from tests.unit.layers.redis.fake_server import FakeConnection, FakeServer

Queue: TypeAlias = dict[bytes, float]

WRONG_TYPE = ResponseError(
    "WRONGTYPE Operation against a key holding the wrong kind of value"
)
REFUSED = ResponseError("unknown subcommand 'TRACKING'")


SCRIPTS = (POP, TAKE, RECOVER, SEND, GROUP_ADD, GROUP_DISCARD)


@dataclass(frozen=True)
class Call:
    """A call of a script."""

    whole: bool
    keys: list[str]
    arguments: list[str]


class RedisConnection(FakeConnection):
    """A connection of an inbox."""

    def __init__(self, server: "FakeServer[Any]") -> None:
        super().__init__(server)
        self.subscribed = False
        self.popping = False
        # The connection that gets a push when one of the keys changes.
        self.redirect: RedisConnection | None = None
        self.keys: set[str] = set()

    async def send_packed_command(self, command: bytes, check_health: bool) -> None:
        await super().send_packed_command(command, check_health)
        # A task reads each reply before it continues, however slow the machine is.
        await asyncio.sleep(0)

    def push(self, key: str | None) -> None:
        """Report a change of one key, or of all."""
        if self.redirect is not None:
            keys = None if key is None else [key.encode()]
            self.redirect.reply([b"message", b"__redis__:invalidate", keys])

    def changed(self, key: str) -> None:
        if key in self.keys:
            self.keys.remove(key)
            self.push(key)


class FakeRedis(FakeServer[RedisConnection]):
    """The server: its queues, and the scripts that run on them."""

    def __init__(self) -> None:
        super().__init__(RedisConnection)
        # Values with their scores, by key; batches that are set aside are here too.
        self.queues: defaultdict[str, Queue] = defaultdict(dict)
        self.time = 1000.0
        # Keys to refuse, with the reason: for example, they hold another type.
        self.refused: dict[str, ResponseError] = {}
        # Whether there are recovered messages.
        self.more = False
        # The numbers of the batches it keeps, and the dead receivers.
        self.numbers: dict[str, bytes] = {}
        self.dead: list[bytes] = []
        # The number of recovered messages of each, and the number of dead letters.
        self.recovers = [0, 0]
        # The scripts it knows, and the scripts it was asked to run.
        self.scripts: set[str] = {script.sha for script in SCRIPTS}
        self.pops: list[Call] = []
        self.takes: list[Call] = []
        self.recoveries: list[Call] = []
        self.changes: list[tuple[Script, Call]] = []

    @property
    def reader(self) -> RedisConnection:
        """The connection that receives changes."""
        [reader] = [connection for connection in self.open if connection.subscribed]
        return reader

    @property
    def popper(self) -> RedisConnection:
        """The connection on which messages are popped."""
        [popper] = [connection for connection in self.open if connection.popping]
        return popper

    def add(self, key: str, *values: bytes, age: float = 0) -> None:
        """Add messages from another process, which have waited for some seconds."""
        for value in values:
            self.queues[key][value] = self.time - age
        for connection in self.open:
            connection.changed(key)

    def flush(self) -> None:
        self.queues.clear()
        for connection in self.open:
            connection.push(None)

    def answer(self, connection: RedisConnection, words: list[bytes]) -> list[Any]:
        reply: Any
        match [word.decode() for word in words]:
            case ["EVAL" | "EVALSHA", *_]:
                reply = self._run(connection, words)
            case ["ZCARD", key]:
                connection.keys.add(key)
                reply = self.refused.get(key, len(self.queues[key]))
            case ["CLIENT", "ID"]:
                reply = 1 + self.connections.index(connection)
            case ["CLIENT", "TRACKING", "ON", "REDIRECT", number, "NOLOOP"]:
                connection.redirect = self.connections[int(number) - 1]
                reply = b"OK"
            case ["SUBSCRIBE", name]:
                connection.subscribed = True
                reply = [b"subscribe", name.encode(), b"1"]
            case ["SSUBSCRIBE", name]:
                reply = [b"ssubscribe", name.encode(), b"1"]
            case ["CLUSTER", "SLOTS"]:
                # It is the only node of a cluster.
                reply = [[0, 16383, [b"a", 7000]]]
            case ["SET", *_]:
                reply = b"OK"
            case ["ZREM", _, *members]:
                reply = len(members)
            case name:
                assert name == ["PING"]
                reply = [b"pong", b""]
        return [reply]

    def _run(self, connection: RedisConnection, words: list[bytes]) -> Any:
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


def take(queue: Queue, count: int) -> Queue:
    """Remove the oldest values of a queue."""
    oldest = sorted(queue, key=lambda value: (queue[value], value))[:count]
    return {value: queue.pop(value) for value in oldest}


def flat(queue: Queue) -> list[bytes]:
    """Return values and scores, in turn."""
    pairs = [[value, b"%f" % score] for value, score in queue.items()]
    return list(itertools.chain(*pairs))
