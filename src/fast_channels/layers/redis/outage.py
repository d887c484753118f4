"""How the log shows that a server cannot be used, and that it can be again.

One record when an outage begins and one when it ends, both warnings: a reader of the
log who sees the first needs the second. A connection that breaks again and again is one
problem, not hundreds: of outages in quick succession the 1st, 2nd, 4th, 8th, ... are
logged, with their number.
"""

import logging
import time
from collections.abc import Callable

from .trouble import describe

__all__ = ["Outage"]

# Seconds without an outage after which the next one counts as the first again.
_QUIET = 60.0


class Outage:
    """Whether a server can be used for one purpose, and what the log says about it.

    Args:
        logger: Where the records go.
        server: What the log calls the server; no password is in it.
        use: What the server cannot do during an outage, as a past participle: "read".
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
        # Outages since the last quiet time, and when the latest one ended.
        self._count = 0
        self._ended = 0.0
        # Whether the outage that lasts now was logged.
        self._logged = False
        self.lasts: bool = False
        """Whether the last attempt to use the server failed."""

    def begin(self, why: BaseException) -> None:
        """Note that an attempt failed; nothing changes if the last one failed too."""
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
        """Note that an attempt succeeded."""
        if not self.lasts:
            return
        self.lasts = False
        self._ended = self._clock()
        if self._logged:
            self._logger.warning("%s can be %s again", self._server, self._use)
