"""The command connection: one per server and event loop, shared by all tasks.

The rules:

1. The commands of one turn of the event loop leave in one write, and replies are
   matched to them in order: tasks that send at the same time share a round trip.
2. Cancelling a task that waits for a reply doesn't affect the connection: the command
   is still sent, and its reply is read and discarded.
3. When the connection breaks or is dropped, commands that were written fail, as Redis
   may or may not have executed them; the others are sent on the next connection. The
   connection is also dropped when the server turns out to be a replica.
4. Each command has one deadline, set when it is submitted, which covers every wait: for
   a full socket, a new connection, a reply. During an outage, in which all attempts to
   connect fail, it fails sooner.
5. A command that Redis refuses for a temporary reason fails as if it were unreachable.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from fast_channels.exceptions import RedisUnavailable
from fast_channels.waking import wake

from .trouble import describe, is_refusal
from .wire import (
    AuthenticationError,
    Connection,
    ReadOnlyError,
    RedisError,
    ResponseError,
    pack,
)

__all__ = ["CommandConnection"]

# Seconds between attempts to connect: from the first to the second, with jitter.
_BACKOFF = (0.01, 0.5)
# Seconds to try to connect after all previous attempts have failed.
_SHORT = 0.5
# Seconds for an event loop that was blocked to read replies that arrived meanwhile.
_GRACE = 0.05

_Reply: TypeAlias = "asyncio.Future[Any]"
# A reply and its deadline, on the event loop's clock.
_Pending: TypeAlias = tuple[_Reply, float]


class CommandConnection:
    """A connection for commands, which reconnects when it breaks.

    It connects for the first command and stays connected until ``close()``; it can be
    used again afterwards. It belongs to one event loop.

    Args:
        connect: Returns a new redis-py connection, not open yet. It must use RESP2, not
            decode replies, and have no timeout for reading.
        name: Name of the server in error messages.
        timeout: Seconds until a command without a reply fails, and until a connection
            with pending commands on which no reply arrives is dropped.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        name: str,
        *,
        timeout: float = 5.0,
    ) -> None:
        self._connect = connect
        self.name: str = name
        """Name of the server in error messages."""
        self._timeout = timeout
        # The rest of the timeout is for the second check, see _look().
        self._patience = timeout - _GRACE
        # Time of the last reply, or of a write while no reply was pending.
        self._heard = 0.0
        # Commands that are not written yet.
        self._outbox: list[tuple[bytes, _Pending]] = []
        # The pending replies of written commands, in the order of the commands.
        self._written: deque[_Pending] = deque()
        # Task that connects, writes and reads while there is a command or a connection.
        self._owner: asyncio.Task[None] | None = None
        # Future that the owner waits on while there is nothing to write.
        self._sleeper: asyncio.Future[None] | None = None
        # Timeout around the use of a connection, which expires to drop it; the reason.
        self._lease: asyncio.Timeout | None = None
        self._dropped: Exception = _closed()
        # Timer that checks the deadlines: one for all commands, as a timer for each
        # would cost more than the command.
        self._watch: asyncio.TimerHandle | None = None
        # Error of the latest failed attempt to connect; None after a success.
        self._problem: Exception | None = None
        # Whether the latest attempts to connect have failed, or are still under way.
        self._away = False
        self.connects: int = 0
        """Number of connections opened."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open, or being opened."""
        return self._owner is not None

    def deadline(self) -> float:
        """Return the deadline of a command that is submitted now.

        It is on the event loop's clock. A task that sends several commands, each after
        the reply to the previous one, passes the same deadline to all of them.
        """
        return asyncio.get_running_loop().time() + self._patience

    def submit(
        self, *command: str | bytes | float, deadline: float | None = None
    ) -> _Reply:
        """Send a command soon, and return the future of its reply.

        The future raises ``redis.exceptions.ResponseError`` for an error reply that is
        not a refusal, and ``RedisUnavailable`` if Redis refuses the command or does not
        reply in time. Cancelling the future does not withdraw the command.

        Args:
            command: The command's name and arguments.
            deadline: The deadline of the operation that the command is part of.
        """
        loop = asyncio.get_running_loop()
        reply: _Reply = loop.create_future()
        sooner = deadline is not None
        if deadline is None:
            deadline = loop.time() + self._patience
        self._outbox.append((pack(command), (reply, deadline)))
        if self._watch is None or (sooner and deadline < self._watch.when()):
            self._look_at(deadline)
        if self._owner is None:
            owner = asyncio.create_task(self._own())
            # A task that starts eagerly can have ended already.
            if not owner.done():
                self._owner = owner
        else:
            self._wake()
        return reply

    async def execute(
        self, *command: str | bytes | float, deadline: float | None = None
    ) -> Any:
        """Send a command and return its reply.

        Cancelling does not withdraw the command, and does not harm the connection.

        Raises:
            ResponseError: The reply is an error that is not a refusal.
            RedisUnavailable: Redis refuses the command, or does not reply in time.
        """
        return await self.submit(*command, deadline=deadline)

    def reconnect(self) -> None:
        """Drop the connection, even one that is still being opened.

        Commands that wait for a reply fail; the others are sent on a new connection.
        """
        self._drop(ConnectionAbortedError("the connection was dropped"))

    async def close(self) -> None:
        """Close the connection; all pending commands fail."""
        owner = self._owner
        if owner is not None:
            owner.cancel()
            await asyncio.wait([owner])
            if self._owner is owner:
                # The task was cancelled before it started.
                self._end(_closed())

    def _drop(self, why: Exception) -> None:
        if self._lease is not None and not self._lease.expired():
            self._dropped = why
            self._lease.reschedule(0)

    async def _own(self) -> None:
        """Use one connection after the other, as long as there are commands."""
        try:
            while self._outbox:
                await self._use_connection()
            self._owner = None
            self._stop_looking()
        except asyncio.CancelledError:
            self._end(_closed())
            raise
        except Exception as exc:  # noqa: BLE001 # no command may wait forever
            self._end(exc)

    async def _use_connection(self) -> None:
        """Send commands on one connection until it breaks or is dropped."""
        lease = asyncio.timeout(None)
        try:
            async with lease:
                self._lease = lease
                connection = await self._open()
                try:
                    await self._serve(connection)
                except Exception as exc:  # noqa: BLE001 # uvloop has a RuntimeError for it
                    self._fail_written(exc)
                finally:
                    await connection.disconnect(nowait=True)
        except TimeoutError:
            if not lease.expired():
                raise
            self._fail_written(self._dropped)
        finally:
            self._lease = None

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        patience = min(self._timeout, _SHORT) if self._away else self._timeout
        give_up = loop.time() + patience
        self._away = True
        delay, longest = _BACKOFF
        problem: Exception | None = None
        while True:
            connection = self._connect()
            try:
                # redis-py's timeout for connecting does not cover its handshake.
                async with asyncio.timeout_at(give_up):
                    await connection.connect()
            except (AuthenticationError, ResponseError):
                # For example a wrong password: retrying would not help.
                raise
            except (RedisError, OSError) as exc:
                # An earlier error is more informative than a timeout.
                problem = exc if problem is None or str(exc) else problem
                self._problem = problem
                if loop.time() + delay > give_up:
                    raise problem from None
            else:
                self._away = False
                self._problem = None
                self.connects += 1
                return connection
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 # jitter
            delay = min(2 * delay, longest)

    async def _serve(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.create_task(self._read(connection))
        reader.add_done_callback(self._wake)
        try:
            while not reader.done():
                if self._outbox:
                    batch, self._outbox = self._outbox, []
                    if not self._written:
                        self._heard = loop.time()
                    self._written.extend(pending for _, pending in batch)
                    packed = b"".join(command for command, _ in batch)
                    await connection.send_packed_command(packed, check_health=False)
                else:
                    self._sleeper = loop.create_future()
                    try:
                        await self._sleeper
                    finally:
                        self._sleeper = None
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def _wake(self, _: object = None) -> None:
        if self._sleeper is not None:
            wake(self._sleeper)

    def _look_at(self, when: float, seen: float = -math.inf) -> None:
        self._stop_looking()
        loop = asyncio.get_running_loop()
        self._watch = loop.call_at(when, self._look, seen)

    def _stop_looking(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self, seen: float) -> None:
        """Fail commands whose deadlines have passed, and drop a silent connection.

        Both take two checks: between them, an event loop that was blocked reads the
        replies that have arrived meanwhile.

        Args:
            seen: Time of the previous check, if it found such a command.
        """
        self._watch = None
        now = asyncio.get_running_loop().time()
        late = TimeoutError(f"it did not reply for {self._timeout:g} seconds")
        overdue = self._written and self._written[0][1] <= seen
        if overdue and self._heard + self._patience <= now:
            self._drop(late)
        self._fail((each for each in self._written if each[1] <= seen), late)
        unsent = [pending for _, pending in self._outbox if pending[1] <= seen]
        if unsent:
            self._outbox = [each for each in self._outbox if each[1][1] > seen]
            self._fail(unsent, self._problem or late)
        due = [deadline for reply, deadline in self._written if not reply.done()]
        due += [deadline for _, (_, deadline) in self._outbox]
        if self._written:
            due.append(self._heard + self._patience)
        if due:
            first = min(due)
            if first <= now:
                self._look_at(now + _GRACE, now)
            else:
                self._look_at(first)

    async def _read(self, connection: Connection) -> None:
        """Match each reply to its command, until the connection breaks."""
        loop = asyncio.get_running_loop()
        while True:
            value: Any
            try:
                value = await connection.read_response(disconnect_on_error=False)
            except RedisError as exc:
                if _is_from_replica(exc):
                    raise
                if is_refusal(exc):
                    value = self._unavailable(exc)
                elif isinstance(exc, ResponseError):
                    value = exc
                else:
                    raise
            self._heard = loop.time()
            reply, _ = self._written.popleft()
            if reply.done():
                continue
            if isinstance(value, Exception):
                reply.set_exception(value)
            else:
                reply.set_result(value)

    def _fail_written(self, error: BaseException) -> None:
        written, self._written = self._written, deque()
        self._fail(written, error)

    def _end(self, error: BaseException) -> None:
        """Fail all commands, and prepare for new ones."""
        self._owner = None
        self._stop_looking()
        self._fail_written(error)
        outbox, self._outbox = self._outbox, []
        self._fail([pending for _, pending in outbox], error)

    def _fail(self, pending: Iterable[_Pending], cause: BaseException) -> None:
        for reply, _ in pending:
            if not reply.done():
                reply.set_exception(self._unavailable(cause))

    def _unavailable(self, cause: BaseException) -> RedisUnavailable:
        error = RedisUnavailable(f"{self.name} is not available: {describe(cause)}")
        error.__cause__ = cause
        return error


def _closed() -> ConnectionError:
    return ConnectionAbortedError("the layer was closed")


def _is_from_replica(error: RedisError) -> bool:
    # Before Redis 7, an error inside a script has its code in the text only.
    return isinstance(error, ReadOnlyError) or "-READONLY " in str(error)
