"""Sentinels replace the master with another server."""

import asyncio
from collections.abc import Callable

import pytest

from tests.redis_servers.sentinel import Sentinels
from tests.redis_servers.server import RedisServer

from .conftest import MakeLayer
from .traffic import GROUP, Traffic, listening, reached_again, to_group

# Maximum seconds from the new master's start until consumers receive again.
_BACK = 3.0


def crash(sentinels: Sentinels) -> RedisServer:
    return sentinels.wait_for_new_master(sentinels.kill_master())


@pytest.mark.parametrize("change", [crash, Sentinels.fail_over])
async def test_consumers_receive_from_a_new_master(
    breakable_sentinels: Sentinels,
    make_layer: MakeLayer,
    prefix: str,
    change: Callable[[Sentinels], RedisServer],
) -> None:
    """Consumers stay connected, and receive from a new master within three seconds."""
    layers = [make_layer(breakable_sentinels) for _ in range(2)]
    send = to_group(make_layer(breakable_sentinels))
    async with listening(*layers, *layers) as ledgers:
        async with Traffic(send) as traffic:
            await traffic.reaches(100)
            old = breakable_sentinels.master
            new = await asyncio.to_thread(change, breakable_sentinels)
            assert new is not old
            await reached_again(ledgers, traffic, _BACK)
        assert new.command("ZCARD", f"{prefix}:group:{GROUP}") == 4
