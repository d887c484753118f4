"""Histories, positions and the ring of messages that a process has."""

import itertools
import re
from typing import Any

import pytest

from fast_channels.layers import BaseChannelLayer, History
from fast_channels.layers.history import (
    Gap,
    GroupMessage,
    Numbered,
    Replay,
    Ring,
    compile_histories,
    parse_position,
)
from fast_channels.layers.notices import Notice

EPOCH = "0123abcd"


def message(offset: int, epoch: str = EPOCH) -> Numbered:
    return Numbered(lambda: {"type": "number", "n": offset}, "room", epoch, offset)


def ring_of(first: int, last: int, *, messages: int = 5, lost: int = 0) -> Ring:
    """Return a ring that has the messages after the first offset."""
    ring = Ring(History(messages, 60), EPOCH, first, lost=lost, now=100)
    for offset in range(first + 1, last + 1):
        ring.append(message(offset), 100)
    return ring


def offsets(replay: Replay | None) -> tuple[list[int], bool] | None:
    if replay is None:
        return None
    return [each.offset for each in replay.messages], replay.complete


# Options


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"messages": 0}, ValueError, "History.messages must be at least 1, not 0"),
        ({"messages": 1.5}, TypeError, "History.messages must be an int, not 1.5"),
        ({"seconds": 0}, ValueError, "History.seconds must be positive, not 0"),
        ({"seconds": "60"}, TypeError, "History.seconds must be a number, not '60'"),
        ({"seconds": float("inf")}, ValueError, "History.seconds must be finite"),
    ],
)
def test_history_that_is_not_valid(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """The error names the argument and its value."""
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        History(**arguments)


@pytest.mark.parametrize(
    ("histories", "text"),
    [
        (["room.*"], "history must be a dict of globs or compiled patterns to History"),
        ({"room.*": 200}, "history['room.*'] must be a History, not 200"),
        ({7: History()}, "history maps globs or compiled patterns to History; 7 is"),
    ],
)
def test_option_that_is_not_valid(histories: Any, text: str) -> None:
    """The error names the entry and says what is expected."""
    with pytest.raises(TypeError, match=f"^{re.escape(text)}"):
        BaseChannelLayer(history=histories)


def test_first_pattern_that_matches_applies() -> None:
    """Patterns are globs or compiled, as those of capacities."""
    chat, room, rest = History(1), History(2), History(3)
    layer = BaseChannelLayer(
        history={re.compile("chat[0-9]+$"): chat, "room.*": room, "*.7": rest}
    )
    names = ["chat1", "chat1.7", "room.7", "room", "a.7", "x"]
    found = [layer.history_of(name) for name in names]
    assert found == [chat, rest, room, None, rest, None]
    assert compile_histories({}) == []


async def test_layer_of_a_user_that_keeps_none() -> None:
    """A base class with the option does not pretend to keep a history."""
    layer = BaseChannelLayer(history={"room": History()})
    with pytest.raises(NotImplementedError, match="BaseChannelLayer keeps no history"):
        await layer.group_history("room")


# Messages


def test_positions() -> None:
    """A position is an epoch and an offset, in one spelling."""
    assert parse_position("0123abcd.0") == (EPOCH, 0)
    assert parse_position("0123abcd.42") == (EPOCH, 42)
    for invalid in ("0123abcd.042", "0123ABCD.1", "0123abc.1", "0123abcd.1\n", 1, None):
        assert parse_position(invalid) is None


def test_group_message_is_a_dict() -> None:
    """It has the attributes of its group, and each member has its own."""
    numbered = message(3)
    one, two = numbered(), numbered()
    assert one == two == {"type": "number", "n": 3}
    assert one is not two
    assert isinstance(one, GroupMessage)
    assert (one.group, one.position) == ("room", "0123abcd.3")
    assert numbered.before == "0123abcd.2"


def test_gap_is_a_notice() -> None:
    """Consumers without a handler for it ignore it."""
    gap = Gap("room", "0123abcd.2")()
    assert isinstance(gap, Notice)
    assert gap == {"type": "group.gap", "group": "room", "position": "0123abcd.2"}


# The ring


def test_ring_returns_what_follows_a_position() -> None:
    """Of what it does not have, it knows whether it is lost."""
    ring = ring_of(3, 6)
    assert ring.position == "0123abcd.6"
    cases: dict[str, tuple[list[int], bool] | None] = {
        "0123abcd.6": ([], True),
        "0123abcd.4": ([5, 6], True),
        "0123abcd.3": ([4, 5, 6], True),
        # It may be in Redis.
        "0123abcd.2": None,
        # More than are kept.
        "0123abcd.0": ([], False),
        # Another process may have it already.
        "0123abcd.7": None,
        "9876abcd.6": None,
        "nonsense": ([], False),
    }
    for since, expected in cases.items():
        assert offsets(ring.find(since, None, 100)) == expected, since


def test_ring_returns_the_latest() -> None:
    """If it has fewer than asked for, they are all or unknown."""
    assert offsets(ring_of(3, 6).find(None, None, 100)) == ([], True)
    assert offsets(ring_of(3, 6).find(None, 2, 100)) == ([5, 6], True)
    assert offsets(ring_of(3, 6).find(None, 4, 100)) is None
    assert offsets(ring_of(3, 6, lost=3).find(None, 4, 100)) == ([4, 5, 6], True)
    assert offsets(ring_of(0, 2).find(None, 4, 100)) == ([1, 2], True)
    assert offsets(ring_of(0, 9).find(None, 50, 100)) == ([5, 6, 7, 8, 9], True)
    assert offsets(ring_of(3, 6).find("nonsense", 2, 100)) == ([5, 6], False)
    assert offsets(ring_of(3, 6).without(2)) == ([5, 6], False)
    assert offsets(ring_of(3, 6).without(None)) == ([], False)


def test_ring_gets_older_messages() -> None:
    """They are added as far as they fit, and nothing before them is known."""
    ring = ring_of(5, 7)
    ring.prepend([message(offset) for offset in range(3, 8)], lost=2)
    assert offsets(ring.find("0123abcd.2", None, 100)) == ([3, 4, 5, 6, 7], True)
    assert offsets(ring.find("0123abcd.1", None, 100)) == ([], False)
    ring.prepend([message(2)], lost=0)
    assert offsets(ring.find("0123abcd.1", None, 100)) == ([], False)


def test_ring_does_not_accept_a_hole() -> None:
    """What does not join the messages that it has is left out."""
    ring = ring_of(5, 7)
    ring.prepend([message(3), message(4)], lost=0)
    assert offsets(ring.find("0123abcd.3", None, 100)) is None


def test_messages_expire_together() -> None:
    """The latest message counts, and the position stays."""
    ring = ring_of(0, 2)
    assert offsets(ring.find("0123abcd.0", None, 159)) == ([1, 2], True)
    assert offsets(ring.find("0123abcd.0", None, 160)) == ([], False)
    assert offsets(ring.find("0123abcd.2", None, 160)) == ([], True)
    ring.append(message(3), 160)
    assert offsets(ring.find("0123abcd.2", None, 160)) == ([3], True)
    ring.append(message(4), 220)
    assert offsets(ring.find("0123abcd.2", None, 220)) == ([], False)
    assert offsets(ring.find("0123abcd.3", None, 220)) == ([4], True)


def test_ring_agrees_with_a_list() -> None:
    """What it returns is what a list of all messages would say."""
    kept = 4
    for first, last, since in itertools.product(range(4), range(9), range(10)):
        if last < first:
            continue
        replay = offsets(
            ring_of(first, last, messages=kept).find(f"{EPOCH}.{since}", None, 100)
        )
        expected = list(range(since + 1, last + 1))
        if since > last:
            assert replay is None
        elif len(expected) > kept:
            assert replay == ([], False)
        elif since < first:
            assert replay is None
        else:
            assert replay == (expected, True)
