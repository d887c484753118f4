r"""The worker of the analytics: counts the events that wait for it in a queue.

In memory, it is a task of the server. With REDIS_URL, it is a process of its own::

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
# They are the worker's own: two of them would count apart.
counts: Counts[str] = Counts()


async def count_visit(page: str) -> None:
    """Leave it to the worker to count a visit; it is no harm if one is missing."""
    layer = get_channel_layer("analytics")
    assert layer is not None
    with contextlib.suppress(ChannelFull, RedisUnavailable, TimeoutError):
        async with asyncio.timeout(1):
            await layer.send(CHANNEL, {"type": "visit", "page": page})


class Counter(AsyncConsumer):
    """The worker's consumer: handles the messages of the channel, one by one."""

    channel_layer_alias = "analytics"

    async def visit(self, message: ChannelMessage) -> None:
        """Count a visit, and tell everybody who looks."""
        counts[message["page"]] += 1
        await self.channel_layer.group_send(GROUP, self.totals())

    async def ask(self, message: ChannelMessage) -> None:
        """Tell one who has just come."""
        await self.channel_layer.send(message["reply_to"], self.totals())

    def totals(self) -> ChannelMessage:
        """Return the message to whom looks."""
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
