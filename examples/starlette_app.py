"""A shared counter, with Starlette: ``uvicorn examples.starlette_app:app``.

Open http://localhost:8000 in two windows, and press the button in either.
"""

import itertools
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route, WebSocketRoute

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.layers import InMemoryChannelLayer, register_channel_layer
from fast_channels.lifespan import channels_lifespan
from fast_channels.type_defs import ChannelMessage

PAGE = """<!doctype html>
<html lang="en">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Counter</title>
<h1>Pressed <output id="number">0</output> times</h1>
<button>Press</button>
<script>
  const socket = new WebSocket(location.href.replace("http", "ws") + "counter");
  socket.onmessage = ({ data }) => {
    document.querySelector("output").value = JSON.parse(data).number;
  };
  document.querySelector("button").onclick = () => socket.send("{}");
</script>
"""

register_channel_layer("default", InMemoryChannelLayer())
numbers = itertools.count(1)


class Counter(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "default"
    groups = ["watchers"]  # every instance gets its own copy

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        message = {"type": "number.changed", "number": next(numbers)}
        await self.channel_layer.group_send("watchers", message)

    async def number_changed(self, event: ChannelMessage) -> None:
        await self.send_json({"number": event["number"]})


async def page(request: Request) -> HTMLResponse:
    return HTMLResponse(PAGE)


app = Starlette(
    routes=[Route("/", page), WebSocketRoute("/counter", Counter.as_asgi())],
    lifespan=channels_lifespan(),
)
