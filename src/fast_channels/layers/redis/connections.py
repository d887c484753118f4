"""The command connection: one for each server and event loop, shared by all tasks.

The rules:

1. Commands of one turn of the event loop leave in one write, and their replies are
   matched to them in order: tasks that send at once share a round trip.
2. Whoever waits for a reply may be cancelled. The command is sent and its reply read
   all the same, and dropped; the connection goes on.
3. When the connection breaks or is dropped, a command that was written fails, since
   nobody knows whether it was carried out; a command that was not is sent on the next
   connection. It is dropped when the server turns out to be a replica, too.
4. A command waits for a connection for a bounded time, then it fails too; and sooner
   while all that came before it has failed.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from fast_channels.loop import wake

from .packing import pack

__all__ = ["CommandConnection", "RedisUnavailable"]

# Seconds between two attempts: they grow from the first to the second, with jitter.
_BACKOFF = (0.01, 0.5)
# For how many seconds to try to connect after all attempts have failed.
_SHORT = 0.5
# Seconds in which a loop that was blocked can read what was sent meanwhile.
_GRACE = 0.05

_Reply: TypeAlias = "asyncio.Future[Any]"


class RedisUnavailable(ConnectionError):
    """Redis cannot be reached, or went away before it replied."""


class CommandConnection:
    """Sends commands on one connection, and reconnects when it breaks.

    It connects with the first command, and stays connected until ``close()``; it can be
    used again afterwards. Belongs to one event loop.

    Args:
        connect: Makes a connection of redis-py, which is not open yet. It must speak
            RESP2, decode nothing, and have no timeout for reading.
        name: What errors call the server.
        timeout: For how many seconds commands wait: for a connection, and for the
            server to reply to any of them.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        name: str,
        *,
        timeout: float = 5.0,
    ) -> None:
        self._connect = connect
        self._name = name
        self._timeout = timeout
        # When something was last heard of the server, on the clock of the loop.
        self._heard = 0.0
        # Commands that were not written yet, with the futures of their replies.
        self._outbox: list[tuple[bytes, _Reply]] = []
        # The futures of the commands that were written, in that order.
        self._written: deque[_Reply] = deque()
        # Connects, writes and reads, while there is anything to do or a connection.
        self._owner: asyncio.Task[None] | None = None
        # What the owner sleeps on while it has nothing to write.
        self._sleeper: asyncio.Future[None] | None = None
        # What the owner opens and uses a connection in: it expires to drop it, and why.
        self._lease: asyncio.Timeout | None = None
        self._dropped: Exception = _closed()
        # Looks whether the server replies, while it has to.
        self._watch: asyncio.TimerHandle | None = None
        # Whether the last attempts were given up.
        self._away = False
        self.connects: int = 0
        """How many times a connection was opened."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open, or being opened."""
        return self._owner is not None

    def submit(self, *command: str | bytes | float) -> _Reply:
        """Send a command soon, and return the future of its reply.

        The future raises ``redis.exceptions.ResponseError`` for a reply that is an
        error, and ``RedisUnavailable`` if there is no reply. Cancelling it does not
        take the command back.
        """
        reply: _Reply = asyncio.get_running_loop().create_future()
        self._outbox.append((pack(command), reply))
        if self._owner is None:
            self._owner = asyncio.create_task(self._own())
        else:
            self._wake()
        return reply

    async def execute(self, *command: str | bytes | float) -> Any:
        """Send a command and return its reply.

        Cancelling does not take the command back, and does no harm to the connection.

        Raises:
            ResponseError: The reply is an error.
            RedisUnavailable: There is no reply.
        """
        return await self.submit(*command)

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
                if loop.time() + delay > give_up:
                    raise problem from None
            else:
                self._away = False
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
                    self._written.extend(reply for _, reply in batch)
                    if self._watch is None:
                        self._watch = loop.call_later(self._timeout, self._look)
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
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def _wake(self, _: object = None) -> None:
        if self._sleeper is not None:
            wake(self._sleeper)

    def _look(self, heard: float = -1) -> None:
        """Drop the connection if commands wait for a reply, and none came for long.

        One timer for all commands, as one for each would cost more than the command.
        """
        self._watch = None
        if not self._written:
            return
        loop = asyncio.get_running_loop()
        left = self._heard + self._timeout - loop.time()
        if left > 0:
            self._watch = loop.call_later(left, self._look)
        elif heard != self._heard:
            self._watch = loop.call_later(_GRACE, self._look, self._heard)
        else:
            self._drop(TimeoutError(f"it did not reply for {self._timeout} seconds"))

    async def _read(self, connection: AbstractConnection) -> None:
        """Give each reply to whoever waits for it, until the connection breaks."""
        loop = asyncio.get_running_loop()
        while True:
            value: Any
            try:
                value = await connection.read_response(disconnect_on_error=False)  # pyright: ignore[reportUnknownVariableType] # redis-py leaves it untyped
            except ResponseError as exc:
                if _is_from_replica(exc):
                    raise
                value = exc
            except BusyLoadingError as exc:
                value = self._unavailable(exc)
            self._heard = loop.time()
            reply = self._written.popleft()
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
        self._fail_written(error)
        outbox, self._outbox = self._outbox, []
        self._fail([reply for _, reply in outbox], error)

    def _fail(self, replies: Iterable[_Reply], cause: BaseException) -> None:
        for reply in replies:
            if not reply.done():
                reply.set_exception(self._unavailable(cause))

    def _unavailable(self, cause: BaseException) -> RedisUnavailable:
        why = str(cause) or type(cause).__name__
        error = RedisUnavailable(f"{self._name} is not available: {why}")
        error.__cause__ = cause
        return error


def _closed() -> ConnectionError:
    return ConnectionAbortedError("the layer was closed")


def _is_from_replica(error: ResponseError) -> bool:
    # Before Redis 7, what went wrong in a script is in the text alone.
    return isinstance(error, ReadOnlyError) or "-READONLY " in str(error)
