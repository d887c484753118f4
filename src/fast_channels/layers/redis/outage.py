"""Logs when a server becomes unavailable, and when it is available again.

An outage has one record when it begins and one when it ends. Both are warnings, as a
reader of the log who sees the first needs the second. A connection that breaks
repeatedly is one problem, not hundreds: of outages in quick succession, only the 1st,
2nd, 4th, 8th, ... are logged, with their number.
"""

import logging
import time
from collections.abc import Callable

from .wire import RedisError, describe

__all__ = ["Outage"]

# Seconds without an outage after which counting restarts.
_QUIET = 60.0
# Failures that a server or a network can cause; the log shows where others come from.
# uvloop raises RuntimeError for a closed transport.
_EXPECTED = (RedisError, OSError, RuntimeError)


class Outage:
    """Tracks whether a server can be used for one purpose, and logs changes.

    Args:
        logger: The logger for the records.
        server: Name of the server in the log, without its password.
        use: What cannot be done during an outage, as a past participle: "read".
        attempts: Number of failed attempts in a row that make an outage.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        logger: logging.Logger,
        server: str,
        use: str,
        *,
        attempts: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._server = server
        self._use = use
        self._clock = clock
        self._attempts = attempts
        # Failed attempts since the last successful one.
        self._failed = 0
        # Outages since the last quiet period, and the time at which the latest ended.
        self._count = 0
        self._ended = 0.0
        # Whether the current outage was logged.
        self._logged = False
        self.lasts: bool = False
        """Whether the last attempts to use the server failed."""

    def begin(self, why: BaseException) -> None:
        """Record a failed attempt; no effect if the outage has begun already."""
        self._failed += 1
        if self.lasts or self._failed < self._attempts:
            return
        self.lasts = True
        if self._clock() - self._ended > _QUIET:
            self._count = 0
        self._count += 1
        self._logged = self._count.bit_count() == 1
        if self._logged:
            expected = isinstance(why, _EXPECTED)
            self._logger.log(
                logging.WARNING if expected else logging.ERROR,
                "%s cannot be %s%s: %s; trying again until it can",
                self._server,
                self._use,
                f" again (outage {self._count} in a row)" if self._count > 1 else "",
                describe(why),
                exc_info=None if expected else why,
            )

    def end(self, *, replaced: bool = False) -> None:
        """Record a successful attempt, or that another server is used instead."""
        self._failed = 0
        if not self.lasts:
            return
        self.lasts = False
        self._ended = self._clock()
        if self._logged and replaced:
            self._logger.warning("%s has been replaced", self._server)
        elif self._logged:
            self._logger.warning("%s can be %s again", self._server, self._use)
