"""The counters of layers, and what they log."""

import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from fast_channels.layers.counters import Counters


@pytest.fixture
def counters() -> Counters:
    return Counters("prefix 'p:'")


@pytest.fixture
def switching() -> Iterator[None]:
    """Make threads switch as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
def test_threads_count_exactly(
    counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    """Counts of several threads at once are exact."""

    def count() -> None:
        for _ in range(2000):
            counters.count((3, ["a"]))
            counters.count_full_queues(["b!", "c!"], "room")
            counters.count_reconnect()
            counters.complain("d", "garbage")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.statistics(channels=1, groups=2, waiting=3) == {
        "channels": 1,
        "groups": 2,
        "waiting": 3,
        "delivered": 24_000,
        "dropped": 24_000,
        "undecodable": 8000,
        "reconnects": 8000,
    }
    # Once for each power of two.
    assert len(caplog.records) == (24_000).bit_length() + (8000).bit_length()


def test_drops_are_logged_now_and_then(
    counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    """The 1st, 2nd, 4th and 8th drop are logged, with channel, group and advice."""
    for number in range(1, 10):
        counters.count((1, [f"channel{number}"]), "room")
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert [record.getMessage() for record in caplog.records] == [
        f"channel 'channel{number}' is full, so a message to group 'room' did not "
        f"reach it (dropped in prefix 'p:' so far: {number}): its consumer handles "
        "messages more slowly than they come, or its client reads slowly; if this is "
        "a burst, raise its capacity (capacity, channel_capacity)"
        for number in (1, 2, 4, 8)
    ]


def test_many_drops_at_once(
    counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that many channels have no room for is logged in one line."""
    counters.count((0, ["a", "b", "c", "d", "e"]))
    counters.count((0, ["a", "b"]))
    counters.count((5, []))
    counters.count((0, ["a"]))
    assert (counters.delivered, counters.dropped) == (5, 8)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("channel 'a' is full, so a message did not reach it (")
    assert "so far: 5)" in first
    assert "so far: 8)" in second


def test_full_queues(counters: Counters, caplog: pytest.LogCaptureFixture) -> None:
    """For a queue outside this process, the log line names it and suggests a cause."""
    counters.count_full_queues([], "room")
    assert caplog.records == []
    counters.count_full_queues(["specific.abc!", "jobs"], "room")
    [message] = caplog.messages
    assert message.startswith("queue 'specific.abc!' is full, so a message to group ")
    assert "the process that reads it is busy, cut off or gone" in message
    assert message.endswith("raise its capacity (process_capacity)")
    assert counters.dropped == 2
    counters.count_full_queues(["jobs"] * 2, "room")
    assert caplog.messages[1].endswith(
        "raise its capacity (capacity, channel_capacity)"
    )


def test_complaints(counters: Counters, caplog: pytest.LogCaptureFixture) -> None:
    """The 1st, 2nd and 4th message that cannot be delivered are logged."""
    for number in range(1, 6):
        counters.complain("jobs", f"reason {number}")
    assert counters.undecodable == 5
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert caplog.messages == [
        f"a message that came through 'jobs' of prefix 'p:' was dropped, {number} so "
        f"far: reason {number}"
        for number in (1, 2, 4)
    ]
