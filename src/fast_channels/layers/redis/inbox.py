"""The inbox: the one reader of a shard in an event loop.

Tasks that receive never speak to Redis. They wait at mailboxes of this process, and the
inbox fills those from the queues in Redis, so that cancelling a task can lose nothing.
The rules:

1. A queue is read while somebody waits for what is in it. What the inbox has taken out
   goes into a mailbox, in the same step in which it arrives.
2. Two connections are needed: one pops, and Redis tells the other, by client-side
   caching, when a queue has changed. Only then the inbox asks again, so that waiting
   costs nothing. Where Redis refuses that, one connection pops and blocks.
3. A batch has a number. Redis keeps a batch aside until the next is asked for, and
   gives it again to who asks for the same number again: after a reply that was lost.
4. The queue of a plain channel may have readers in many processes. From it the inbox
   takes as many messages as readers wait, or more if they come back for more at once,
   and asks for the next when all were handed over. What they leave lying goes back. Who
   asks has a lease; the batch of one that died goes back as well, when another asks
   after the lease has ended.
5. Whatever goes wrong with a connection, the inbox opens both anew, until it is closed.
"""

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from fast_channels.loop import wake

from .connections import CommandConnection, RedisUnavailable
from .packing import pack
from .scripts import LEAVE, POP, Script, run

__all__ = ["Inbox", "Popped", "Queue"]

_logger = logging.getLogger(__name__)

# How many messages are popped at once.
_BATCH = 100
# A reader of a plain channel is quick if it comes back after so many seconds.
_QUICK = 0.001
# How often in seconds everything is asked for, so that nothing that went wrong without
# a trace lasts: a push that was lost, a server that is frozen.
_INTERVAL = 10.0
# For how many seconds a receiver counts as alive. Its event loop may be blocked for so
# long before others take over what it has popped.
_LEASE = 30.0
# Seconds between two attempts to connect: they grow, with jitter.
_BACKOFF = (0.01, 0.5)
# Seconds in which a loop that was blocked can read what was sent meanwhile.
_GRACE = 0.05
# For how many seconds a batch is kept aside after it has expired.
_KEPT = 60.0

_Command: TypeAlias = "list[str | bytes | float]"


@dataclass(eq=False, slots=True)
class Queue:
    """A queue in Redis, as its inbox knows it."""

    name: str
    """The channel, or all channels of a process by what they have in common."""
    readers: int = 0
    """How many wait for what is in it."""
    ahead: int = 1
    """How many messages to pop at least, if it is shared."""
    delivered: float = -math.inf
    """When the last batch was delivered, on the clock of the event loop."""
    changed: bool = True
    """Whether there may be something in it."""
    number: int = 0
    """The number of the next batch."""
    asked: bool = False
    """Whether the next batch was asked for already, and did not arrive."""
    emptied: float = -math.inf
    """When nothing was in it, on the clock of the event loop."""
    leaving: bool = False
    """Whether nobody waits any more, which Redis has to be told."""
    wrong: bool = False
    """Whether its key holds something else, as far as that is known."""
    returned: list[bytes] = field(default_factory=list[bytes])
    """The scores and values, in turn, of messages that go back."""
    kept: bool = True
    """Whether Redis keeps aside what came out of it last."""

    @property
    def shared(self) -> bool:
        """Whether it may have readers in other processes."""
        return not self.name.endswith("!")


@dataclass(frozen=True, slots=True)
class Popped:
    """A message that came out of a queue."""

    queue: Queue
    score: bytes
    value: bytes
    left: float
    """For how many seconds it may wait, from now on."""

    def give_back(self) -> None:
        """Have the inbox put it back; it is to be woken for that."""
        self.queue.returned += [self.score, self.value]
        self.queue.leaving = True


