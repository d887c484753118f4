"""The FastAPI side: an ordinary application.

``uvicorn examples.django_and_fastapi.fastapi_app:app --port 8002``
"""

import os

from fastapi import FastAPI

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.layers import (
    RedisChannelLayer,
    get_channel_layer,
    register_channel_layer,
)
from fast_channels.lifespan import channels_lifespan
from fast_channels.type_defs import ChannelMessage

# RedisChannelLayer matches the one in channels_redis.core, also in its default prefix.
url = os.environ.get("REDIS_URL", "redis://localhost:6379")
register_channel_layer("default", RedisChannelLayer(hosts=[url]))


class News(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "default"
    groups = ["news"]  # every instance gets its own copy

    async def news_item(self, event: ChannelMessage) -> None:
        await self.send_json({"from": event["from"], "text": event["text"]})


app = FastAPI(lifespan=channels_lifespan())
app.router.add_websocket_route("/ws/news", News.as_asgi())


@app.post("/news", status_code=202)
async def publish(text: str) -> None:
    layer = get_channel_layer()
    assert layer is not None
    message = {"type": "news.item", "from": "FastAPI", "text": text}
    await layer.group_send("news", message)
