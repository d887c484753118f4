"""The command connection: one for each server and event loop, shared by all tasks.

The rules:

1. Commands of one turn of the event loop leave in one write, and their replies are
   matched to them in order: tasks that send at once share a round trip.
2. Whoever waits for a reply may be cancelled. The command is sent and its reply read
   all the same, and dropped; the connection goes on.
3. When the connection breaks or is dropped, a command that was written fails, since
   nobody knows whether it was carried out; a command that was not is sent on the next
   connection. It is dropped when the server turns out to be a replica, too.
4. Each command has one deadline from the moment it is submitted, whatever it waits
   for: a full socket, a new connection, a reply. It fails sooner while all attempts to
   connect fail.
5. A command that Redis refuses for a reason that can pass fails as if Redis were away.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from fast_channels.exceptions import RedisUnavailable
from fast_channels.waking import wake

from .packing import pack
from .trouble import describe, is_refusal

__all__ = ["CommandConnection"]

# Seconds between two attempts: they grow from the first to the second, with jitter.
_BACKOFF = (0.01, 0.5)
# For how many seconds to try to connect after all attempts have failed.
_SHORT = 0.5
# Seconds in which a loop that was blocked can read what was sent meanwhile.
_GRACE = 0.05

_Reply: TypeAlias = "asyncio.Future[Any]"
# A reply, and when its command fails without one, on the clock of the loop.
_Pending: TypeAlias = tuple[_Reply, float]


class CommandConnection:
    """Sends commands on one connection, and reconnects when it breaks.

    It connects with the first command, and stays connected until ``close()``; it can be
    used again afterwards. Belongs to one event loop.

    Args:
        connect: Makes a connection of redis-py, which is not open yet. It must speak
            RESP2, decode nothing, and have no timeout for reading.
        name: What errors call the server.
        timeout: Seconds until a command without a reply fails, and until a connection
            on which replies are due and none comes is dropped.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        name: str,
        *,
        timeout: float = 5.0,
    ) -> None:
        self._connect = connect
        self.name: str = name
        """What errors call the server."""
        self._timeout = timeout
        # The rest of the time is for a second look, see _look().
        self._patience = timeout - _GRACE
        # When something was last heard of the server, on the clock of the loop.
        self._heard = 0.0
        # Commands that were not written yet.
        self._outbox: list[tuple[bytes, _Pending]] = []
        # The replies of the commands that were written, in that order.
        self._written: deque[_Pending] = deque()
        # Connects, writes and reads, while there is anything to do or a connection.
        self._owner: asyncio.Task[None] | None = None
        # What the owner sleeps on while it has nothing to write.
        self._sleeper: asyncio.Future[None] | None = None
        # What the owner opens and uses a connection in: it expires to drop it, and why.
        self._lease: asyncio.Timeout | None = None
        self._dropped: Exception = _closed()
        # Looks at the deadlines: one timer for all commands, as one for each would cost
        # more than the command.
        self._watch: asyncio.TimerHandle | None = None
        # Why the latest attempt to connect failed, until one succeeds.
        self._problem: Exception | None = None
        # Whether the last attempts were given up.
        self._away = False
        self.connects: int = 0
        """How many times a connection was opened."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open, or being opened."""
        return self._owner is not None

    def deadline(self) -> float:
        """Return when a command that is submitted now fails without a reply.

        On the clock of the event loop. What takes several commands, each sent after the
        reply to the one before, passes it to all of them.
        """
        return asyncio.get_running_loop().time() + self._patience

    def submit(
        self, *command: str | bytes | float, deadline: float | None = None
    ) -> _Reply:
        """Send a command soon, and return the future of its reply.

        The future raises ``redis.exceptions.ResponseError`` for a reply that is an
        error other than a refusal, and ``RedisUnavailable`` if Redis refuses the
        command or does not reply in time. Cancelling it does not take the command back.

        Args:
            command: The words of the command.
            deadline: When it fails without a reply, if sooner than by default.
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

        Cancelling does not take the command back, and does no harm to the connection.

        Raises:
            ResponseError: The reply is an error other than a refusal.
            RedisUnavailable: Redis refuses the command, or does not reply in time.
        """
        return await self.submit(*command, deadline=deadline)

    def reconnect(self) -> None:
        """Drop the connection, if there is one, also one that is being opened.

        Commands that wait for a reply fail; the others go to a new connection.
        """
        self._drop(ConnectionAbortedError("the connection was dropped"))

    async def close(self) -> None:
        """Close the connection; commands that wait for a reply fail."""
        owner = self._owner
        if owner is not None:
            owner.cancel()
            await asyncio.wait([owner])
            if self._owner is owner:
                # It was cancelled before it began.
                self._end(_closed())

    def _drop(self, why: Exception) -> None:
        if self._lease is not None and not self._lease.expired():
            self._dropped = why
            self._lease.reschedule(0)

    async def _own(self) -> None:
        """Serve the commands until the connection breaks or is closed."""
        try:
            while self._outbox:
                await self._use_connection()
            self._owner = None
            self._stop_looking()
        except asyncio.CancelledError:
            self._end(_closed())
            raise
        except Exception as exc:  # noqa: BLE001 # whatever it is, nobody may wait for ever
            self._end(exc)

    async def _use_connection(self) -> None:
        """Serve the commands until the connection breaks or is dropped."""
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

    async def _open(self) -> AbstractConnection:
        loop = asyncio.get_running_loop()
        patience = min(self._timeout, _SHORT) if self._away else self._timeout
        give_up = loop.time() + patience
        self._away = True
        delay, longest = _BACKOFF
        problem: Exception | None = None
        while True:
            connection = self._connect()
            try:
                # Its own timeouts end before redis-py greets the server.
                async with asyncio.timeout_at(give_up):
                    await connection.connect()  # type: ignore[no-untyped-call] # redis-py leaves it untyped
            except (AuthenticationError, ResponseError):
                # A wrong password, say: to try again would be no use.
                raise
            except (RedisError, OSError) as exc:
                # That time is up says less than what went wrong before.
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

    async def _serve(self, connection: AbstractConnection) -> None:
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

        Both need two looks: between them, a loop that was blocked reads the replies
        that came meanwhile.

        Args:
            seen: When the look before this one was, if it saw such a command.
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

    async def _read(self, connection: AbstractConnection) -> None:
        """Give each reply to whoever waits for it, until the connection breaks."""
        loop = asyncio.get_running_loop()
        while True:
            value: Any
            try:
                value = await connection.read_response(disconnect_on_error=False)  # pyright: ignore[reportUnknownVariableType] # redis-py leaves it untyped
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
        """Fail all commands, and be ready for the next."""
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
    # Before Redis 7, what went wrong in a script is in the text alone.
    return isinstance(error, ReadOnlyError) or "-READONLY " in str(error)
