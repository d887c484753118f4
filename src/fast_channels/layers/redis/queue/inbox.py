"""The inbox: the only reader of a shard in an event loop.

Tasks that receive never talk to Redis. They wait on mailboxes of this process, and the
inbox fills those from the queues in Redis, so cancelling a task never loses a message.
``batches`` decides what is requested and interprets the replies; this module has the
connections. The rules:

1. A queue is read while readers wait for its messages. A message goes into a mailbox in
   the same step in which it arrives.
2. Two connections are needed: one takes messages, and on the other one Redis reports,
   by client-side caching, that a queue has changed. Only then does the inbox ask again,
   so waiting costs nothing. Where Redis refuses to report changes, the inbox polls.
   See ``tracking``.
3. All replies of a round trip are read before any of them can raise: a queue that Redis
   refuses does not affect the others.
4. Only silence means that a server is gone. While the bytes of a large reply arrive,
   however slowly, the connection is alive.
5. After any failure of a connection, the inbox reopens both, until it is closed.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any, ClassVar

from fast_channels.layers.redis.link import Link
from fast_channels.layers.redis.outage import Outage
from fast_channels.layers.redis.progress import Progress, limit_silence
from fast_channels.layers.redis.scripts import run
from fast_channels.layers.redis.shards import Shard
from fast_channels.layers.redis.wire import (
    Connection,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisConnectionError,
    ResponseError,
    is_in_transit,
    is_refusal,
    pack,
)

from .batches import Call, Popped, ProcessQueue, Queue, Terms
from .plain_queue import PlainQueue
from .tracking import InboxTiming, Tracking

__all__ = ["Inbox", "InboxTiming", "Popped"]

_logger = logging.getLogger(__name__)


class Inbox:
    """Reads queues of one shard, and delivers their messages.

    It connects for the first reader, and stays connected until ``close()``. It belongs
    to one event loop.

    Args:
        shard: The shard.
        receiver: Unique name of this inbox.
        expiry: Seconds that a message can wait in Redis.
        max_deliveries: Deliveries after which a message of a plain channel is a dead
            letter, if each of its receivers died; 0 for no limit.
        deliver: Called with each message taken.
        waiting: Returns how many messages wait in the mailbox of a plain channel.
        connected: Called after each connect.
        flushed: Called when all keys of the server have been deleted.
        timing: When to do the rest; by default the class attribute.
    """

    timing: ClassVar[InboxTiming] = InboxTiming()

    def __init__(
        self,
        shard: Shard,
        *,
        receiver: str,
        expiry: float,
        max_deliveries: int,
        deliver: Callable[[Popped], None],
        waiting: Callable[[str], int],
        connected: Callable[[], None],
        flushed: Callable[[], None],
        timing: InboxTiming | None = None,
    ) -> None:
        self._shard = shard
        self._timing = timing or self.timing
        self._terms = Terms(
            shard.prefix,
            receiver,
            expiry,
            self._timing.lease,
            max_deliveries,
            batch=self._timing.batch,
            quick=self._timing.quick,
        )
        self._deliver = deliver
        self._waiting = waiting
        self._connected = connected
        self._flushed = flushed
        self._queues: dict[str, Queue] = {}
        self._tracking = Tracking(shard, self._timing)
        # When to check all queues next, changed or not.
        self._next_check = 0.0
        # Whether to send scripts in full, as the server does not know them.
        self._whole_scripts = False
        self._outage = Outage(_logger, shard.name, "read")
        self._link = Link(
            self._use,
            timing=self._timing,
            outage=self._outage,
            suspect=None if shard.tripwire is None else self._suspect,
        )
        # Earliest time to ask again after a refusal that does not depend on the queue.
        self._ask_again = 0.0
        # Outages of single queues: Redis denies access, or the key has another type.
        self._refused: dict[str, Outage] = {}
        self.connects: int = 0
        """Number of times it has connected."""

    @property
    def failing(self) -> bool:
        """Whether the last attempt to read from Redis failed."""
        return self._outage.lasts

    # Readers

    def want(self, name: str) -> None:
        """Add a reader to a queue."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = self._make_queue(name)
        elif not queue.readers:
            # At the end: the reader that has waited longest is served first.
            self._queues[name] = self._queues.pop(name)
        queue.readers += 1
        self.wake()

    def unwant(self, name: str) -> None:
        """Remove a reader from a queue."""
        queue = self._queues.get(name)
        if queue is not None and queue.readers:
            queue.readers -= 1
            if queue.readers and queue.changed:
                # The queue was not read until this reader had taken its message.
                self.wake()

    def wake(self) -> None:
        """Check the queues soon."""
        self._link.wake()

    def reconnect(self) -> None:
        """Reopen the connections."""
        self._link.drop()

    async def stop(self) -> None:
        """Stop reading; nothing is delivered after that."""
        await self._link.close()

    async def close(self) -> None:
        """Stop reading, and give back messages that were not handled, if possible."""
        await self.stop()
        queues, self._queues = self._queues, {}
        # If Redis cannot be reached now, leases and keys expire by themselves.
        await asyncio.gather(
            *[self._leave(queue) for queue in queues.values()], return_exceptions=True
        )

    async def _leave(self, queue: Queue) -> None:
        queue.readers = 0
        if not queue.idle:
            script, keys, arguments = queue.leave()
            reply = await run(self._shard.commands, script, keys, *arguments)
            # For the queue of a process, the reply can be a batch that was in transit.
            self._accept(queue, [reply, 0])

    def _make_queue(self, name: str) -> Queue:
        if name.endswith("!"):
            return ProcessQueue(name, self._terms)
        return PlainQueue(name, self._terms, self._waiting, self._link.resume)

    # The task

    async def _use(self) -> None:
        """Connect, and read until a connection breaks, or the shard has moved."""
        try:
            await self._read()
        except Exception as exc:
            if not self._shard.broken(exc):
                raise

    async def _read(self) -> None:
        pops, changes = self._shard.connect(), self._shard.connect()
        self._link.own(pops, changes)
        async with asyncio.timeout(self._shard.timeout):
            await self._tracking.open(pops, changes)
        listener: asyncio.Task[None] | None = None
        if self._tracking.reports_changes:
            listener = self._link.spawn(self._listen(changes))
            self._link.spawn(self._link.keep_alive(changes, Progress(changes)))
        for queue in self._queues.values():
            queue.reconnected()
        self._next_check = asyncio.get_running_loop().time() + self._tracking.check
        self.connects += 1
        self._connected()
        await self._serve(pops, listener)

    async def _serve(
        self, pops: Connection, listener: "asyncio.Task[None] | None"
    ) -> None:
        """Send the requests that are due, until a connection breaks."""
        loop = asyncio.get_running_loop()
        track_again = loop.time() + self._timing.track_again
        progress = Progress(pops)
        while listener is None or not listener.done():
            now = loop.time()
            if now >= self._next_check:
                self._check(now)
            due = [queue for queue in self._queues.values() if queue.due(now)]
            if due:
                async with limit_silence(
                    progress, self._shard.timeout, self._timing.grace
                ):
                    await self._exchange(pops, due)
                continue
            if now >= self._ask_again:
                self._link.works()
            if listener is None and now >= track_again:
                # Reconnect, as Redis may report changes by now.
                return
            await self._sleep(now, polls=listener is None)
        await listener

    def _suspect(self) -> None:
        self._shard.broken(TimeoutError("it does not answer"))

    async def _listen(self, changes: Connection) -> None:
        """Record which queues change, until the connection breaks."""
        loop = asyncio.get_running_loop()
        while True:
            push = await changes.read_response(disconnect_on_error=False)
            if push[0] == b"sunsubscribe":
                self._shard.broken(RedisConnectionError("its slot has moved"))
                return
            if push[0] != b"message":
                continue
            if push[2] is None:
                # None stands for all keys.
                names = list(self._queues)
                self._flushed()
            else:
                names = [self._name_of(key) for key in push[2]]
            for name in names:
                queue = self._queues.get(name)
                if queue is not None:
                    queue.note_change(loop.time())
                    if queue.readers:
                        self._link.resume()

    # Requests

    async def _exchange(self, pops: Connection, due: list[Queue]) -> None:
        """Send the request of each queue, and deliver the messages that arrive."""
        loop = asyncio.get_running_loop()
        requests: list[tuple[Queue, list[Call]]] = []
        packed: list[bytes] = []
        for queue in due:
            calls = queue.ask(loop.time())
            requests.append((queue, calls))
            packed += [self._pack(call) for call in calls]
            # Reading the key makes Redis report its next change.
            packed.append(pack(("ZCARD", queue.key)))
        self._whole_scripts = False
        await pops.send_packed_command(b"".join(packed), check_health=False)
        problems: list[tuple[Queue, ResponseError]] = []
        for queue, calls in requests:
            replies = [await _reply(pops) for _ in range(len(calls) + 1)]
            errors = [reply for reply in replies if isinstance(reply, ResponseError)]
            if errors:
                problems.append((queue, errors[0]))
            else:
                self._accept(queue, replies)
        for queue, error in problems:
            self._refuse(queue, error)

    def _pack(self, call: Call) -> bytes:
        script, keys, arguments = call
        how = ("EVAL", script.text) if self._whole_scripts else ("EVALSHA", script.sha)
        return pack((*how, len(keys), *keys, *arguments))

    def _accept(self, queue: Queue, replies: list[Any]) -> None:
        *replies, waiting = replies
        if queue.name in self._refused:
            self._refused.pop(queue.name).end()
        now = asyncio.get_running_loop().time()
        for popped in queue.accept(replies, waiting, now):
            try:
                self._deliver(popped)
            except Exception:
                # A bug in this library, but the next message must not suffer from it.
                _logger.exception("a message of %r was lost", queue.name)
                popped.acknowledge()
        if isinstance(queue, PlainQueue):
            self._log_deaths(queue)

    def _log_deaths(self, queue: PlainQueue) -> None:
        if queue.recovered:
            _logger.warning(
                "%d messages of channel %r are delivered again: the process that took "
                "them has died, or has not reached Redis for %s seconds",
                queue.recovered,
                queue.name,
                self._terms.lease,
            )
        if queue.dead_letters:
            _logger.error(
                "%d messages of channel %r have each been taken by %d processes that "
                "died, and are not delivered again; dead_letters(%r) of the layer "
                "returns them",
                queue.dead_letters,
                queue.name,
                self._terms.max_deliveries,
                queue.name,
            )

    def _refuse(self, queue: Queue, error: ResponseError) -> None:
        """Handle the failure of a script, which has changed nothing."""
        now = asyncio.get_running_loop().time()
        queue.fail()
        if isinstance(error, NoScriptError):
            self._whole_scripts = True
        elif self._shard.tripwire is not None and is_in_transit(error):
            queue.ask_again = now + self._timing.poll
        elif "WRONGTYPE" in str(error) or _is_about_keys(error):
            # Asking again soon would not help, but other queues can be read.
            queue.ask_again = now + self._timing.check
            use = f"asked for channel {queue.name!r}"
            refused = self._refused.setdefault(
                queue.name, Outage(_logger, self._shard.name, use)
            )
            refused.begin(error)
        elif is_refusal(error) and not isinstance(
            error, ReadOnlyError | MasterDownError
        ):
            queue.ask_again = self._ask_again = now + self._timing.refused
            self._outage.begin(error)
        else:
            # Another server is the master, or a new connection may help.
            raise error

    def _name_of(self, key: bytes) -> str:
        return key.decode(errors="replace").removeprefix(self._terms.prefix)

    # Waiting

    async def _sleep(self, now: float, *, polls: bool) -> None:
        """Wait until a queue changes, a reader comes, or the next request is due.

        Args:
            now: The time at which no queue was due.
            polls: Whether queues can change without a report of Redis.
        """
        times = [queue.ask_again for queue in self._queues.values()]
        until = min([each for each in times if each > now], default=math.inf)
        until = min(until, self._next_check)
        if polls:
            until = min(until, now + self._timing.poll)
        loop = asyncio.get_running_loop()
        timer = loop.call_at(until, self._link.resume)
        try:
            await self._link.sleeper()
        finally:
            timer.cancel()
        if polls:
            for queue in self._queues.values():
                queue.changed = True

    def _check(self, now: float) -> None:
        """Check all queues, changed or not, and forget those that are not in use."""
        self._next_check = now + self._tracking.check
        for name, queue in list(self._queues.items()):
            queue.changed = queue.checks = True
            if queue.idle:
                del self._queues[name]


def _is_about_keys(error: ResponseError) -> bool:
    """Return whether Redis refuses the keys of one channel."""
    text = str(error)
    return "access at least one of the keys" in text or "access a key" in text


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ResponseError as exc:
        return exc
