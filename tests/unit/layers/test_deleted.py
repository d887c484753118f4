"""The record of deleted channels."""

import random
import sys

import pytest

from fast_channels.layers.deleted import DeletedChannels


@pytest.fixture
def deleted() -> DeletedChannels:
    return DeletedChannels()


def make(deleted: DeletedChannels, count: int) -> list[str]:
    """Return the names of new channels."""
    return [f"specific.me.1!{deleted.new_name()}" for _ in range(count)]


def test_names_are_unique_and_random(deleted: DeletedChannels) -> None:
    """Names are unique, also across processes."""
    names = {*make(deleted, 100), *make(DeletedChannels(), 100)}
    assert len(names) == 200


def test_deleted_stays_deleted(deleted: DeletedChannels) -> None:
    """Channels can be deleted in any order, and the record is exact."""
    names = make(deleted, 300)
    order = random.Random(1).sample(names, len(names))
    gone: set[str] = set()
    for name in order:
        assert name not in deleted
        deleted.add(name)
        deleted.add(name)
        gone.add(name)
        assert {each for each in names if each in deleted} == gone
        [new] = make(deleted, 1)
        assert new not in deleted


def test_memory_is_bounded(deleted: DeletedChannels) -> None:
    """The record has one bit per channel since the oldest live one."""
    empty = sys.getsizeof(deleted)
    for name in make(deleted, 10_000):
        deleted.add(name)
    assert sys.getsizeof(deleted) == empty
    oldest, *others = make(deleted, 80_000)
    for name in others:
        deleted.add(name)
    assert oldest not in deleted
    assert sys.getsizeof(deleted) < empty + 2 * 80_000 / 8
    deleted.add(oldest)
    assert sys.getsizeof(deleted) < empty + 8


@pytest.mark.parametrize(
    "name", ["jobs", "a!b", "a!", "a!-1.x", "a!1f.x", "a!" + "f" * 90, "", "a!2.x"]
)
def test_names_from_elsewhere(deleted: DeletedChannels, name: str) -> None:
    """A name from another source takes no memory, and is not deleted."""
    make(deleted, 2)
    empty = sys.getsizeof(deleted)
    deleted.add(name)
    assert name not in deleted
    assert sys.getsizeof(deleted) == empty


def test_clearing(deleted: DeletedChannels) -> None:
    """Clearing forgets all earlier channels."""
    before = make(deleted, 20)
    for name in before:
        deleted.add(name)
    deleted.clear()
    [after, other] = make(deleted, 2)
    deleted.add(before[0])
    deleted.add(after)
    assert [name for name in (*before, after, other) if name in deleted] == [after]
