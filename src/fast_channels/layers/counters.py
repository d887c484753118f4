"""What layers count, and what they log of it.

Every layer reports the same numbers, whatever carries its messages. They are exact even
if event loops in several threads count at once: a lock guards each addition.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from fast_channels.forks import released

__all__ = ["Counters", "complain"]

_logger = logging.getLogger(__name__)

_SLOW_CONSUMER = (
    "its consumer handles messages more slowly than they come, or its client reads "
    "slowly"
)
_SLOW_PROCESS = (
    "the process that reads it is busy, cut off or gone, or there are too few workers"
)


class Counters:
    """What has happened since a layer was made.

    Args:
        layer: What the log calls the layer.
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
        # Reentrant, since a signal handler or the garbage collector may run code that
        # sends while this thread holds it.
        self._lock = released(threading.RLock())
        self.delivered: int = 0
        """Messages that reached a mailbox of this process."""
        self.dropped: int = 0
        """Copies for which there was no room: here, or in Redis at ``group_send()``."""
        self.undecodable: int = 0
        """Messages that could not be decoded, or that were not for this process."""
        self.reconnects: int = 0
        """Connections that were opened anew after they had broken."""

    def statistics(
        self, *, channels: int = 0, groups: int = 0, waiting: int = 0
    ) -> dict[str, int]:
        """Return what ``BaseChannelLayer.statistics()`` does.

        Args:
            channels: Channels with a receiver or a message in this process.
            groups: Groups with members in this process.
            waiting: Messages that wait in this process.
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
        """Count what ``Mailboxes.put_each()`` returned; log what was dropped.

        Args:
            put: How many channels got a copy, and which were full.
            group: The group that the message was sent to, if that is known here.
        """
        delivered, full = put
        with self._lock:
            self.delivered += delivered
        if full:
            self._drop("channel", full, group, _SLOW_CONSUMER)

    def count_full_queues(self, queues: Sequence[str], group: str) -> None:
        """Count and log copies for which there was no room outside of this process.

        Args:
            queues: The names of the queues; each would have got one copy.
            group: The group that the message was sent to.
        """
        if queues:
            self._drop("queue", queues, group, _SLOW_PROCESS)

    def count_reconnect(self) -> None:
        """Count a connection that was opened anew after it had broken."""
        with self._lock:
            self.reconnects += 1

    def complain(self, name: str, problem: str) -> None:
        """Count a message that cannot be delivered, and log it now and then.

        Args:
            name: What it came through.
            problem: Why it cannot be delivered.
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
                "%d): %s; "
                "if this is a burst, raise its capacity (capacity, channel_capacity)",
                kind,
                full[0],
                "" if group is None else f" to group {group!r}",
                self._layer,
                count,
                reason,
            )


class _Counting(Protocol):
    @property
    def counters(self) -> Counters: ...


def complain(layer: _Counting, name: str, problem: str) -> None:
    """Count a message of a layer that cannot be delivered, and log it now and then."""
    layer.counters.complain(name, problem)


def _is_due(before: int, count: int) -> bool:
    """Return whether the 1st, 2nd, 4th, 8th... is among what was counted just now.

    So a flood of messages is no flood of log lines.
    """
    return count.bit_length() > before.bit_length()
