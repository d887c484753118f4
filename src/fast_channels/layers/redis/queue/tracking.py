"""How an inbox learns that its queues have changed, or that its shard has moved.

1. Redis reports, by client-side caching, changes of the keys that one connection has
   read, on another connection. Where it refuses that, the inbox polls.
2. In a cluster, a slot can move to another node. Redis then reports changes of keys,
   but not of a queue that is empty at that moment: it has no key. A subscription to a
   shard channel of the slot is a tripwire: Redis ends it when the slot moves. Where
   Redis refuses that, the inbox checks its queues more often.
3. Each refusal is logged once.
"""

import logging
from dataclasses import dataclass

from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.shards import Shard
from fast_channels.layers.redis.wire import (
    Connection,
    NoPermissionError,
    ResponseError,
    ask,
    is_from_cluster,
    is_refusal,
)

__all__ = ["InboxTiming", "Tracking"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InboxTiming(Timing):
    """When an inbox acts; times are in seconds."""

    check: float = 5.0
    """Interval between checks of all queues, which also renew leases.

    It limits how long a lost push delays a message.
    """
    lease: float = 35.0
    """Time without a check after which a receiver counts as dead.

    Its event loop can be blocked for half a minute.
    """
    check_moved: float = 1.0
    """The same, where Redis does not report that a shard moves to another node."""
    poll: float = 0.1
    """Interval between polls where Redis does not report changes."""
    track_again: float = 60.0
    """Time until Redis is asked again to report changes."""
    refused: float = 0.5
    """Time until a queue is read again after a refusal."""
    batch: int = 100
    """Maximum number of messages per request."""
    quick: float = 0.001
    """Time per message within which a quick reader of a plain channel asks again."""


class Tracking:
    """Sets up the reports of a shard. Belongs to one event loop.

    Args:
        shard: The shard.
        timing: When an inbox acts.
    """

    def __init__(self, shard: Shard, timing: InboxTiming) -> None:
        self._shard = shard
        self._timing = timing
        self._refusal_logged = False
        self.reports_changes: bool = False
        """Whether Redis reports changes on the current connections."""
        self.check: float = timing.check
        """Seconds between two checks of all queues."""

    async def open(self, pops: Connection, changes: Connection) -> None:
        """Open the connections of an inbox; without reports, keep only one.

        Args:
            pops: The connection that reads queues.
            changes: The connection on which Redis reports their changes.
        """
        await pops.connect()
        await changes.connect()
        try:
            told = await ask(changes, "CLIENT", "ID")
            if self._shard.tripwire is not None:
                await self._set_tripwire(changes, self._shard.tripwire)
            await ask(changes, "SUBSCRIBE", "__redis__:invalidate")
            # NOLOOP: skip notifications for keys that this connection pops.
            await ask(pops, "CLIENT", "TRACKING", "ON", "REDIRECT", told, "NOLOOP")
            self.reports_changes = True
            self._refusal_logged = False
        except ResponseError as exc:
            # "redirect": they reached two servers, as the master has changed.
            if "redirect" in str(exc).lower() or not _is_denied(exc):
                raise
            self.reports_changes = False
            await changes.disconnect(nowait=True)
            if not self._refusal_logged:
                self._refusal_logged = True
                _logger.warning(
                    "%s refuses to report changes of queues (%s), so it is polled "
                    "every %s seconds",
                    self._shard.name,
                    exc,
                    self._timing.poll,
                )

    async def _set_tripwire(self, changes: Connection, channel: str) -> None:
        try:
            await ask(changes, "SSUBSCRIBE", channel)
            self.check = self._timing.check
        except ResponseError as exc:
            if not _is_denied(exc):
                raise
            if self.check != self._timing.check_moved:
                self.check = self._timing.check_moved
                _logger.warning(
                    "%s refuses to report when it moves to another node (%s), so that "
                    "is checked every %s seconds",
                    self._shard.name,
                    exc,
                    self.check,
                )


def _is_denied(error: ResponseError) -> bool:
    """Return whether a server does not know a command, or denies it to the user."""
    passes = is_from_cluster(error) or is_refusal(error)
    return isinstance(error, NoPermissionError) or not passes
