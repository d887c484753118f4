"""Notices at once that Sentinel has made another server the master.

At a planned failover the old master keeps its clients, and takes their commands, until
a Sentinel makes a replica of it, up to ten seconds later; what was written there
meanwhile is lost. But Sentinels publish that the master has changed as soon as it has
(https://redis.io/docs/latest/develop/reference/sentinel-clients/). The rules:

1. One Sentinel is listened to at a time. When it goes away or freezes, the next one is,
   for ever.
2. A change that nobody listened to is noticed when somebody listens again: each
   Sentinel is asked for the master right after it was subscribed to.
3. Sentinels learn of a change one after the other. It is told of when a new connection
   would find the new master, not the old one once more.
"""

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection

from .hosts import Host
from .opening import plain_connection
from .sentinel import find_master

__all__ = ["MasterWatch"]

_logger = logging.getLogger(__name__)

# After how many silent seconds a Sentinel is asked whether it is still there, and how
# many it has to answer.
_PING_EVERY = 10.0
_PATIENCE = 5.0
# Seconds between two attempts: they grow from the first to the second, with jitter.
_BACKOFF = (0.01, 1.0)
# For how many seconds all Sentinels may take to learn of a change, and how often to
# look whether they have.
_AGREEMENT = 2.0
_LOOK_EVERY = 0.05

_CHANNEL = "+switch-master"

_Address: TypeAlias = tuple[str, int]


class MasterWatch:
    """Listens to the Sentinels of a master. Belongs to one event loop.

    Args:
        host: The master, of the kind "sentinel".
        switched: Called when another server has become the master.
    """

    def __init__(self, host: Host, switched: Callable[[], None]) -> None:
        self._host = host
        self._switched = switched
        # Whom a Sentinel called the master last.
        self._master: _Address | None = None
        # For how many attempts in a row no Sentinel was subscribed to.
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen, unless it does already."""
        if self._task is None:
            self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _watch(self) -> None:
        sentinels = itertools.cycle(self._host.sentinels)
        delay, longest = _BACKOFF
        while True:
            try:
                await self._listen(next(sentinels))
            except Exception as exc:  # noqa: BLE001 # uvloop has a RuntimeError for it
                if self._failures == 0:
                    delay, _ = _BACKOFF
                self._count_failure(exc)
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 # jitter
            delay = min(2 * delay, longest)

    async def _listen(self, sentinel: Host) -> None:
        """Tell of the changes that a Sentinel publishes, until it goes away.

        Raises:
            Exception: It did, or never was there.
        """
        connection = plain_connection(sentinel)
        try:
            async with asyncio.timeout(_PATIENCE):
                await connection.connect()  # type: ignore[no-untyped-call] # redis-py leaves it untyped
                await connection.send_command("SUBSCRIBE", _CHANNEL)
                await _read(connection)
            # What it publishes from now on is read later. Other Sentinels may not know
            # yet what this one has published before.
            master = await find_master(replace(self._host, sentinels=(sentinel,)))
            self._count_success()
            if self._master not in {None, master}:
                await self._tell(master)
            self._master = master
            while True:
                kind, *_, content = await _next(connection)
                if kind == b"message":
                    name, _, _, address, port = content.decode().split(" ")
                    if name == self._host.master_name:
                        await self._tell((address, int(port)))
        finally:
            await connection.disconnect(nowait=True)

    async def _tell(self, master: _Address) -> None:
        """Tell of a new master, as soon as a new connection would find it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AGREEMENT):
                while await find_master(self._host) != master:  # noqa: ASYNC110 # nobody tells
                    await asyncio.sleep(_LOOK_EVERY)
        self._master = master
        self._switched()

    def _count_failure(self, problem: Exception) -> None:
        self._failures += 1
        if self._failures == len(self._host.sentinels):
            _logger.warning(
                "No Sentinel of %s can be listened to, and a new master will be "
                "noticed late: %s",
                self._host,
                str(problem) or type(problem).__name__,
            )

    def _count_success(self) -> None:
        if self._failures >= len(self._host.sentinels):
            _logger.info("A Sentinel of %s is listened to again", self._host)
        self._failures = 0


async def _next(connection: AbstractConnection) -> Any:
    """Return what a Sentinel publishes next, or that it is still there.

    Raises:
        TimeoutError: It is not.
    """
    try:
        async with asyncio.timeout(_PING_EVERY):
            return await _read(connection)
    except TimeoutError:
        async with asyncio.timeout(_PATIENCE):
            await connection.send_command("PING")
            return await _read(connection)


async def _read(connection: AbstractConnection) -> Any:
    return await connection.read_response(disconnect_on_error=False)  # pyright: ignore[reportUnknownVariableType] # redis-py leaves it untyped
