r"""The analytics worker: counts the events in a queue.

Without Redis, it is a task of the server. With REDIS_URL, it is a separate process::

    python -m fast_channels.worker examples.counter:Counter visits \
        --layer analytics --setup examples.layers:setup_layers
"""

import asyncio
import contextlib
from collections import Counter as Counts
from collections.abc import AsyncGenerator

from fast_channels.consumer import AsyncConsumer
from fast_channels.exceptions import ChannelFull
from fast_channels.layers import get_channel_layer
from fast_channels.layers.redis import RedisUnavailable
from fast_channels.type_defs import ChannelMessage
from fast_channels.worker import Worker

CHANNEL, GROUP = "visits", "dashboards"
# Kept in the worker's memory: two workers would count separately.
counts: Counts[str] = Counts()


async def count_visit(page: str) -> None:
    """Send a visit to the worker; losing one does no harm."""
    layer = get_channel_layer("analytics")
    assert layer is not None
    with contextlib.suppress(ChannelFull, RedisUnavailable, TimeoutError):
        async with asyncio.timeout(1):
            await layer.send(CHANNEL, {"type": "visit", "page": page})


class Counter(AsyncConsumer):
    """The worker's consumer: handles the channel's messages one by one."""

    channel_layer_alias = "analytics"

    async def visit(self, message: ChannelMessage) -> None:
        """Count a visit, and notify all open pages."""
        counts[message["page"]] += 1
        await self.channel_layer.group_send(GROUP, self.totals())

    async def ask(self, message: ChannelMessage) -> None:
        """Send the counts to a page that has just opened."""
        await self.channel_layer.send(message["reply_to"], self.totals())

    def totals(self) -> ChannelMessage:
        """Return the message for the pages."""
        return {"type": "totals", "counts": dict(counts)}


@contextlib.asynccontextmanager
async def counting() -> AsyncGenerator[None]:
    """Run a worker in this process."""
    layer = get_channel_layer("analytics")
    assert layer is not None
    task = asyncio.create_task(Worker(Counter, [CHANNEL], layer).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
