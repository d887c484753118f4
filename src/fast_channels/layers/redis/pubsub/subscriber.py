"""The subscriber: the one subscribed connection to a server in an event loop.

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
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from fast_channels.layers.redis.attempts import open_connection
from fast_channels.layers.redis.link import Link, Timing
from fast_channels.layers.redis.outage import Outage
from fast_channels.layers.redis.progress import Progress
from fast_channels.layers.redis.wire import (
    WRITE_CLUSTER,
    Connection,
    RedisConnectionError,
    Reply,
    ResponseError,
    is_cluster_node,
    pack,
)
from fast_channels.waking import resolve

__all__ = ["Pattern", "Subscriber"]

_logger = logging.getLogger(__name__)

# Maximum number of names in one command, and of names sent before other tasks can run.
_CHUNK = 1000
_TURN = 10_000
# Messages to read in a row before other tasks can run.
_RUN = 64
# Any user can send it, and the reply tells whether the server is a node of a cluster.
_HELLO = pack(("HELLO",))


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
        timing: When to do the rest; by default the class attribute.
        suspect: See ``Link``.
    """

    timing: ClassVar[Timing] = Timing(backoff=(0.01, 0.35), patience=2.0)
    """Half a second after a server is back, so are all subscriptions."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        name: str,
        received: Callable[[bytes, bytes], None],
        lost: Callable[[], None],
        restored: Callable[[], None],
        timeout: float,
        timing: Timing | None = None,
        suspect: Callable[[], None] | None = None,
    ) -> None:
        self._connect = connect
        self._name = name
        self._received = received
        self._lost = lost
        self._restored = restored
        self._timeout = timeout
        self._timing = timing or self.timing
        self._suspect = suspect
        self.wanted: dict[str, int] = {}
        """The number of listeners of each name."""
        # Names that may have to be subscribed to or unsubscribed from.
        self._changed: dict[str, None] = {}
        # Names subscribed to on this connection, confirmed or not.
        self._told: set[str] = set()
        # The number of commands on each name that the server has not confirmed yet.
        self._unconfirmed: dict[str, int] = {}
        # The futures that callers await until a name is confirmed.
        self._waiters: dict[str, asyncio.Future[None]] = {}
        # When the connection last received bytes; None without a connection.
        self._progress: Progress | None = None
        # The time since which there are unconfirmed changes; None if there are none.
        self._behind: float | None = None
        # Since when the server seems silent, and when that was noticed.
        self._suspected: tuple[float, float] | None = None
        self._outage = Outage(_logger, name, "listened to")
        self._link = Link(
            self._use,
            timing=self._timing,
            outage=self._outage,
            ended=self._ended,
            closed=self._closed,
            suspect=suspect,
        )
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
        heard = -math.inf if self._progress is None else self._progress.heard()
        silent_since = max(self._behind, heard)
        if now - silent_since <= self._timing.patience:
            return False
        if self._suspected is None or self._suspected[0] != silent_since:
            # The event loop may have been blocked, and what came is still to be read.
            self._suspected = silent_since, now
        return now - self._suspected[1] >= self._timing.grace

    def listen(self, name: str, listeners: int = 1) -> None:
        """Add listeners to a channel or a pattern."""
        wanted = self.wanted.get(name, 0)
        self.wanted[name] = wanted + listeners
        if not wanted:
            self._change(name)

    def hears(self, name: str) -> bool:
        """Return whether the server has confirmed the subscription to a name."""
        return name in self._told and name not in self._unconfirmed

    def pending(self, name: str) -> "asyncio.Future[None] | None":
        """Return a future for the confirmation of a name; None if none is expected."""
        if name not in self.wanted or self.hears(name):
            return None
        waiter = self._waiters.get(name)
        if waiter is None:
            waiter = self._waiters[name] = asyncio.get_running_loop().create_future()
        return waiter

    def ignore(self, name: str, listeners: int = 1) -> None:
        """Remove listeners from a channel or a pattern."""
        wanted = self.wanted.get(name, 0)
        if wanted > listeners:
            self.wanted[name] = wanted - listeners
        elif wanted:
            del self.wanted[name]
            self._change(name)
            self._resolve(name)

    def reconnect(self) -> None:
        """Replace the connection with a new one."""
        self._link.drop()

    async def close(self) -> None:
        """Disconnect, and remove all listeners."""
        await self._link.close()

    def _change(self, name: str) -> None:
        self._changed[name] = None
        if self._behind is None:
            self._behind = asyncio.get_running_loop().time()
        self._link.wake()

    # The task

    async def _use(self) -> None:
        """Connect, and listen until the connection breaks."""
        connection = await open_connection(
            self._connect,
            self._timeout,
            another=self._timing.another,
            suspect=self._suspect,
        )
        self._link.own(connection)
        await connection.send_packed_command(_HELLO, check_health=False)
        self.connects += 1
        self._changed = dict.fromkeys(self.wanted)
        if self._behind is None:
            self._behind = asyncio.get_running_loop().time()
        progress = self._progress = Progress(connection)
        reader = self._link.spawn(self._read(connection, progress))
        self._link.spawn(self._link.keep_alive(connection, progress))
        self._settle()
        while not reader.done():
            if self._changed:
                await self._tell(connection)
            else:
                await self._link.sleeper()
        await reader

    def _ended(self, _: Exception | None) -> None:
        self._forget_connection()
        if self._link.worked:
            self._lost()

    def _closed(self) -> None:
        self._forget_connection()
        self.wanted.clear()
        self._changed.clear()
        for name in list(self._waiters):
            self._resolve(name)

    def _forget_connection(self) -> None:
        self._progress = None
        self._told.clear()
        self._unconfirmed.clear()

    async def _tell(self, connection: Connection) -> None:
        """Send the changes to the server, at most ``_TURN`` of them."""
        begin: list[str] = []
        end: list[str] = []
        for name in list(itertools.islice(self._changed, _TURN)):
            del self._changed[name]
            wanted = name in self.wanted
            if wanted != (name in self._told):
                (begin if wanted else end).append(name)
                self._unconfirmed[name] = self._unconfirmed.get(name, 0) + 1
        self._told.update(begin)
        self._told.difference_update(end)
        packed = [
            pack((verb, *names[start : start + _CHUNK]))
            for verb, names in (
                *self._commands("SUBSCRIBE", begin),
                *self._commands("UNSUBSCRIBE", end),
            )
            for start in range(0, len(names), _CHUNK)
        ]
        if packed:
            await connection.send_packed_command(b"".join(packed), check_health=False)
        self._settle()
        if self._changed:
            await asyncio.sleep(0)

    def _commands(
        self, verb: str, names: list[str]
    ) -> Iterable[tuple[str, Sequence[str]]]:
        """Return the names by the verbs of their commands."""
        yield verb, [name for name in names if type(name) is str]
        yield f"P{verb}", [name for name in names if type(name) is Pattern]

    async def _read(self, connection: Connection, progress: Progress) -> None:
        if not self._accepts(await _reply_to_hello(connection)):
            return
        received = self._received
        in_a_row = 0
        while True:
            try:
                reply = await connection.read_response(disconnect_on_error=False)
            except ResponseError as exc:
                self._refused(exc)
                continue
            match reply:
                case [b"message", channel, data] | [b"pmessage", _, channel, data]:
                    received(channel, data)
                case [b"smessage", channel, data]:
                    received(channel, data)
                case [verb, name, int()]:
                    self._confirm(verb, name.decode(errors="replace"))
                case _:
                    # The reply to a PING, whose form depends on subscriptions.
                    pass
            in_a_row += 1
            if in_a_row >= _RUN:
                in_a_row = 0
                progress.refresh()
                await asyncio.sleep(0)

    def _accepts(self, hello: Reply) -> bool:
        """Return, by its reply to HELLO, whether the server is the right one.

        Raises:
            RedisConnectionError: It is not, and this is a mistake of the user.
        """
        if is_cluster_node(hello):
            raise RedisConnectionError(WRITE_CLUSTER)
        return True

    def _refused(self, error: ResponseError) -> None:
        """Handle that the server has refused a command."""
        raise error

    def _confirm(self, verb: bytes, name: str) -> None:
        """Record that the server has confirmed a command on a name."""
        del verb
        left = self._unconfirmed[name] - 1
        if left:
            self._unconfirmed[name] = left
            return
        del self._unconfirmed[name]
        if name in self._told:
            self._resolve(name)
        self._settle()

    def _settle(self) -> None:
        """Record that all changes are confirmed, if they are."""
        if self._unconfirmed or self._changed:
            return
        self._behind = None
        if self._link.worked:
            return
        self._link.works()
        if self.connects > 1:
            self._restored()

    def _resolve(self, name: str) -> None:
        """Resume the callers that wait for the confirmation of a name."""
        waiter = self._waiters.pop(name, None)
        if waiter is not None:
            resolve(waiter)


async def _reply_to_hello(connection: Connection) -> Reply:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ResponseError:
        # Proxies and servers before Redis 6 do not know it.
        return None
