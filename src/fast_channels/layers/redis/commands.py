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
   Errors say whether it is certain that Redis has not executed the command.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol, TypeAlias

from fast_channels.exceptions import RedisUnavailable
from fast_channels.waking import ignore_error

from .link import Link, Timing
from .wire import (
    AuthenticationError,
    Connection,
    ReadOnlyError,
    RedisError,
    ResponseError,
    Word,
    describe,
    is_from_cluster,
    is_refusal,
    pack,
)

__all__ = ["CLOSED", "CommandConnection", "Commands", "NotSent", "can_pass"]

CLOSED = "the layer was closed"
"""Why commands fail that wait when a layer is closed."""

_Reply: TypeAlias = "asyncio.Future[Any]"
# A reply and its deadline, on the event loop's clock.
_Pending: TypeAlias = tuple[_Reply, float]


class NotSent(RedisUnavailable):
    """A command failed before it was sent, so it was not executed."""


class Commands(Protocol):
    """Where commands are sent."""

    @property
    def connects(self) -> int:
        """Number of connections opened."""
        ...

    @property
    def failing(self) -> bool:
        """Whether the last attempt to reach the server failed."""
        ...

    def deadline(self) -> float:
        """Return the deadline of a command that is sent now, for the event loop."""
        ...

    async def execute(self, *command: Word, deadline: float | None = None) -> Any:
        """Send a command and return its reply."""

    def post(self, *command: Word) -> None:
        """Send a command without waiting for its reply, which is ignored."""