class Inbox:
    """Reads queues of one shard, and delivers what they hold.

    It connects when somebody wants to read first, and stays connected until
    ``close()``. Belongs to one event loop.

    Args:
        connect: Makes a connection of redis-py, which is not open yet.
        commands: The command connection to the same server.
        name: What the log calls the server.
        prefix: What keys start with.
        receiver: The name of this inbox, which no other has.
        expiry: For how many seconds a message may wait in Redis.
        deliver: Called with each message that was popped.
        waiting: Returns how many messages wait in the mailbox of a plain channel.
        connected: Called each time that it has connected.
        flushed: Called when all keys of the server have been deleted.
        timeout: For how many seconds a reply may take.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        commands: CommandConnection,
        *,
        name: str,
        prefix: str,
        receiver: str,
        expiry: float,
        deliver: Callable[[Popped], None],
        waiting: Callable[[str], int],
        connected: Callable[[], None],
        flushed: Callable[[], None],
        timeout: float,
    ) -> None:
        self._connect = connect
        self._commands = commands
        self._name = name
        self._prefix = prefix
        self._receiver = receiver
        self._expiry = expiry
        self._deliver = deliver
        self._waiting = waiting
        self._connected = connected
        self._flushed = flushed
        self._timeout = timeout
        self._queues: dict[str, Queue] = {}
        self._task: asyncio.Task[None] | None = None
        # What the task uses its connections in: it expires to drop them.
        self._reading: asyncio.Timeout | None = None
        # What the task sleeps on while no queue has changed.
        self._sleeper: asyncio.Future[None] | None = None
        # Whether Redis tells of changes; False once it refused to.
        self._tracks = True
        # The connection's ID while it blocks, to end that with.
        self._blocking: int | None = None
        # When something was last heard on the connection that is told of changes, and
        # when it was last made to answer.
        self._heard = self._pinged = 0.0
        # When to ask for everything, whatever has changed.
        self._next_check = 0.0
        # Whether scripts are sent as a whole, since the server does not know them.
        self._whole_scripts = False
        # Whether everything that was asked for has come, on this connection.
        self._works = False
        self.failing: bool = False
        """Whether the last attempt failed, which was logged."""
        self.connects: int = 0
        """How many times it has connected."""

    # What readers say

    def want(self, name: str) -> None:
        """Read a queue, for one reader more."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = Queue(name)
        elif not queue.readers:
            # At the end: who has waited for longest is served first.
            self._queues[name] = self._queues.pop(name)
        queue.readers += 1
        self.wake()

    def unwant(self, name: str) -> None:
        """Read a queue for one reader less."""
        queue = self._queues.get(name)
        if queue is not None and queue.readers:
            queue.readers -= 1
            if queue.readers and queue.changed:
                # It was left alone until this reader had taken its message.
                self.wake()

    def wake(self) -> None:
        """Look at the queues soon."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        elif self._sleeper is not None:
            wake(self._sleeper)
        elif self._blocking is not None:
            self._unblock(self._blocking)

    def reconnect(self) -> None:
        """Open the connections anew."""
        if self._reading is not None and not self._reading.expired():
            self._reading.reschedule(0)

    async def close(self) -> None:
        """Stop reading. What was popped and not handed over goes back, if it can."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        queues, self._queues = self._queues, {}
        calls = [
            self._leave(queue)
            for queue in queues.values()
            if queue.shared or queue.number or queue.asked
        ]
        # What Redis is not told now it finds out when leases end.
        await asyncio.gather(
            *[run(self._commands, script, keys, *rest) for script, keys, rest in calls],
            return_exceptions=True,
        )

    # The task

    async def _run(self) -> None:
        """Connect and read, again and again."""
        delay, longest = _BACKOFF
        while True:
            self._works = False
            reading = self._reading = asyncio.timeout(None)
            try:
                async with reading:
                    await self._read()
            except (RedisError, OSError, RuntimeError) as exc:
                # RuntimeError: what uvloop has for a transport that was closed.
                if not self.failing and not reading.expired():
                    self.failing = True
                    _logger.warning(
                        "%s cannot be read: %s; trying again until it can",
                        self._name,
                        str(exc) or type(exc).__name__,
                    )
            except Exception:
                # A fault of ours, but readers go on.
                _logger.exception("%s cannot be read", self._name)
            finally:
                self._reading = None
            if self._works:
                delay = _BACKOFF[0]
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 # jitter
            delay = min(2 * delay, longest)

    async def _read(self) -> None:
        """Connect, and read until the connection breaks."""
        pops, changes = self._connect(), self._connect()
        listener: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                own_id = await self._open(pops, changes)
            if self._tracks:
                listener = asyncio.create_task(self._listen(changes))
            for queue in self._queues.values():
                queue.changed = True
            self._heard = self._pinged = loop.time()
            self._next_check = self._heard + _INTERVAL
            self.connects += 1
            self._connected()
            while listener is None or not listener.done():
                if loop.time() >= self._next_check:
                    await self._check(changes)
                due = [queue for queue in self._queues.values() if self._due(queue)]
                if due:
                    await self._pop(pops, due)
                    continue
                self._note_that_it_works()
                if listener is None and (keys := self._wanted()):
                    await self._block(pops, own_id, keys)
                else:
                    await self._sleep(listener)
            await listener
        finally:
            # Otherwise a bare loop.close() has left this to the garbage collector.
            if not loop.is_closed():
                # First, as this waits for nothing: nobody can keep it from being done.
                for connection in (pops, changes):
                    await connection.disconnect(nowait=True)
                if listener is not None:
                    listener.cancel()
                    await asyncio.gather(listener, return_exceptions=True)

    async def _open(
        self, pops: AbstractConnection, changes: AbstractConnection
    ) -> int | None:
        """Open what is needed, and return the ID of the connection that pops."""
        await pops.connect()  # type: ignore[no-untyped-call] # redis-py leaves it untyped
        if self._tracks:
            await changes.connect()  # type: ignore[no-untyped-call] # as above
            try:
                await self._track(pops, changes)
            except ResponseError as exc:
                if "redirect" in str(exc).lower():
                    # They are connected to two servers: the master has just changed.
                    raise
                self._tracks = False
                await changes.disconnect(nowait=True)
                _logger.warning(
                    "%s refuses to tell when a queue changes (%s), so a connection "
                    "blocks for it; if that breaks, a message may be lost",
                    self._name,
                    exc,
                )
        own_id: int | None = None
        if not self._tracks:
            with contextlib.suppress(ResponseError):
                own_id = cast("int", await _ask(pops, "CLIENT", "ID"))
        return own_id

    async def _track(
        self, pops: AbstractConnection, changes: AbstractConnection
    ) -> None:
        told = cast("int", await _ask(changes, "CLIENT", "ID"))
        await _ask(changes, "SUBSCRIBE", "__redis__:invalidate")
        # NOLOOP: it needs not to be told what it has popped itself.
        await _ask(pops, "CLIENT", "TRACKING", "ON", "REDIRECT", told, "NOLOOP")

    async def _listen(self, changes: AbstractConnection) -> None:
        """Note which queues change, until the connection breaks."""
        loop = asyncio.get_running_loop()
        while True:
            push = cast(
                "list[Any]", await changes.read_response(disconnect_on_error=False)
            )
            self._heard = loop.time()
            if push[0] != b"message":
                continue
            if push[2] is None:
                # It stands for all keys.
                names = list(self._queues)
                self._flushed()
            else:
                names = [self._name_of(key) for key in push[2]]
            for name in names:
                queue = self._queues.get(name)
                if queue is not None:
                    if not (queue.changed or queue.asked or queue.leaving):
                        queue.emptied = self._heard
                    queue.changed = True
                    if queue.readers and self._sleeper is not None:
                        wake(self._sleeper)

    # Popping

    def _due(self, queue: Queue) -> bool:
        if queue.leaving and queue.readers and not queue.returned:
            queue.leaving = False
        if queue.asked or queue.leaving:
            return True
        return queue.changed and self._wants(queue)

    def _wants(self, queue: Queue) -> bool:
        if queue.wrong or (queue.shared and self._waiting(queue.name)):
            return False
        return queue.readers > 0

    async def _pop(self, pops: AbstractConnection, due: list[Queue]) -> None:
        """Ask for the next batch of each queue, and deliver what comes."""
        leaving = {queue for queue in due if queue.leaving}
        commands: list[_Command] = []
        for queue in due:
            make = self._leave if queue in leaving else self._next_batch
            script, keys, arguments = make(queue)
            call: _Command = ["EVALSHA", script.sha]
            if self._whole_scripts:
                call = ["EVAL", script.text]
            commands.append([*call, len(keys), *keys, *arguments])
            # Makes Redis tell when the queue changes again.
            commands.append(["ZCARD", self._prefix + queue.name])
            queue.changed = False
            queue.asked = queue not in leaving
        packed = b"".join(pack(tuple(command)) for command in commands)
        self._whole_scripts = False
        async with asyncio.timeout(self._timeout):
            await pops.send_packed_command(packed, check_health=False)
            for queue in due:
                reply = await _reply(pops)
                waiting = await _reply(pops)
                if isinstance(reply, ResponseError):
                    self._refused(queue, reply)
                elif queue in leaving:
                    self._left(queue)
                else:
                    self._popped(queue, reply, waiting)

    def _note_that_it_works(self) -> None:
        """Note that everything that was asked for has come."""
        self._works = True
        if self.failing:
            self.failing = False
            _logger.info("%s can be read again", self._name)

    def _next_batch(self, queue: Queue) -> tuple[Script, list[str], _Command]:
        now = asyncio.get_running_loop().time()
        since = now - queue.emptied
        count = _BATCH
        if queue.shared:
            # All that was delivered has been handed over by now.
            quick = now - queue.delivered < _QUICK * queue.ahead
            queue.ahead = min(2 * queue.ahead, _BATCH) if quick else 1
            count = min(max(queue.readers, queue.ahead), _BATCH)
        return (
            POP,
            self._keys(queue, queue.number),
            [
                count,
                self._expiry,
                # What came after the queue was seen empty cannot have waited for longer
                # than since then, whatever the clock of its sender says.
                int(since >= self._expiry),
                math.ceil((self._expiry + _KEPT) * 1000),
                self._receiver,
                _LEASE,
                self._kept(queue, ""),
            ],
        )

    def _leave(self, queue: Queue) -> tuple[Script, list[str], _Command]:
        return (
            LEAVE,
            self._keys(queue, queue.number - 1),
            [
                math.ceil(self._expiry * 1000),
                self._receiver,
                int(queue.kept),
                *queue.returned,
            ],
        )

    def _popped(self, queue: Queue, reply: list[bytes], waiting: Any) -> None:
        now = asyncio.get_running_loop().time()
        left_at_least = self._expiry - (now - queue.emptied)
        queue.asked = False
        if len(reply) > 1:
            queue.number += 1
        if waiting != 0:
            queue.changed = True
        elif not queue.changed:
            queue.emptied = now
        time = float(reply[0])
        for value, score in zip(reply[1::2], reply[2::2], strict=True):
            left = float(score) + self._expiry - time
            left = min(max(left, left_at_least), self._expiry)
            self._give_away(Popped(queue, score, value, left))
        queue.delivered = now

    def _give_away(self, popped: Popped) -> None:
        try:
            self._deliver(popped)
        except Exception:
            # A fault of ours, but the next message is not to suffer from it.
            _logger.exception("a message of %r was lost", popped.queue.name)

    def _left(self, queue: Queue) -> None:
        queue.asked = False
        queue.returned.clear()
        queue.leaving = False
        queue.kept = True
        if not queue.readers:
            del self._queues[queue.name]
        else:
            queue.changed = True

    def _refused(self, queue: Queue, error: ResponseError) -> None:
        """Deal with a script that failed, which has changed nothing then."""
        queue.asked = False
        if isinstance(error, NoScriptError):
            self._whole_scripts = True
            queue.changed = True
        elif "WRONGTYPE" in str(error):
            # Asking again is of no use; the next check does once more.
            _logger.error(
                "the key %r of channel %r holds no queue: %s",
                self._prefix + queue.name,
                queue.name,
                error,
            )
            queue.wrong = True
            queue.leaving = False
            queue.returned.clear()
        else:
            raise RedisUnavailable(str(error)) from error

    def _keys(self, queue: Queue, number: int) -> list[str]:
        """Return the keys of a queue, and of the batches that are kept of it."""
        keys = [
            self._prefix + queue.name,
            self._kept(queue, f"{self._receiver}:{number % 2}"),
            self._kept(queue, f"{self._receiver}:{(number + 1) % 2}"),
        ]
        if queue.shared:
            keys.append(f"{self._prefix}:receivers:{queue.name}")
        return keys

    def _kept(self, queue: Queue, rest: str) -> str:
        return f"{self._prefix}:inflight:{queue.name}:{rest}"

    def _name_of(self, key: bytes) -> str:
        return key.decode(errors="replace").removeprefix(self._prefix)

    # Waiting

    async def _sleep(self, listener: "asyncio.Task[None] | None") -> None:
        """Wait until a queue changes, a reader comes, or it is time for a check."""
        loop = asyncio.get_running_loop()
        sleeper = self._sleeper = loop.create_future()

        def stop(_: object = None) -> None:
            if not sleeper.done():
                sleeper.set_result(None)

        timer = loop.call_at(self._next_check, stop)
        if listener is not None:
            listener.add_done_callback(stop)
        try:
            await sleeper
        finally:
            self._sleeper = None
            timer.cancel()
            if listener is not None:
                listener.remove_done_callback(stop)

    async def _check(self, changes: AbstractConnection) -> None:
        """Ask for everything, and whether somebody is there."""
        now = asyncio.get_running_loop().time()
        if self._tracks:
            if self._heard < self._pinged:
                raise TimeoutError(f"it did not answer for {_INTERVAL} seconds")
            self._pinged = now
            await changes.send_command("PING", check_health=False)
        self._next_check = now + _INTERVAL
        for queue in self._queues.values():
            queue.changed = True
            queue.wrong = False
            if not queue.readers and not self._waiting(queue.name):
                queue.leaving = True

    def _wanted(self) -> list[str]:
        return [
            self._prefix + queue.name
            for queue in self._queues.values()
            if self._wants(queue)
        ]

    async def _block(
        self, pops: AbstractConnection, own_id: int | None, keys: list[str]
    ) -> None:
        """Pop the next message of any of some queues, or wait until a reader comes."""
        self._blocking = own_id
        # Without an ID it cannot be told of readers, and looks for them.
        longest = _INTERVAL if own_id is not None else 1.0
        asking = asyncio.create_task(_ask(pops, "BZPOPMIN", *keys, longest))
        try:
            # What has arrived while the event loop was blocked is read in the second.
            for patience in (longest + self._timeout, _GRACE):
                await asyncio.wait([asking], timeout=patience)
            if not asking.done():
                raise TimeoutError(f"it did not reply for {self._timeout} seconds")
            reply = await asking
        finally:
            self._blocking = None
            asking.cancel()
        if reply is None:
            return
        key, value, score = cast("tuple[bytes, bytes, bytes]", reply)
        queue = self._queues[self._name_of(key)]
        queue.changed = True
        queue.kept = False
        self._give_away(Popped(queue, score, value, self._expiry))

    def _unblock(self, own_id: int) -> None:
        """End what blocks; if it does not block yet, soon."""

        def again(reply: "asyncio.Future[Any]") -> None:
            if reply.cancelled() or reply.exception() is not None or reply.result():
                return
            asyncio.get_running_loop().call_later(0.01, self._unblock, own_id)

        if self._blocking != own_id:
            return
        self._commands.submit("CLIENT", "UNBLOCK", own_id).add_done_callback(again)


async def _ask(connection: AbstractConnection, *command: str | float) -> Any:
    await connection.send_command(*command, check_health=False)
    return cast("Any", await connection.read_response(disconnect_on_error=False))


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return cast("Any", await connection.read_response(disconnect_on_error=False))
    except ResponseError as exc:
        return exc
