"""How the log shows the start and the end of an outage."""

import logging

import pytest

from fast_channels.layers.redis.outage import Outage
from fast_channels.layers.redis.wire import RedisError

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


def test_several_failures_in_a_row_can_make_an_outage(
    clock: _Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(_logger, "The Sentinel service", "asked", attempts=3, clock=clock)
    for _ in range(2):
        outage.begin(OSError("refused"))
    outage.end()
    for _ in range(2):
        outage.begin(OSError("refused"))
    assert not outage.lasts
    assert caplog.messages == []
    outage.begin(OSError("refused"))
    assert outage.lasts
    assert len(caplog.messages) == 1


def test_the_log_has_the_traceback_of_a_failure_that_no_server_can_cause(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    why = TypeError("no such argument")
    outage.begin(why)
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert record.message.startswith("redis://one:6379/0 cannot be read: no such arg")
    assert record.exc_info is not None
    assert record.exc_info[1] is why


@pytest.mark.parametrize("why", [OSError(), RedisError(), RuntimeError()], ids=repr)
def test_the_log_has_no_traceback_of_a_failure_that_a_server_can_cause(
    outage: Outage, caplog: pytest.LogCaptureFixture, why: Exception
) -> None:
    outage.begin(why)
    assert [record.exc_info for record in caplog.records] == [None]
