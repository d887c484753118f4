"""The subscriber: the one subscribed connection to a shard in an event loop.

Others say what is to be heard, and never touch the connection. The rules:

1. What is wanted is the truth. The owner task tells the server what it does not know
   yet: all changes of one turn of the event loop in one command of each kind, and after
   a reconnect everything.
2. Who begins to listen waits until the server has confirmed the last change of that
   name. From then on nothing that is published is missed, while the connection holds.
3. Whatever goes wrong with the connection, the owner opens a new one, until it is
   closed. A server that sends no byte after a PING counts as gone; one that sends part
   of a large message does not.
4. Messages are given away as they are read, in order; after a number of them others get
   their turn on the event loop.
"""

import asyncio
import itertools
import logging
import math
import random
from collections.abc import Callable
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from fast_channels.layers.redis.attempts import open_connection
from fast_channels.layers.redis.outage import Outage
from fast_channels.layers.redis.packing import pack
from fast_channels.layers.redis.progress import Progress
from fast_channels.waking import wake

__all__ = ["Pattern", "Subscriber"]

_logger = logging.getLogger(__name__)

# After so many seconds of silence the server is asked whether it is there, and how many
# it has to answer. As long are confirmations worth waiting for.
_PING_EVERY = 5.0
_PATIENCE = 2.0
# Seconds in which a loop that was blocked can read what was sent meanwhile.
_GRACE = 0.05
# Seconds between two attempts to connect: they grow, with jitter. All is heard half a
# second after a server is back.
_BACKOFF = (0.01, 0.35)
# Names in one command, and names that are sent in one turn of the event loop.
_CHUNK = 1000
_TURN = 10_000
# After so many messages in a row others get their turn.
_RUN = 64


class Pattern(str):
    """A name that stands for all that match it, as Redis's ``PSUBSCRIBE`` has it."""

    __slots__ = ()


class Subscriber:
    """Listens to Redis channels, whose names it is told.

    It connects when somebody wants to listen first, and stays connected until
    ``close()``. Belongs to one event loop.

    Args:
        connect: Makes a connection of redis-py, which is not open yet.
        name: What the log calls the server.
        received: Called with each message: the name of the Redis channel, and the data.
        lost: Called when a connection that worked has broken.
        restored: Called when another one hears everything that is wanted.
        timeout: For how many seconds connecting may take.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
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
        # How often each name is wanted.
        self._wanted: dict[str, int] = {}
        # Names of which the server may have to be told something.
        self._changed: dict[str, None] = {}
        # What the server was told to send, on this connection.
        self._told: set[str] = set()
        # How many commands on a name the server has not confirmed yet.
        self._unconfirmed: dict[str, int] = {}
        # Who waits until a name is confirmed.
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._task: asyncio.Task[None] | None = None
        # What the task uses a connection in: it expires to drop it.
        self._serving: asyncio.Timeout | None = None
        # Why it was dropped, if something is wrong.
        self._why: Exception | None = None
        # What the task sleeps on while it has nothing to tell.
        self._sleeper: asyncio.Future[None] | None = None
        # When the connection last received bytes; None without a connection.
        self._progress: Progress | None = None
        # When messages were last read of those that have arrived.
        self._read_at = 0.0
        # Since when something that is wanted is not confirmed, if anything is.
        self._behind: float | None = None
        # Since when the server seems silent, and when that was noticed.
        self._suspected: tuple[float, float] | None = None
        # Whether everything that is wanted has been confirmed on this connection.
        self._complete = False
        self._outage = Outage(_logger, name, "listened to")
        self.connects: int = 0
        """How many times it has connected."""

    @property
    def away(self) -> bool:
        """Whether there is no use in waiting for the server to confirm something.

        It cannot be reached, or has been silent for seconds in spite of a command.
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
        """Listen to a channel, or to a pattern, for one more who wants it."""
        wanted = self._wanted.get(name, 0)
        self._wanted[name] = wanted + 1
        if not wanted:
            self._change(name)

    def pending(self, name: str) -> "asyncio.Future[None] | None":
        """Return what is resolved when a name is heard; None if it is, or unwanted."""
        if name not in self._wanted:
            return None
        if name in self._told and name not in self._unconfirmed:
            return None
        waiter = self._waiters.get(name)
        if waiter is None:
            waiter = self._waiters[name] = asyncio.get_running_loop().create_future()
        return waiter

    def ignore(self, name: str) -> None:
        """Listen to a channel for one less who wants it."""
        wanted = self._wanted.get(name, 0)
        if wanted > 1:
            self._wanted[name] = wanted - 1
        elif wanted:
            del self._wanted[name]
            self._change(name)
            _resolve(self._waiters.pop(name, None))

    def reconnect(self) -> None:
        """Open the connection anew."""
        self._drop(None)

    async def close(self) -> None:
        """Stop listening to anything."""
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
        """Return when the server was last heard, on the clock of the event loop."""
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
        """Connect and listen, again and again."""
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
            # An attempt that hung was pause enough.
            if not isinstance(why, TimeoutError) or loop.time() - begun < longest:
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 # jitter
            delay = min(2 * delay, longest)

    def _fail(self, why: Exception | None) -> None:
        """Log why the connection broke, or could not be opened.

        Args:
            why: None if it was only to be opened anew.
        """
        if why is None:
            return
        # RuntimeError: what uvloop has for a transport that was closed.
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
                # Otherwise a bare loop.close() has left it to the garbage collector.
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

    async def _watch(self, connection: AbstractConnection) -> None:
        """Ask a silent server whether it is there, and drop it if it is not."""
        loop = asyncio.get_running_loop()
        while True:
            heard = self._last_heard()
            silent = loop.time() - heard
            if silent < _PING_EVERY:
                await asyncio.sleep(_PING_EVERY - silent)
                continue
            # It may take as little as it says.
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

    async def _tell(self, connection: AbstractConnection) -> None:
        """Tell the server what has changed, or as much as is due in one turn."""
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

    async def _read(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        received = self._received
        in_a_row = 0
        while True:
            reply = cast(
                "list[Any] | bytes",
                await connection.read_response(disconnect_on_error=False),
            )
            match reply:
                case [b"message", channel, data] | [b"pmessage", _, channel, data]:
                    received(channel, data)
                case [_, name, int()]:
                    self._confirm(name.decode(errors="replace"))
                case _:
                    # An answer to PING, which has another form where nothing is heard.
                    pass
            in_a_row += 1
            if in_a_row >= _RUN:
                in_a_row = 0
                self._read_at = loop.time()
                await asyncio.sleep(0)

    def _confirm(self, name: str) -> None:
        """Note that the server has done what it was told of a name."""
        left = self._unconfirmed[name] - 1
        if left:
            self._unconfirmed[name] = left
            return
        del self._unconfirmed[name]
        if name in self._told:
            _resolve(self._waiters.pop(name, None))
        self._settle()

    def _settle(self) -> None:
        """Note whether everything that is wanted is heard."""
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
