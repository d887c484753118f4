"""Groups and their channels."""

import pytest

from fast_channels.layers.groups import Groups


@pytest.fixture
def groups() -> Groups:
    """Return channels "x" and "y" in group "a", and "x" in group "b"."""
    groups = Groups()
    for group, channel in ("ax", "ay", "bx"):
        groups.add(group, channel)
    return groups


def test_groups_are_found_by_group_and_by_channel(groups: Groups) -> None:
    """Each group has its channels, and each channel its groups."""
    assert groups.by_group == {"a": {"x": 0, "y": 0}, "b": {"x": 0}}
    assert groups.by_channel == {"x": {"a", "b"}, "y": {"a"}}


def test_channels_stay_in_the_order_in_which_they_joined(groups: Groups) -> None:
    """Joining twice keeps a channel's place; rejoining moves it to the end."""
    groups.add("a", "w")
    assert not groups.add("a", "x", 5)
    assert [*groups.by_group["a"].items()] == [("x", 5), ("y", 0), ("w", 0)]
    groups.discard("a", "y")
    assert groups.add("a", "y")
    assert [*groups.by_group["a"]] == ["x", "w", "y"]


def test_nothing_is_kept_of_empty_groups_and_channels(groups: Groups) -> None:
    """discard() returns whether the channel was a member, and leaves nothing behind."""
    assert groups.discard("a", "y")
    assert not groups.discard("a", "y")
    assert not groups.discard("unknown", "x")
    assert not groups.discard("b", "unknown")
    assert groups.by_channel == {"x": {"a", "b"}}
    assert groups.discard("b", "x")
    assert groups.by_group == {"a": {"x": 0}}
    assert groups.discard("a", "x")
    assert groups.by_group == {}
    assert groups.by_channel == {}


def test_a_channel_leaves_its_groups_in_steps(groups: Groups) -> None:
    """discard_some() leaves up to a number of groups, and returns them."""
    groups.add("c", "x")
    left = groups.discard_some("x", 2)
    assert len(left) == 2
    assert groups.by_channel["x"] == {"a", "b", "c"} - {*left}
    left += groups.discard_some("x", 2)
    assert sorted(left) == ["a", "b", "c"]
    assert groups.by_group == {"a": {"y": 0}}
    assert groups.discard_some("x", 2) == []


def test_clear_removes_all_channels_from_all_groups(groups: Groups) -> None:
    """After clear(), the same groups can be joined again."""
    by_group = groups.by_group
    groups.clear()
    assert groups.by_group == {}
    assert groups.by_channel == {}
    assert groups.add("a", "x")
    assert by_group is groups.by_group
