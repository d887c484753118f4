"""The subscriber: the one subscribed connection to a shard in an event loop.

Other code sets which names are wanted, and never touches the connection. The rules:

1. Subscriptions follow the wanted names. The owner task sends the server all changes of
   one turn of the event loop in as few commands as possible, and after a reconnect all
   wanted names.
2. A caller that listens to a name waits until the server has confirmed the last change
   of that name. From then on, no message is missed while the connection holds.
3. When the connection fails for any reason, the owner task opens a new one, until the
   subscriber is closed. A server that sends no byte after a PING counts as gone; one
   that sends part of a large message does not.
4. Messages are delivered in order, as they are read; after a number of them, other
   tasks can run.
"""

import asyncio
import itertools
import logging
import math
import random
from collections.abc import Callable

from fast_channels.layers.redis.attempts import open_connection
from fast_channels.layers.redis.outage import Outage
from fast_channels.layers.redis.progress import Progress
from fast_channels.layers.redis.wire import Connection, RedisError, pack
from fast_channels.waking import wake

__all__ = ["Pattern", "Subscriber"]

_logger = logging.getLogger(__name__)

# Seconds of silence after which the server gets a PING, and seconds it has to reply.
# The latter also limit the wait for a confirmation while the server is silent.
_PING_EVERY = 5.0
_PATIENCE = 2.0
# Seconds in which a loop that was blocked can read what was sent meanwhile.
_GRACE = 0.05
# Seconds between two attempts to connect: they grow, with jitter. Half a second after a
# server is back, so are all subscriptions.
_BACKOFF = (0.01, 0.35)
# Maximum number of names in one command, and of names sent before other tasks can run.
_CHUNK = 1000
_TURN = 10_000
# Messages to read in a row before other tasks can run.
_RUN = 64


class Pattern(str):
    """A pattern for the names of channels, as Redis' ``PSUBSCRIBE`` takes it."""

    __slots__ = ()


