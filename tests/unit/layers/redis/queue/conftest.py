"""A shard that holds groups, and the memberships of a process."""

from collections.abc import AsyncIterator

import pytest

from fast_channels.layers.redis.queue.memberships import Memberships, Timing

from .fake_groups import TIMING, Redis, make


@pytest.fixture
async def redis() -> Redis:
    return Redis()


@pytest.fixture
def timing() -> Timing:
    return TIMING


@pytest.fixture
async def memberships(redis: Redis, timing: Timing) -> AsyncIterator[Memberships]:
    """Return memberships that are written to the shard, and closed after the test."""
    memberships = make(redis, timing=timing)
    yield memberships
    redis.trouble = None
    redis.answers.set()
    await memberships.close()
