"""Analytics: a page that shows what the worker in ``counter`` has counted.

Its numbers come as server-sent events, from a consumer for HTTP.
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
    """A page that looks: a response that goes on until the page is closed."""

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
            # The server shuts down: browsers get an end, and come back later.
            await self.send_body(b"")

    async def pass_on(self) -> None:
        """Send what comes through the layer, until the page is closed."""
        # The first thing that the page is told, unless the worker answers sooner.
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
        """Handle what the worker sent."""
        data = json.dumps(event["counts"])
        await self.send_body(f"data: {data}\n\n".encode(), more_body=True)


router = APIRouter()
router.add_route("/events", Dashboard.as_asgi(), methods=["GET"])
