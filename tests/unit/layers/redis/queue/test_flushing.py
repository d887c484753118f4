"""The keys that a flush deletes: all of its prefix, and no others."""

import re

import pytest

from fast_channels.layers.redis.queue.flushing import flush_keys
from fast_channels.layers.redis.shards import Shards
from tests.unit.layers.redis.fake_hosts import as_shard


class Redis:
    """The keys of a server."""

    def __init__(self, *keys: str) -> None:
        self.keys = [key.encode() for key in keys]
        self.commands: list[str] = []

    async def execute(self, *command: str | bytes | int) -> object:
        self.commands.append(str(command[0]))
        if command[0] == "SCAN":
            _, cursor, _, pattern, _, count = command
            assert isinstance(pattern, str)
            assert isinstance(count, int)
            start = int(cursor)
            page = self.keys[start : start + count]
            end = start + count if start + count < len(self.keys) else 0
            regex = "".join(
                _WILD.get(part) or re.escape(part.removeprefix("\\") or part)
                for part in re.findall(r"\\.|.", pattern)
            )
            found = [key for key in page if re.fullmatch(regex, key.decode())]
            return str(end).encode(), found
        assert command[0] == "UNLINK"
        assert command[1:], "Redis refuses the command without keys"
        self.keys = [key for key in self.keys if key not in command]
        return len(command) - 1

    async def flush(self, prefix: str) -> list[str]:
        """Return the keys that remain after a flush."""
        await flush_keys(Shards([as_shard(self, prefix=prefix)]))
        return sorted(key.decode() for key in self.keys)


# What a pattern can match unless a backslash precedes it.
_WILD = {"*": ".*", "?": ".", "[": "["}

OWN = [
    "app:layer",
    "app:group:room",
    "app:receivers:{appjobs}",
    "app:inflight:{appjobs}:me.0",
    "app:deadletters:{appjobs}",
    "app:inflight:{appp.1!}:me.1",
    "appjobs",
    "apps",
    "appp.1!",
]
NAMES = [
    ":layer",
    ":group:room",
    ":receivers:{{{0}jobs}}",
    ":inflight:{{{0}jobs}}:me.0",
    ":deadletters:{{{0}jobs}}",
    ":inflight:{{{0}p.1!}}:me.1",
    "jobs",
    "p.1!",
]


async def test_all_keys_of_a_prefix_are_deleted() -> None:
    """They belong to groups and queues, or hold private data of layers."""
    assert await Redis(*OWN).flush("app") == []


async def test_nothing_is_deleted_without_keys() -> None:
    """Redis refuses UNLINK without keys."""
    redis = Redis("other")
    assert await redis.flush("app") == ["other"]
    assert redis.commands == ["SCAN"]


@pytest.mark.parametrize("other", ["app2", "apps", "app:x"])
@pytest.mark.parametrize("sign", NAMES[:-2])
async def test_keys_of_a_longer_prefix_in_use_are_kept(other: str, sign: str) -> None:
    """A key that shows where its prefix ends proves that the prefix is in use."""
    theirs = [f"{other}{name.format(other)}" for name in (sign, "jobs", "p.1!")]
    redis = Redis(*theirs, "app:group:room", "appjobs", "appp.1!")
    assert await redis.flush("app") == sorted(theirs)
    assert await redis.flush(other) == []


@pytest.mark.parametrize("key", ["app:group:layer", "app:receivers:{applayer}"])
async def test_names_that_look_like_markers_are_not_markers(key: str) -> None:
    """A group and a channel can be called "layer"."""
    assert await Redis(key, "app:group:room", "applayer").flush("app") == []


async def test_a_queue_alone_does_not_prove_a_longer_prefix() -> None:
    """Its key does not show where the prefix ends."""
    assert await Redis("app2jobs", "app:group:room").flush("app") == []


async def test_keys_that_do_not_start_with_the_prefix_are_kept() -> None:
    """Matching is case-sensitive and begins at the start of the key."""
    redis = Redis("app:layer", "appjobs", "App2jobs", "my-app2jobs")
    assert await redis.flush("app2") == sorted(
        ["app:layer", "appjobs", "App2jobs", "my-app2jobs"]
    )


@pytest.mark.parametrize("wild", ["a*p", "a?p", "a[b]p", "a\\p", "a^-p", "*"])
async def test_wildcards_in_a_prefix_are_taken_literally(wild: str) -> None:
    """They are characters like any other."""
    others = ["abp:layer", "abpjobs", "axxp:layer", "apjobs"]
    redis = Redis(*others, *(wild + name.format(wild) for name in NAMES))
    assert await redis.flush(wild) == sorted(others)


async def test_many_keys_are_deleted_in_steps() -> None:
    """Redis can run other commands between the steps."""
    redis = Redis(*(f"app{number}" for number in range(2500)), "other")
    assert await redis.flush("app") == ["other"]
    assert redis.commands == ["SCAN"] * 3 + ["UNLINK"] * 3
