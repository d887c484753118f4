"""A master that another server replaces, as Sentinels decide."""

import asyncio
from collections.abc import Callable

import pytest

from tests.redis_servers.sentinel import Sentinels
from tests.redis_servers.server import RedisServer

from .conftest import MakeLayer
from .traffic import GROUP, Traffic, listening, reached_again, to_group

# Seconds in which consumers receive again when there is a new master.
_BACK = 3.0


def crash(sentinels: Sentinels) -> RedisServer:
    return sentinels.wait_for_new_master(sentinels.kill_master())


@pytest.mark.parametrize("change", [crash, Sentinels.fail_over])
async def test_new_master(
    breakable_sentinels: Sentinels,
    make_layer: MakeLayer,
    prefix: str,
    change: Callable[[Sentinels], RedisServer],
) -> None:
    """Consumers stay connected, and receive within three seconds from a new master."""
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