class Subscriber:
    """Listens to Redis channels and patterns on one connection.

    It connects at the first ``listen()``, and stays connected until ``close()``. It
    belongs to one event loop.

    Args:
        connect: Makes a connection of redis-py, which is not open yet.
        name: Name of the server in the log.
        received: Called with each message: the name of the Redis channel, and the data.
        lost: Called when a connection that had all subscriptions has broken.
        restored: Called when a later connection has all subscriptions.
        timeout: Seconds to wait for a connection.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        name: str,
        received: Callable[[bytes, bytes], None],
        lost: Callable[[], None],
        restored: Callable[[], None],
        timeout: float,
    ) -> None:
        self._connect = connect
        self._name = name
        self._received = received
        self._lost = lost
        self._restored = restored
        self._timeout = timeout
        # The number of listeners of each name.
        self._wanted: dict[str, int] = {}
        # Names that may have to be subscribed to or unsubscribed from.
        self._changed: dict[str, None] = {}
        # Names subscribed to on this connection, confirmed or not.
        self._told: set[str] = set()
        # The number of commands on each name that the server has not confirmed yet.
        self._unconfirmed: dict[str, int] = {}
        # The futures that callers await until a name is confirmed.
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._task: asyncio.Task[None] | None = None
        # The timeout in which the task uses a connection; it expires to drop that.
        self._serving: asyncio.Timeout | None = None
        # The reason why the connection was dropped; None for a deliberate reconnect.
        self._why: Exception | None = None
        # The future that the task awaits while there are no changes to send.
        self._sleeper: asyncio.Future[None] | None = None
        # When the connection last received bytes; None without a connection.
        self._progress: Progress | None = None
        # When the last full run of messages was read.
        self._read_at = 0.0
        # The time since which there are unconfirmed changes; None if there are none.
        self._behind: float | None = None
        # Since when the server seems silent, and when that was noticed.
        self._suspected: tuple[float, float] | None = None
        # Whether all wanted names have once been confirmed on this connection.
        self._complete = False
        self._outage = Outage(_logger, name, "listened to")
        self.connects: int = 0
        """Number of connections opened so far."""

    @property
    def away(self) -> bool:
        """Whether it is useless to wait for the server to confirm a change.

        The server cannot be reached, or has been silent for seconds after a command.
        """
        if self._outage.lasts or self._behind is None:
            return self._outage.lasts
        now = asyncio.get_running_loop().time()
        silent_since = max(self._behind, self._last_heard())
        if now - silent_since <= _PATIENCE:
            return False
        if self._suspected is None or self._suspected[0] != silent_since:
            # The event loop may have been blocked, and what came is still to be read.
            self._suspected = silent_since, now
        return now - self._suspected[1] >= _GRACE

    def listen(self, name: str) -> None:
        """Add a listener to a channel or a pattern."""
        wanted = self._wanted.get(name, 0)
        self._wanted[name] = wanted + 1
        if not wanted:
            self._change(name)

    def pending(self, name: str) -> "asyncio.Future[None] | None":
        """Return a future for the confirmation of a name; None if none is expected."""
        if name not in self._wanted:
            return None
        if name in self._told and name not in self._unconfirmed:
            return None
        waiter = self._waiters.get(name)
        if waiter is None:
            waiter = self._waiters[name] = asyncio.get_running_loop().create_future()
        return waiter

    def ignore(self, name: str) -> None:
        """Remove a listener from a channel or a pattern."""
        wanted = self._wanted.get(name, 0)
        if wanted > 1:
            self._wanted[name] = wanted - 1
        elif wanted:
            del self._wanted[name]
            self._change(name)
            _resolve(self._waiters.pop(name, None))

    def reconnect(self) -> None:
        """Replace the connection with a new one."""
        self._drop(None)

    async def close(self) -> None:
        """Disconnect, and remove all listeners."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._wanted.clear()
        self._changed.clear()
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            _resolve(waiter)

    def _drop(self, why: Exception | None) -> None:
        if self._serving is not None and not self._serving.expired():
            self._why = why
            self._serving.reschedule(0)

    def _last_heard(self) -> float:
        """Return when the server last sent anything, on the clock of the event loop."""
        if self._progress is None:
            return -math.inf
        return max(self._progress.heard(), self._read_at)

    def _change(self, name: str) -> None:
        self._changed[name] = None
        if self._behind is None:
            self._behind = asyncio.get_running_loop().time()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        elif self._sleeper is not None:
            wake(self._sleeper)

    # The task

    async def _run(self) -> None:
        """Connect and listen; repeat when the connection breaks."""
        delay, longest = _BACKOFF
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            why: Exception | None = None
            serving = self._serving = asyncio.timeout(None)
            try:
                async with serving:
                    await self._serve()
            except Exception as exc:  # noqa: BLE001 # whatever it is, others go on
                why = self._why if serving.expired() else exc
                self._fail(why)
            finally:
                self._serving = None
            if self._complete:
                self._complete = False
                delay = _BACKOFF[0]
                self._lost()
            # An attempt that has timed out needs no further pause.
            if not isinstance(why, TimeoutError) or loop.time() - begun < longest:
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 # jitter
            delay = min(2 * delay, longest)

    def _fail(self, why: Exception | None) -> None:
        """Log why the connection broke, or could not be opened.

        Args:
            why: The reason; None for a deliberate reconnect, which is not logged.
        """
        if why is None:
            return
        # RuntimeError: uvloop raises it for a transport that was closed.
        known = isinstance(why, RedisError | OSError | RuntimeError)
        if not known and not self._outage.lasts:
            _logger.error("a fault in the subscriber to %s", self._name, exc_info=why)
        self._outage.begin(why)

    async def _serve(self) -> None:
        """Connect, and listen until the connection breaks."""
        loop = asyncio.get_running_loop()
        connection = await open_connection(self._connect, self._timeout)
        try:
            self.connects += 1
            self._changed = dict.fromkeys(self._wanted)
            if self._behind is None:
                self._behind = loop.time()
            self._progress = Progress(connection)
            reader = asyncio.create_task(self._read(connection))
            reader.add_done_callback(self._stop_sleeping)
            watch = asyncio.create_task(self._watch(connection))
            self._settle()
            try:
                while not reader.done():
                    if self._changed:
                        await self._tell(connection)
                    else:
                        self._sleeper = loop.create_future()
                        try:
                            await self._sleeper
                        finally:
                            self._sleeper = None
                await reader
            finally:
                # Closed: the garbage collector runs this after a bare loop.close().
                if not loop.is_closed():
                    for task in (reader, watch):
                        task.cancel()
                    await asyncio.gather(reader, watch, return_exceptions=True)
        finally:
            self._progress = None
            self._told.clear()
            self._unconfirmed.clear()
            if not loop.is_closed():
                await connection.disconnect(nowait=True)

    def _stop_sleeping(self, _: object) -> None:
        if self._sleeper is not None:
            wake(self._sleeper)

    async def _watch(self, connection: Connection) -> None:
        """Send a PING to a silent server; drop the connection if it stays silent."""
        loop = asyncio.get_running_loop()
        while True:
            heard = self._last_heard()
            silent = loop.time() - heard
            if silent < _PING_EVERY:
                await asyncio.sleep(_PING_EVERY - silent)
                continue
            # In a task, since sending blocks if the server does not read either.
            asking = asyncio.create_task(
                connection.send_command("PING", check_health=False)
            )
            try:
                await asyncio.sleep(_PATIENCE)
                await asyncio.sleep(_GRACE)
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            if self._last_heard() == heard:
                self._drop(TimeoutError(f"it did not answer for {_PATIENCE} seconds"))
                return

    async def _tell(self, connection: Connection) -> None:
        """Send the changes to the server, at most ``_TURN`` of them."""
        begin: list[str] = []
        end: list[str] = []
        for name in list(itertools.islice(self._changed, _TURN)):
            del self._changed[name]
            wanted = name in self._wanted
            if wanted != (name in self._told):
                (begin if wanted else end).append(name)
                self._unconfirmed[name] = self._unconfirmed.get(name, 0) + 1
        self._told.update(begin)
        self._told.difference_update(end)
        packed = [
            pack((verb, *names[start : start + _CHUNK]))
            for verb, names in (
                ("SUBSCRIBE", [name for name in begin if type(name) is str]),
                ("PSUBSCRIBE", [name for name in begin if type(name) is Pattern]),
                ("UNSUBSCRIBE", [name for name in end if type(name) is str]),
                ("PUNSUBSCRIBE", [name for name in end if type(name) is Pattern]),
            )
            for start in range(0, len(names), _CHUNK)
        ]
        if packed:
            await connection.send_packed_command(b"".join(packed), check_health=False)
        self._settle()
        if self._changed:
            await asyncio.sleep(0)

    async def _read(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        received = self._received
        in_a_row = 0
        while True:
            reply = await connection.read_response(disconnect_on_error=False)
            match reply:
                case [b"message", channel, data] | [b"pmessage", _, channel, data]:
                    received(channel, data)
                case [_, name, int()]:
                    self._confirm(name.decode(errors="replace"))
                case _:
                    # The reply to a PING, whose form depends on subscriptions.
                    pass
            in_a_row += 1
            if in_a_row >= _RUN:
                in_a_row = 0
                self._read_at = loop.time()
                await asyncio.sleep(0)

    def _confirm(self, name: str) -> None:
        """Record that the server has confirmed a command on a name."""
        left = self._unconfirmed[name] - 1
        if left:
            self._unconfirmed[name] = left
            return
        del self._unconfirmed[name]
        if name in self._told:
            _resolve(self._waiters.pop(name, None))
        self._settle()

    def _settle(self) -> None:
        """Record that all changes are confirmed, if they are."""
        if self._unconfirmed or self._changed:
            return
        self._behind = None
        if self._complete:
            return
        self._complete = True
        self._outage.end()
        if self.connects > 1:
            self._restored()


def _resolve(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
