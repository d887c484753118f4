"""The life of a connection, the same for everything that talks to Redis or Sentinel.

Command connections, inboxes, subscribers and master watches differ in how they use a
connection. Everything around that is the same::

    wake() --> open --> use --> broken, dropped or silent ---+
                ^  |                                         |
                |  +--> refused, or no reply ----------------+
                |                                            |
                +-------------------- pause <----------------+

The rules:

1. One task opens a connection and uses it. When the connection breaks, for any reason,
   the task opens the next one, until the link is closed or no longer wanted.
2. ``drop()`` and ``close()`` work in every state, also during a pause.
3. Pauses grow with each attempt, with jitter, until a connection works. An attempt that
   took longer than the longest pause is followed by another one at once.
4. However many attempts fail, an outage is logged once when it begins, and once when it
   ends.
5. Only silence means that a server is gone. Bytes that arrive, however slowly, show
   that it is alive. An event loop that was blocked first reads what has arrived.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

from fast_channels.waking import resolve, wake

from .outage import Outage
from .progress import Progress
from .wire import Connection, pack

__all__ = ["Link", "Timing"]

_PING = pack(("PING",))


@dataclass(frozen=True, slots=True)
class Timing:
    """When a link acts; times are in seconds."""

    backoff: tuple[float, float] = (0.01, 0.5)
    """The first pause between attempts to connect, and the longest one."""
    jitter: Callable[[float, float], float] = random.uniform
    """Returns a number between two others, at random."""
    retry: float = 0.5
    """Time to try to connect after all previous attempts have failed."""
    another: float = 0.3
    """Time without an answer after which another attempt starts beside the first."""
    idle: float = 5.0
    """Silence after which a server gets a PING."""
    suspicion: float = 1.0
    """The same for a node of a cluster, and the time after which it is suspected."""
    suspicions: float = 0.25
    """Interval between further suspicions."""
    patience: float = 5.0
    """Silence after which a server that owes a reply counts as gone."""
    grace: float = 0.05
    """Time for an event loop that was blocked to read what arrived meanwhile."""


class Link:
    """Keeps a connection in use, in one event loop.

    Args:
        use: Opens a connection, uses it until it breaks, and raises the reason. What
            it passes to ``own()`` and ``spawn()`` ends with it.
        timing: When to act.
        outage: Logs failures; None if callers learn of each one.
        wanted: Returns whether to connect again; by default, until ``close()``.
        ended: Called after each connection and each failed attempt, with the reason;
            None for one that was dropped deliberately.
        closed: Called when the task has ended; the next ``wake()`` starts another one.
        suspect: For a node of a cluster, called repeatedly while it owes a reply: other
            nodes may have replaced it.
    """

    def __init__(
        self,
        use: Callable[[], Awaitable[None]],
        *,
        timing: Timing,
        outage: Outage | None = None,
        wanted: Callable[[], bool] = lambda: True,
        ended: Callable[[Exception | None], None] = lambda _: None,
        closed: Callable[[], None] = lambda: None,
        suspect: Callable[[], None] | None = None,
    ) -> None:
        self._use = use
        self._timing = timing
        self._outage = outage
        self._wanted = wanted
        self._ended = ended
        self._closed = closed
        self._suspect = suspect
        self._task: asyncio.Task[None] | None = None
        # Future that the task waits on while it has no work.
        self._sleeper: asyncio.Future[None] | None = None
        # Timeout around the use of a connection, or around a pause, which expires to
        # end it; the reason.
        self._lease: asyncio.Timeout | None = None
        self._dropped: Exception | None = None
        # What belongs to the current connection, and ends with it.
        self._connections: list[Connection] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.pause: float = timing.backoff[0]
        """The next pause, without jitter."""
        self.worked: bool = False
        """Whether the current, or the last, connection has worked."""

    @property
    def running(self) -> bool:
        """Whether there is a connection, or an attempt to open one."""
        return self._task is not None

    def wake(self) -> None:
        """Resume the task if it waits on ``sleeper()``; start it if there is none."""
        if self._task is None:
            task = asyncio.create_task(self._run())
            # A task that starts eagerly can have ended already.
            if not task.done():
                self._task = task
        elif (sleeper := self._sleeper) is not None:
            self._sleeper = None
            resolve(sleeper)

    def drop(self, why: Exception | None = None) -> None:
        """Replace the connection, even one that is still being opened.

        Args:
            why: The reason; None if it is deliberate, which is not logged.
        """
        if self._lease is not None and not self._lease.expired():
            self._dropped = why
            self._lease.reschedule(0)

    async def close(self) -> None:
        """Close the connection, and open no other until the next ``wake()``."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if self._task is task:
                # The task was cancelled before it started.
                self._end()

    # For the user of a connection

    def own(self, *connections: Connection) -> None:
        """Disconnect connections, open or not, when their use ends."""
        self._connections += connections

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run a task that is cancelled when the use of the connection ends.

        If it ends before that, ``resume()`` is called.
        """
        task = asyncio.create_task(work)
        task.add_done_callback(self.resume)
        self._tasks.append(task)
        return task

    def resume(self, _: object = None) -> None:
        """Resume the task if it waits on ``sleeper()``. Safe in any thread."""
        if self._sleeper is not None:
            sleeper, self._sleeper = self._sleeper, None
            wake(sleeper)

    def sleeper(self) -> asyncio.Future[None]:
        """Return a future that the next ``wake()`` or ``resume()`` resolves."""
        sleeper = self._sleeper = asyncio.get_running_loop().create_future()
        return sleeper

    def works(self) -> None:
        """Record that the connection does all that is expected of it."""
        self.worked = True
        if self._outage is not None:
            self._outage.end()

    async def keep_alive(self, connection: Connection, progress: Progress) -> None:
        """Send a PING to a silent server; drop the connection if it stays silent.

        The reply is read by the task that reads from the connection.
        """
        loop = asyncio.get_running_loop()
        timing = self._timing
        idle = timing.idle if self._suspect is None else timing.suspicion
        while True:
            heard = progress.heard()
            silent = loop.time() - heard
            if silent < idle:
                await asyncio.sleep(idle - silent)
                continue
            # In a task, since sending blocks if the server does not read either.
            asking = asyncio.create_task(
                connection.send_packed_command(_PING, check_health=False)
            )
            try:
                await self._await_reply(progress, heard)
                await asyncio.sleep(timing.grace)
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            if progress.heard() == heard:
                why = f"it did not answer for {timing.patience} seconds"
                self.drop(TimeoutError(why))
                return

    async def _await_reply(self, progress: Progress, heard: float) -> None:
        """Wait as long as a reply may take; until it comes, suspect a node."""
        left, pause = self._timing.patience, self._timing.suspicion
        while self._suspect is not None and left > pause:
            await asyncio.sleep(pause)
            left -= pause
            if progress.heard() != heard:
                return
            self._suspect()
            pause = self._timing.suspicions
        await asyncio.sleep(left)

    # The task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self.pause, longest = self._timing.backoff
        try:
            while self._wanted():
                began = loop.time()
                why = await self._use_connection(loop)
                if self.worked:
                    self.pause = self._timing.backoff[0]
                if why is not None and self._outage is not None:
                    self._outage.begin(why)
                self._ended(why)
                if self._wanted() and loop.time() - began < longest:
                    await self._wait()
                self.pause = min(2 * self.pause, longest)
        finally:
            # It is closed if a bare loop.close() left this to the garbage collector.
            if not loop.is_closed():
                self._end()

    def _end(self) -> None:
        self._task = None
        self._closed()

    async def _use_connection(
        self, loop: asyncio.AbstractEventLoop
    ) -> Exception | None:
        """Use one connection until it breaks or is dropped; return the reason."""
        self.worked = False
        lease = self._lease = asyncio.timeout(None)
        try:
            async with lease:
                await self._use()
        except Exception as exc:  # noqa: BLE001 # the next connection can work
            return self._dropped if lease.expired() else exc
        else:
            return None
        finally:
            self._lease = None
            if not loop.is_closed():
                await self._release()

    async def _release(self) -> None:
        connections, self._connections = self._connections, []
        tasks, self._tasks = self._tasks, []
        # First, because this cannot be interrupted: it does not wait.
        for connection in connections:
            await connection.disconnect(nowait=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(self) -> None:
        """Pause; ``drop()`` ends it."""
        self._lease = asyncio.timeout(self.pause * self._timing.jitter(0.5, 1))
        try:
            async with self._lease:
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            pass
        finally:
            self._lease = None
