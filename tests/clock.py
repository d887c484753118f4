"""A clock that tests advance by hand."""

import functools

import pytest

from fast_channels.layers.mailbox import Mailbox


class Clock:
    """A replacement for the module ``time`` that stands still until it is advanced."""

    def __init__(self) -> None:
        self._now = 1_000_000.0

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Advance the clock by a number of seconds."""
        self._now += seconds


def stop_time_in_memory(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Make every in-memory layer created from now on use this clock."""
    clock = Clock()
    package = "fast_channels.layers"
    for module in ("in_memory", "mailboxes"):
        monkeypatch.setattr(f"{package}.{module}.time", clock)
    monkeypatch.setattr(
        f"{package}.mailboxes.Mailbox",
        functools.partial(Mailbox, clock=clock.monotonic),
    )
    return clock
