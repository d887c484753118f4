"""A clock that tests set, in place of the one that goes by itself."""

import functools

import pytest

from fast_channels.layers.mailbox import Mailbox


class Clock:
    """Stands in for the module ``time``, and stands still until it is moved."""

    def __init__(self) -> None:
        self._now = 1_000_000.0

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self._now += seconds


def stop_time_in_memory(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give every in-memory layer that is made from now on this clock to live by."""
    clock = Clock()
    package = "fast_channels.layers"
    for module in ("in_memory", "mailboxes"):
        monkeypatch.setattr(f"{package}.{module}.time", clock)
    monkeypatch.setattr(
        f"{package}.mailboxes.Mailbox",
        functools.partial(Mailbox, clock=clock.monotonic),
    )
    return clock
