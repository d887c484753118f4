"""Logs when a server becomes unavailable, and when it is available again.

An outage has one record when it begins and one when it ends, both warnings: a reader of
the log who sees the first needs the second. A connection that breaks repeatedly is one
problem, not hundreds: of outages in quick succession, only the 1st, 2nd, 4th, 8th, ...
are logged, with their number.
"""

import logging
import time
from collections.abc import Callable

from .trouble import describe

__all__ = ["Outage"]

# Seconds without an outage after which counting restarts.
_QUIET = 60.0


class Outage:
    """Tracks whether a server can be used for one purpose, and logs changes.

    Args:
        logger: The logger for the records.
        server: Name of the server in the log, without its password.
        use: What cannot be done during an outage, as a past participle: "read".
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        logger: logging.Logger,
        server: str,
        use: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._server = server
        self._use = use
        self._clock = clock
        # Outages since the last quiet period, and the time at which the latest ended.
        self._count = 0
        self._ended = 0.0
        # Whether the current outage was logged.
        self._logged = False
        self.lasts: bool = False
        """Whether the last attempt to use the server failed."""

    def begin(self, why: BaseException) -> None:
        """Record a failed attempt; no effect if the previous one failed too."""
        if self.lasts:
            return
        self.lasts = True
        if self._clock() - self._ended > _QUIET:
            self._count = 0
        self._count += 1
        self._logged = self._count.bit_count() == 1
        if self._logged:
            self._logger.warning(
                "%s cannot be %s%s: %s; trying again until it can",
                self._server,
                self._use,
                f" again (outage {self._count} in a row)" if self._count > 1 else "",
                describe(why),
            )

    def end(self) -> None:
        """Record a successful attempt."""
        if not self.lasts:
            return
        self.lasts = False
        self._ended = self._clock()
        if self._logged:
            self._logger.warning("%s can be %s again", self._server, self._use)
