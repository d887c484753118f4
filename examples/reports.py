"""The work of the background jobs, for any process."""

import asyncio
from typing import Any

from fast_channels.exceptions import ChannelFull
from fast_channels.layers import get_channel_layer
from fast_channels.layers.redis import RedisUnavailable

SECONDS = 3.0
DONE = 100
STEP = 5


async def make_report(channel: str, job: str) -> None:
    """Do some slow work, and send the progress to the channel."""
    for percent in range(0, DONE + 1, STEP):
        await asyncio.sleep(SECONDS * STEP / DONE)
        await tell(channel, {"type": "job.progress", "job": job, "percent": percent})


async def tell(channel: str, message: dict[str, Any]) -> None:
    """Send a message; try again while Redis is down."""
    layer = get_channel_layer("queue")
    assert layer is not None
    while True:
        try:
            return await layer.send(channel, message)
        except ChannelFull:
            return None  # The channel has no reader: the page was closed.
        except RedisUnavailable:
            await asyncio.sleep(1)
