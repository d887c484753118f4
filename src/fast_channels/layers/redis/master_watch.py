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
from collections.abc import Callable
from typing import ClassVar

from .link import Link, Timing
from .outage import Outage
from .progress import Progress
from .sentinel import Master
from .wire import ask, plain_connection

__all__ = ["MasterWatch"]

_logger = logging.getLogger(__name__)

_CHANNEL = "+switch-master"


class MasterWatch:
    """Listens to the Sentinels of a master. Belongs to one event loop.

    Args:
        master: The master.
        switched: Called when another server has become the master; must drop all
            connections.
        timing: When to do it; by default the class attribute.
    """

    timing: ClassVar[Timing] = Timing(backoff=(0.01, 1.0), idle=10.0)

    def __init__(
        self,
        master: Master,
        switched: Callable[[], None],
        *,
        timing: Timing | None = None,
    ) -> None:
        self._master = master
        self._switched = switched
        self._timing = timing or self.timing
        outage = Outage(
            _logger,
            f"The Sentinel service of {master.host}",
            "listened to",
            attempts=len(master.sentinels),
        )
        self._link = Link(
            self._listen, timing=self._timing, outage=outage, ended=self._ended
        )

    def start(self) -> None:
        """Start listening; do nothing if it has started already."""
        self._link.wake()

    async def close(self) -> None:
        """Stop listening."""
        await self._link.close()

    async def _listen(self) -> None:
        """Report the changes that the first Sentinel publishes, until it goes away."""
        sentinel = self._master.sentinels[0]
        connection = plain_connection(sentinel)
        self._link.own(connection)
        async with asyncio.timeout(self._timing.patience):
            await connection.connect()
            await ask(connection, "SUBSCRIBE", _CHANNEL)
        # Changes published from now on are read below.
        master = await self._master.ask(sentinel)
        if self._master.reached - {master}:
            self._tell()
        self._link.works()
        self._link.spawn(self._link.keep_alive(connection, Progress(connection)))
        while True:
            kind, *_, content = await connection.read_response(
                disconnect_on_error=False
            )
            if kind == b"message":
                name, _ = content.decode().split(" ", 1)
                if name == self._master.host.master_name:
                    self._tell()

    def _ended(self, _: Exception | None) -> None:
        self._master.sentinels.rotate(-1)

    def _tell(self) -> None:
        self._master.reached.clear()
        self._switched()
