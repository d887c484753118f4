"""How the log shows that a server cannot be used, and that it can be again."""

import logging

import pytest

from fast_channels.layers.redis.outage import Outage

_logger = logging.getLogger("fast_channels.test")


class _Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def outage(clock: _Clock) -> Outage:
    return Outage(_logger, "redis://one:6379/0", "read", clock=clock)


def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    assert not outage.lasts
    outage.begin(OSError("refused"))
    outage.begin(OSError("refused"))
    assert outage.lasts
    outage.end()
    outage.end()
    assert not outage.lasts
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "WARNING",
            "redis://one:6379/0 cannot be read: refused; trying again until it can",
        ),
        ("WARNING", "redis://one:6379/0 can be read again"),
    ]


def test_nothing_is_logged_while_it_works(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    outage.end()
    assert not caplog.records


def test_outages_in_quick_succession_do_not_flood_the_log(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        outage.begin(OSError("reset"))
        outage.end()
    assert len(caplog.records) == 2 * 10
    assert "cannot be read again (outage 512 in a row): reset" in caplog.text


def test_an_outage_after_a_quiet_time_counts_as_the_first(
    outage: Outage, clock: _Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        outage.begin(OSError("reset"))
        outage.end()
    caplog.clear()
    clock.now += 61
    outage.begin(OSError("reset"))
    assert caplog.messages == [
        "redis://one:6379/0 cannot be read: reset; trying again until it can"
    ]
