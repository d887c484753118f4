"""The counters of layers, and the log records about them.

All layers report the same numbers. A lock guards each addition, so that the numbers are
exact even if event loops in several threads count at the same time.
"""

import logging
import threading
from collections.abc import Sequence

from fast_channels.forks import released

__all__ = ["Counters"]

_logger = logging.getLogger(__name__)

_SLOW_CONSUMER = (
    "its consumer handles messages more slowly than they come, or its client reads "
    "slowly"
)
_SLOW_PROCESS = (
    "the process that reads it is busy, cut off or gone, or there are too few workers"
)


class Counters:
    """The counters of a layer, which begin when the layer is created.

    Args:
        layer: Name of the layer in the log.
    """

    __slots__ = (
        "_layer",
        "_lock",
        "delivered",
        "dropped",
        "reconnects",
        "undecodable",
    )

    def __init__(self, layer: str = "") -> None:
        self._layer = layer
        # Reentrant, since a signal handler or the garbage collector can run code that
        # sends while this thread holds the lock.
        self._lock = released(threading.RLock())
        self.delivered: int = 0
        """Copies that reached a mailbox of this process."""
        self.dropped: int = 0
        """Copies dropped for lack of room: here, or in Redis by ``group_send()``."""
        self.undecodable: int = 0
        """Messages that could not be decoded, or had no channel in this process."""
        self.reconnects: int = 0
        """Connections that broke and are opened again."""

    def statistics(
        self, *, channels: int = 0, groups: int = 0, waiting: int = 0
    ) -> dict[str, int]:
        """Return the dict for ``BaseChannelLayer.statistics()``.

        Args:
            channels: Channels with a receiver or a message in this process.
            groups: Groups with members in this process.
            waiting: Messages waiting in this process.
        """
        return {
            "channels": channels,
            "groups": groups,
            "waiting": waiting,
            "delivered": self.delivered,
            "dropped": self.dropped,
            "undecodable": self.undecodable,
            "reconnects": self.reconnects,
        }

    def count(self, put: tuple[int, Sequence[str]], group: str | None = None) -> None:
        """Count the result of ``Mailboxes.put_each()``; log dropped copies.

        Args:
            put: The number of channels that got a copy, and the full channels.
            group: The group that the message was sent to, if known.
        """
        delivered, full = put
        with self._lock:
            self.delivered += delivered
        if full:
            self._drop("channel", full, group, _SLOW_CONSUMER)

    def count_full_queues(self, queues: Sequence[str], group: str) -> None:
        """Count and log copies dropped because a queue in Redis was full.

        Args:
            queues: The names of the full queues, each of which missed one copy: the
                number of channels that it was for is not known.
            group: The group that the message was sent to.
        """
        if queues:
            self._drop("queue", queues, group, _SLOW_PROCESS)

    def count_reconnect(self) -> None:
        """Count a connection that broke and is opened again."""
        with self._lock:
            self.reconnects += 1

    def complain(self, name: str, problem: str) -> None:
        """Count a message that cannot be delivered; log the 1st, 2nd, 4th, 8th, ...

        Args:
            name: The queue or Redis channel that it was read from.
            problem: The reason why it cannot be delivered.
        """
        with self._lock:
            self.undecodable += 1
            count = self.undecodable
        if _is_due(count - 1, count):
            _logger.error(
                "a message that came through %r of %s was dropped, %d so far: %s",
                name,
                self._layer,
                count,
                problem,
            )

    def _drop(
        self, kind: str, full: Sequence[str], group: str | None, reason: str
    ) -> None:
        with self._lock:
            before = self.dropped
            count = self.dropped = before + len(full)
        if _is_due(before, count):
            _logger.warning(
                "%s %r is full, so a message%s did not reach it (dropped in %s so far: "
                "%d): %s; if this is a burst, raise its capacity (%s)",
                kind,
                full[0],
                "" if group is None else f" to group {group!r}",
                self._layer,
                count,
                reason,
                # The queue of a process; other names do not end so.
                "process_capacity"
                if full[0].endswith("!")
                else "capacity, channel_capacity",
            )


def _is_due(before: int, count: int) -> bool:
    """Return whether the 1st, 2nd, 4th, 8th, ... is among those just counted.

    Logging only these keeps a flood of messages from flooding the log.
    """
    return count.bit_length() > before.bit_length()
