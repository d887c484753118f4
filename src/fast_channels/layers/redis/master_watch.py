"""The watch that notices at once when Sentinel makes another server the master.

In a planned failover, the old master keeps its clients and accepts their commands until
a Sentinel turns it into a replica, up to ten seconds later; writes in the meantime are
lost. But Sentinels publish each change of the master as soon as it is made
(https://redis.io/docs/latest/develop/reference/sentinel-clients/). The rules:

1. The watch listens to one Sentinel at a time. If that Sentinel goes away or freezes,
   the watch listens to the next one, indefinitely.
2. A change that was not heard is noticed at the next subscription: the watch then asks
   the Sentinel for the master, and a connection that was opened to any other address
   means a change.
3. Sentinels learn of a change one after the other. New connections ask the Sentinel of
   the watch first, so that they find the master that it has announced.
"""

import asyncio
import logging
import random
from collections.abc import Callable

from .outage import Outage
from .sentinel import Master
from .wire import Connection, Reply, ask, plain_connection, read

__all__ = ["MasterWatch"]

_logger = logging.getLogger(__name__)

# Seconds of silence after which a Sentinel gets a PING, and seconds to wait for the
# reply.
_PING_EVERY = 10.0
_PATIENCE = 5.0
# Seconds between two attempts, growing from the first value to the second, with jitter.
_BACKOFF = (0.01, 1.0)

_CHANNEL = "+switch-master"


class MasterWatch:
    """Listens to the Sentinels of a master. Belongs to one event loop.

    Args:
        master: The master.
        switched: Called when another server has become the master; must drop all
            connections.
    """

    def __init__(self, master: Master, switched: Callable[[], None]) -> None:
        self._master = master
        self._switched = switched
        # Failures since the last successful subscription.
        self._failures = 0
        self._outage = Outage(
            _logger, f"The Sentinel service of {master.host}", "listened to"
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start listening; do nothing if it has started already."""
        if self._task is None:
            self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _watch(self) -> None:
        delay, longest = _BACKOFF
        while True:
            try:
                await self._listen()
            except Exception as exc:  # noqa: BLE001 # uvloop has a RuntimeError for it
                if self._failures == 0:
                    delay, _ = _BACKOFF
                self._count_failure(exc)
            self._master.sentinels.rotate(-1)
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 # jitter
            delay = min(2 * delay, longest)

    async def _listen(self) -> None:
        """Report the changes that the first Sentinel publishes, until it goes away.

        Raises:
            Exception: The Sentinel has gone away, or cannot be reached.
        """
        sentinel = self._master.sentinels[0]
        connection = plain_connection(sentinel)
        try:
            async with asyncio.timeout(_PATIENCE):
                await connection.connect()
                await ask(connection, "SUBSCRIBE", _CHANNEL)
            # Changes published from now on are read below.
            master = await self._master.ask(sentinel)
            if self._master.reached - {master}:
                self._tell()
            self._count_success()
            while True:
                kind, *_, content = await _next(connection)
                if kind == b"message":
                    name, _ = content.decode().split(" ", 1)
                    if name == self._master.host.master_name:
                        self._tell()
        finally:
            await connection.disconnect(nowait=True)

    def _tell(self) -> None:
        self._master.reached.clear()
        self._switched()

    def _count_failure(self, problem: Exception) -> None:
        self._failures += 1
        if self._failures == len(self._master.sentinels):
            self._outage.begin(problem)

    def _count_success(self) -> None:
        self._outage.end()
        self._failures = 0


async def _next(connection: Connection) -> Reply:
    """Return the next message of a Sentinel, or its reply to a PING after silence.

    Raises:
        TimeoutError: The Sentinel does not reply.
    """
    try:
        async with asyncio.timeout(_PING_EVERY):
            return await read(connection)
    except TimeoutError:
        async with asyncio.timeout(_PATIENCE):
            return await ask(connection, "PING")
