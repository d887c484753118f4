"""The shard that a name belongs to."""

import pytest

from fast_channels.layers.redis.sharding import shard_of

MAILBOX = "specific." + "ab" * 16 + "!"
NAMES = ["key_one", "key_two", "room", "asgi__group__room", MAILBOX, "", "é", "日本"]


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        (1, [0, 0, 0, 0, 0, 0, 0, 0]),
        (2, [1, 0, 0, 1, 0, 0, 1, 1]),
        (3, [2, 1, 0, 2, 1, 0, 2, 2]),
        (5, [3, 2, 0, 3, 1, 0, 4, 4]),
        (7, [4, 3, 0, 5, 2, 0, 5, 6]),
        (10, [6, 4, 1, 7, 3, 0, 8, 8]),
        (12, [8, 5, 1, 9, 4, 0, 9, 10]),
        (100, [69, 48, 10, 79, 39, 0, 82, 86]),
    ],
)
def test_names_are_where_django_finds_them(shards: int, expected: list[int]) -> None:
    """Each name belongs to the shard on which channels_redis 4.3 places it."""
    assert [shard_of(name, shards) for name in NAMES] == expected


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 49])
def test_every_shard_has_names(shards: int) -> None:
    """Names spread over all shards."""
    found = {shard_of(f"name{number}", shards) for number in range(2000)}
    assert found == set(range(shards))


def test_all_of_a_name_counts() -> None:
    """The part after the '!' counts: the caller decides what the name is."""
    found = {shard_of(f"a!{number}", 3) for number in range(50)}
    assert found == {0, 1, 2}
