"""The connection for commands to one node of a Redis Cluster.

The failure of a node is logged once when it begins, and once when it ends, which is
found out by a PING now and then.
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any

from fast_channels.waking import ignore_error

from .commands import CommandConnection
from .hosts import Host
from .link import Timing
from .outage import Outage
from .wire import ResponseError, is_refusal, plain_connection

__all__ = ["ClusterNode"]

_logger = logging.getLogger(__name__)


class ClusterNode:
    """The connection for commands to one node.

    Args:
        host: The node.
        timeout: Seconds to wait for a reply.
        failed: Called after each failure, and with whether a connection was lost.
        pause: Seconds after which a node that could not be reached is tried again.
        timing: When the connection acts.
    """

    def __init__(
        self,
        host: Host,
        timeout: float,
        failed: Callable[[bool], None],
        *,
        pause: float,
        timing: Timing,
    ) -> None:
        self._pause = pause
        self._failed = failed
        self._outage = Outage(_logger, str(host), "reached")
        # A PING, or the pause before the next one.
        self._probe: asyncio.Future[Any] | asyncio.TimerHandle | None = None
        self._closed = False
        # Number of connections whose end is known.
        self._lost = 0
        self.commands: CommandConnection = CommandConnection(
            functools.partial(plain_connection, host),
            str(host),
            timeout=timeout,
            timing=timing,
            # All but redirections, which are followed.
            refuses=is_refusal,
            broken=self._broken,
        )
        """The connection."""

    @property
    def failing(self) -> bool:
        """Whether the last attempt to reach the node failed."""
        return self._outage.lasts

    def probe(self) -> None:
        """Find out whether the node can be reached, without waiting for it."""
        if self._probe is None and not self._closed:
            self._probe = probe = self.commands.submit("PING")
            probe.add_done_callback(self._probed)

    async def close(self, why: str) -> None:
        """Disconnect; all pending commands fail."""
        self._closed = True
        if self._probe is not None:
            self._probe.cancel()
        await self.commands.close(why)

    def _broken(self, why: Exception) -> None:
        lost = self.commands.connects > self._lost
        self._lost = self.commands.connects
        if self.commands.pending:
            self._outage.begin(why)
        self._failed(lost)

    def _probed(self, probe: asyncio.Future[Any]) -> None:
        if self._closed:
            ignore_error(probe)
            return
        error = probe.exception()
        refused = error is not None and isinstance(
            error.__cause__ or error, ResponseError
        )
        if error is None or (refused and not self.commands.failing):
            self._probe = None
            self._outage.end()
        else:
            loop = asyncio.get_running_loop()
            self._probe = loop.call_later(self._pause, self._try_again)

    def _try_again(self) -> None:
        self._probe = None
        self._failed(False)
