"""Analytics: a page that shows the counts of the worker in ``counter``.

The counts are server-sent events from an HTTP consumer.
"""

import asyncio
import json

from fastapi import APIRouter

from fast_channels.consumer import AsyncHttpConsumer
from fast_channels.exceptions import ChannelFull
from fast_channels.layers.redis import RedisUnavailable
from fast_channels.type_defs import ChannelMessage

from .counter import CHANNEL, GROUP


class Dashboard(AsyncHttpConsumer):
    """The stream for one page: a response that continues until the page is closed."""

    channel_layer_alias = "analytics"

    async def handle(self, body: bytes) -> None:
        try:
            await self.channel_layer.group_add(GROUP, self.channel_name)
            question = {"type": "ask", "reply_to": self.channel_name}
            await self.channel_layer.send(CHANNEL, question)
        except (ChannelFull, RedisUnavailable):
            return await self.send_response(503, b"The worker cannot be asked.")
        await self.send_headers(
            headers={"content-type": "text/event-stream", "cache-control": "no-store"}
        )
        try:
            await self.pass_on()
        finally:
            # The server shuts down: end the stream, and browsers reconnect later.
            await self.send_body(b"")

    async def pass_on(self) -> None:
        """Send messages from the layer until the page is closed."""
        # The page's first event, unless the worker answers sooner.
        patience, otherwise = 1.0, b"event: nobody\ndata:\n\n"
        while True:
            try:
                async with asyncio.timeout(patience):
                    message = await self.channel_receive()
                await self.dispatch(message)
            except TimeoutError:
                await self.send_body(otherwise, more_body=True)
            # From now on a comment, so that proxies do not close the connection.
            patience, otherwise = 15.0, b": still here\n\n"

    async def totals(self, event: ChannelMessage) -> None:
        """Handle a message from the worker."""
        data = json.dumps(event["counts"])
        await self.send_body(f"data: {data}\n\n".encode(), more_body=True)


router = APIRouter()
router.add_route("/events", Dashboard.as_asgi(), methods=["GET"])
