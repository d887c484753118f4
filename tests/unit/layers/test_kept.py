"""What the layer in memory keeps, and for how long."""

import pytest

from fast_channels.layers.history import (
    ONCE_SECONDS,
    POSITION_SECONDS,
    History,
    Resumed,
)
from fast_channels.layers.kept import Kept, KeptGroups
from fast_channels.layers.mailboxes import Mailboxes

HISTORY = History(messages=3, seconds=10)


def message() -> dict[str, str]:
    return {"type": "hello"}


@pytest.fixture
def groups() -> KeptGroups:
    return KeptGroups(Mailboxes(lambda _: 100, 60), 60)


def send(kept: Kept, now: float, once: str | None = None) -> int:
    """Send a message, and return its offset."""
    _, position = kept.send((), message, now, once)
    return int(position.partition(".")[2])


def test_key_is_remembered_for_five_minutes(groups: KeptGroups) -> None:
    """After that it sends again; keys that are too old are dropped."""
    kept = groups.of("room", HISTORY, 0)
    assert [send(kept, now, "a") for now in (0, ONCE_SECONDS - 1)] == [1, 1]
    assert send(kept, ONCE_SECONDS - 1, "b") == 2
    assert send(kept, ONCE_SECONDS, "a") == 3
    groups.sweep(3 * ONCE_SECONDS)
    assert send(kept, 3 * ONCE_SECONDS, "b") == 4


def test_messages_are_swept_before_positions(groups: KeptGroups) -> None:
    """A group that is not used for a week begins anew."""
    kept = groups.of("room", HISTORY, 0)
    send(kept, 0)
    groups.of("other", HISTORY, 1)
    for now in (9, POSITION_SECONDS - 1):
        groups.sweep(now)
        assert groups.of("room", HISTORY, 0) is kept
    joined = kept.resume("channel", None, None, is_member=False, now=now)
    replay = kept.resume(
        "channel", f"{joined.position[:-1]}0", None, is_member=False, now=now
    )
    assert replay == Resumed(joined.position, complete=False, replayed=0)
    groups.sweep(POSITION_SECONDS)
    assert groups.of("room", HISTORY, 0) is not kept
