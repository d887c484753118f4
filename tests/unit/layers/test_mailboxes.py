"""The mailboxes of a process, created and removed on demand."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from fast_channels.layers.mailboxes import Mailboxes
from tests.clock import Clock, stop_time_in_memory

INTERVAL = 60.0


def message(number: int = 0) -> Callable[[], dict[str, Any]]:
    return lambda: {"number": number}


def ignore() -> None:
    """Listen to a mailbox."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stop_time_in_memory(monkeypatch)


@pytest.fixture
def mailboxes(clock: Clock) -> Mailboxes:
    assert clock.monotonic()
    return Mailboxes({"small": 1, "large": 3}.__getitem__, INTERVAL)


def test_capacity(mailboxes: Mailboxes, clock: Clock) -> None:
    """Each channel has room for as many messages as its capacity."""
    deadline = clock.monotonic() + 10
    assert [mailboxes.put("small", message(), deadline) for _ in range(3)] == [
        True,
        False,
        False,
    ]
    assert [mailboxes.put("large", message(), deadline) for _ in range(4)] == [
        True,
        True,
        True,
        False,
    ]
    assert mailboxes.waiting() == 4


def test_opening(mailboxes: Mailboxes, clock: Clock) -> None:
    """Readers share a mailbox, which is removed when the last leaves it empty."""
    first = mailboxes.open("large")
    second = mailboxes.open("large")
    assert first is second
    mailboxes.close("large", first)
    mailboxes.put("large", message(1), clock.monotonic() + 10)
    mailboxes.close("large", second)
    assert mailboxes.open("large").take() == {"number": 1}
    mailboxes.close("large", second)
    assert mailboxes.by_channel == {}


def test_attaching(mailboxes: Mailboxes, clock: Clock) -> None:
    """The last listener of a channel is called, until the channel is deleted."""
    calls: list[str] = []
    mailbox = mailboxes.attach("large", lambda: calls.append("first"))
    assert mailboxes.attach("large", lambda: calls.append("second")) is mailbox
    mailboxes.put("large", message(), clock.monotonic() + 10)
    assert calls == ["second"]
    assert mailboxes.delete("large") is True
    assert mailboxes.by_channel == {}
    mailboxes.put("large", message(), clock.monotonic() + 10)
    assert calls == ["second"]


def test_deleting(mailboxes: Mailboxes, clock: Clock) -> None:
    """Deleting removes a channel's messages, and its mailbox unless it has a reader."""
    assert mailboxes.delete("large") is False
    mailboxes.put("large", message(), clock.monotonic() + 10)
    assert mailboxes.delete("large") is False
    assert mailboxes.by_channel == {}
    mailbox = mailboxes.open("large")
    mailboxes.attach("large", ignore)
    mailboxes.put("large", message(), clock.monotonic() + 10)
    assert mailboxes.delete("large") is True
    assert mailboxes.by_channel == {"large": mailbox}
    assert mailboxes.waiting() == 0
    mailboxes.close("large", mailbox)
    assert mailboxes.by_channel == {}


def test_burying(mailboxes: Mailboxes, clock: Clock) -> None:
    """Messages for a buried channel are lost; other channels are not affected."""
    mailboxes = Mailboxes(lambda _: 3, INTERVAL)
    deadline = clock.monotonic() + 10
    first, second = (f"specific.me.1!{mailboxes.new_name()}" for _ in range(2))
    reading = mailboxes.open(first)
    mailboxes.bury(first)
    put = mailboxes.put_each([first, second, "other"], message(1), deadline)
    assert put == (2, [])
    assert mailboxes.by_channel.keys() == {second, "other"}
    # Neither current nor later readers get a message.
    late = mailboxes.open(first)
    assert mailboxes.put_each([first], message(2), deadline) == (0, [])
    assert (reading.take(), late.take()) == (None, None)
    mailboxes.close(first, reading)
    mailboxes.close(first, late)
    assert first not in mailboxes.by_channel
    mailboxes.forget_buried()
    assert mailboxes.put_each([first], message(3), deadline) == (1, [])


def test_stalled_channels(mailboxes: Mailboxes, clock: Clock) -> None:
    """A sender waits for a full channel once for each message taken."""
    deadline = clock.monotonic() + 10
    for number in range(3):
        mailboxes.put("large", message(number), deadline)
    assert mailboxes.not_stalled(["large", "gone"]) == ["large", "gone"]
    mailboxes.note_stalled(["large", "gone"])
    assert mailboxes.not_stalled(["large"]) == []
    assert mailboxes.by_channel.keys() == {"large"}
    mailboxes.by_channel["large"].take()
    assert mailboxes.not_stalled(["large"]) == ["large"]
    mailboxes.note_stalled(["large"])
    mailboxes.delete("large")
    mailboxes.put("large", message(), deadline)
    assert mailboxes.not_stalled(["large"]) == ["large"]


async def test_clearing(mailboxes: Mailboxes, clock: Clock) -> None:
    """Clearing removes all messages; waiting readers get the next ones."""
    mailbox = mailboxes.open("small")
    mailboxes.put("small", message(1), clock.monotonic() + 10)
    mailboxes.put("large", message(2), clock.monotonic() + 10)
    mailboxes.clear()
    assert mailboxes.by_channel == {"small": mailbox}
    receiving = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    mailboxes.put("small", message(3), clock.monotonic() + 10)
    assert await receiving == {"number": 3}


@pytest.mark.parametrize("patience", [0, 5])
def test_sweeping(mailboxes: Mailboxes, clock: Clock, patience: float) -> None:
    """Mailboxes without readers are removed regularly if all messages have expired."""
    mailboxes.put("small", message(), clock.monotonic() + 10)
    mailboxes.put("large", message(), clock.monotonic() + INTERVAL + patience + 1)
    clock.advance(INTERVAL + patience - 1)
    assert mailboxes.sweep_if_due(clock.monotonic(), patience) is False
    assert set(mailboxes.by_channel) == {"small", "large"}
    clock.advance(1)
    mailboxes.attach("small", ignore)
    assert mailboxes.sweep_if_due(clock.monotonic(), patience) is True
    assert set(mailboxes.by_channel) == {"small", "large"}
    mailboxes.delete("small")
    mailboxes.put("small", message(), clock.monotonic() + 10)
    clock.advance(INTERVAL - 1)
    assert mailboxes.sweep_if_due(clock.monotonic()) is False
    clock.advance(1)
    assert mailboxes.sweep_if_due(clock.monotonic()) is True
    assert mailboxes.by_channel == {}