def _is_refusal(error: BaseException) -> bool:
    return is_refusal(error) or is_from_cluster(error)


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
        timing: When to do the rest; by default the class attribute.
        refuses: Returns whether an error reply makes the server count as unavailable.
        broken: Called after each connection and each failed attempt, with the reason.
    """

    timing: ClassVar[Timing] = Timing()

    def __init__(
        self,
        connect: Callable[[], Connection],
        name: str,
        *,
        timeout: float = 5.0,
        timing: Timing | None = None,
        refuses: Callable[[BaseException], bool] = _is_refusal,
        broken: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._connect = connect
        self.name: str = name
        """Name of the server in error messages."""
        self._timeout = timeout
        self._timing = timing or self.timing
        self._refuses = refuses
        self._broken = broken
        # The rest of the timeout is for the second check, see _look().
        self._patience = timeout - self._timing.grace
        # Time of the last reply, or of a write while no reply was pending.
        self._heard = 0.0
        # Time at which the latest attempt to connect began; None after it succeeded.
        self._began: float | None = None
        # Commands that are not written yet.
        self._outbox: list[tuple[bytes, _Pending]] = []
        # The pending replies of written commands, in the order of the commands.
        self._written: deque[_Pending] = deque()
        self._link = Link(
            self._use,
            timing=self._timing,
            wanted=lambda: bool(self._outbox),
            ended=self._ended,
            closed=lambda: self._fail_all(ConnectionAbortedError(self._closed)),
        )
        self._closed = CLOSED
        # Timer that checks the deadlines: one for all commands, as a timer for each
        # would cost more than the command.
        self._watch: asyncio.TimerHandle | None = None
        # Error of the latest failed attempt to connect; None after a success.
        self._problem: Exception | None = None
        # Whether the latest attempts to connect have failed, or are still under way;
        # when to end them.
        self._away = False
        self._give_up: float | None = None
        self.connects: int = 0
        """Number of connections opened."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open, or being opened."""
        return self._link.running

    @property
    def failing(self) -> bool:
        """Whether the last attempt to reach the server failed."""
        return self._problem is not None

    @property
    def pending(self) -> bool:
        """Whether there are commands without a reply."""
        return bool(self._outbox or self._written)

    def silence(self) -> float:
        """Return the seconds for which commands have waited without any reply."""
        since = self._heard if self._written else self._began
        if since is None or not self.pending:
            return 0.0
        return asyncio.get_running_loop().time() - since

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
        self._link.wake()
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

    def post(self, *command: Word) -> None:
        """Send a command without waiting for its reply, which is ignored."""
        self.submit(*command).add_done_callback(ignore_error)

    def reconnect(self) -> None:
        """Drop the connection, even one that is still being opened.

        Commands that wait for a reply fail; the others are sent on a new connection.
        """
        # Another server may accept sooner.
        self._give_up = None
        self._link.drop(ConnectionAbortedError("the connection was dropped"))

    async def close(self, why: str = CLOSED) -> None:
        """Close the connection; all pending commands fail.

        Args:
            why: The reason that their errors give.
        """
        self._closed = why
        await self._link.close()

    async def _use(self) -> None:
        """Connect, and send commands until the connection breaks."""
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        if self._give_up is None:
            retry = min(self._timeout, self._timing.retry)
            self._give_up = loop.time() + (retry if self._away else self._timeout)
            self._away = True
        connection = self._connect()
        self._link.own(connection)
        # redis-py's timeout for connecting does not cover its handshake.
        async with asyncio.timeout_at(self._give_up):
            await connection.connect()
        self._away = False
        self._began = self._give_up = self._problem = None
        self.connects += 1
        self._link.works()
        reader = self._link.spawn(self._read(connection))
        while not reader.done():
            if self._outbox:
                batch, self._outbox = self._outbox, []
                if not self._written:
                    self._heard = loop.time()
                self._written.extend(pending for _, pending in batch)
                packed = b"".join(command for command, _ in batch)
                await connection.send_packed_command(packed, check_health=False)
            else:
                await self._link.sleeper()
        await reader

    def _ended(self, why: Exception | None) -> None:
        """Fail the commands that the end of a connection, or of an attempt, affects."""
        assert why is not None
        self._broken(why)
        if self._give_up is None:
            # There was a connection, or another server is to be connected to.
            self._fail_written(why)
            return
        # An earlier error is more informative than a timeout.
        if self._problem is None or str(why):
            self._problem = why
        now = asyncio.get_running_loop().time()
        if not can_pass(why) or now + self._link.pause > self._give_up:
            self._fail_all(self._problem)

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
            self._link.drop(late)
        self._fail((each for each in self._written if each[1] <= seen), late)
        unsent = [pending for _, pending in self._outbox if pending[1] <= seen]
        if unsent:
            self._outbox = [each for each in self._outbox if each[1][1] > seen]
            self._fail(unsent, self._problem or late, NotSent)
        due = [deadline for reply, deadline in self._written if not reply.done()]
        due += [deadline for _, (_, deadline) in self._outbox]
        if self._written:
            due.append(self._heard + self._patience)
        if due:
            first = min(due)
            if first <= now:
                self._look_at(now + self._timing.grace, now)
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
                if self._refuses(exc):
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

    def _fail_all(self, error: BaseException) -> None:
        self._give_up = None
        self._stop_looking()
        self._fail_written(error)
        outbox, self._outbox = self._outbox, []
        self._fail([pending for _, pending in outbox], error, NotSent)

    def _fail(
        self,
        pending: Iterable[_Pending],
        cause: BaseException,
        kind: type[RedisUnavailable] = RedisUnavailable,
    ) -> None:
        for reply, _ in pending:
            if not reply.done():
                reply.set_exception(self._unavailable(cause, kind))

    def _unavailable(
        self, cause: BaseException, kind: type[RedisUnavailable] = RedisUnavailable
    ) -> RedisUnavailable:
        error = kind(f"{self.name} is not available: {describe(cause)}")
        error.__cause__ = cause
        return error


def can_pass(error: Exception) -> bool:
    """Return whether another attempt to connect can succeed soon."""
    # For example, another attempt does not help against a wrong password.
    return isinstance(error, RedisError | OSError) and not isinstance(
        error, AuthenticationError | ResponseError
    )


def _is_from_replica(error: RedisError) -> bool:
    # Before Redis 7, an error inside a script has its code in the text only.
    return isinstance(error, ReadOnlyError) or "-READONLY " in str(error)
