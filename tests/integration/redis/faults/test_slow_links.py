"""A backlog that takes longer to transfer than a reply may take."""

import asyncio

import pytest

from tests.redis_servers.proxy import RoundTripProxy
from tests.redis_servers.server import RedisServer

from .conftest import MakeLayer

# A busy machine can be silent for a second.
_TIMEOUT = 1.5
_BYTES_PER_SECOND = 4_000_000
# The transfer takes 2.5 seconds.
_BYTES = 10_000_000


@pytest.mark.parametrize("own", [True, False], ids=["own channel", "plain channel"])
@pytest.mark.parametrize("count", [1, 40])
async def test_a_slow_link_loses_no_connection_and_no_message(
    redis_server: RedisServer,
    round_trips: RoundTripProxy,
    make_layer: MakeLayer,
    own: bool,
    count: int,
) -> None:
    """A slow link slows a receiver down; it loses no connection and no message."""
    layer = make_layer(round_trips.url, connection_kwargs={"socket_timeout": _TIMEOUT})
    sender = make_layer(redis_server)
    channel = await layer.new_channel() if own else "films"
    data = b"x" * (_BYTES // count)
    for number in range(count):
        await sender.send(channel, {"type": "film", "number": number, "data": data})
    round_trips.bytes_per_second = _BYTES_PER_SECOND
    async with asyncio.timeout(30):
        for number in range(count):
            message = await layer.receive(channel)
            assert message == {"type": "film", "number": number, "data": data}
    assert layer.statistics()["reconnects"] == 0
