"""The delivery of numbered messages to members that can be full."""

import time
from typing import Any

from fast_channels.layers.feed import Feed
from fast_channels.layers.history import History, Numbered, Replay
from fast_channels.layers.mailboxes import Mailboxes

HISTORY = History(seconds=600)
NOW = time.monotonic()


def message(offset: int) -> Numbered:
    return Numbered(lambda: {"n": offset}, "room", "0123abcd", offset)


def taken(mailboxes: Mailboxes, channel: str) -> list[Any]:
    """Return the numbers of all messages of a channel, and positions before gaps."""
    mailbox = mailboxes.by_channel[channel]
    found: list[Any] = []
    while (each := mailbox.take()) is not None:
        found.append(each.get("n", each.get("position")))
    return found


def test_a_gap_for_all_messages_in_a_row() -> None:
    """It stands where they are missing, for each member that misses them."""
    boxes, others = Mailboxes(lambda _: 2, 60), Mailboxes(lambda _: 1, 60)
    feed = Feed("room", HISTORY, 60)
    places = [(boxes, ["a", "b"]), (others, ["c"])]
    assert feed.put(places, message(1), NOW) == (3, [])
    assert feed.put(places, message(2), NOW) == (2, ["c"])
    assert taken(boxes, "b") == [1, 2]
    assert feed.put(places, message(3), NOW) == (1, ["a", "c"])
    assert feed.put(places, message(4), NOW) == (1, ["a", "c"])
    assert taken(boxes, "a") == [1, 2, "0123abcd.2"]
    assert taken(others, "c") == [1, "0123abcd.1"]
    assert feed.put(places, message(5), NOW) == (2, ["b"])
    assert feed.put(places, message(6), NOW) == (1, ["b", "c"])
    assert taken(boxes, "a") == [5, 6]
    assert taken(boxes, "b") == [3, 4, "0123abcd.4"]
    assert taken(others, "c") == [5, "0123abcd.5"]


def test_replay_replaces_what_waits_of_its_group() -> None:
    """It may exceed the capacity, and leaves room for as many messages as before."""
    boxes = Mailboxes(lambda _: 2, 60)
    feed, other = Feed("room", HISTORY, 60), Feed("other", HISTORY, 60)
    for offset in (1, 2, 3):
        feed.put([(boxes, ["a"])], message(offset), NOW)
    other.report(boxes, ["a"], "9876abcd.7", NOW)
    assert feed.waiting(boxes, "a") == "0123abcd.0"
    assert other.waiting(boxes, "a") == "9876abcd.7"
    assert feed.waiting(boxes, "unknown") is None
    replay = Replay([message(offset) for offset in range(1, 6)], complete=True)
    feed.replay(boxes, "a", replay, NOW)
    for offset in (6, 7, 8):
        feed.put([(boxes, ["a"])], message(offset), NOW)
    expected = ["9876abcd.7", 1, 2, 3, 4, 5, 6, 7, "0123abcd.7"]
    assert taken(boxes, "a") == expected
    assert feed.waiting(boxes, "a") is None
