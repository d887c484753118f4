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
    module = "fast_channels.layers.in_memory"
    monkeypatch.setattr(f"{module}.time", clock)
    monkeypatch.setattr(
        f"{module}.Mailbox", functools.partial(Mailbox, clock=clock.monotonic)
    )
    return clock
