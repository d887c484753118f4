"""News in a Quart application: ``uvicorn examples.quart_app:app``.

Open http://localhost:8000 in two windows, and send news from either. Quart serves the
page and the form; the WebSockets of one path go to a consumer.
"""

from collections.abc import AsyncGenerator
from typing import Any

from quart import Quart, request

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.layers import (
    InMemoryChannelLayer,
    get_channel_layer,
    register_channel_layer,
)
from fast_channels.lifespan import channels_lifespan
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelMessage,
    ChannelScope,
)

PAGE = """<!doctype html>
<html lang="en">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>News</title>
<h1>News</h1>
<form><label>Text <input id="text" required></label> <button>Send</button></form>
<ul aria-live="polite"></ul>
<script>
  const form = document.querySelector("form");
  form.onsubmit = (event) => {
    event.preventDefault();
    fetch("/news", { method: "POST", body: form.text.value });
    form.reset();
  };
  const socket = new WebSocket(location.href.replace("http", "ws") + "ws/news");
  socket.onmessage = ({ data }) => {
    const item = document.createElement("li");
    item.textContent = data;
    document.querySelector("ul").prepend(item);
  };
</script>
"""

register_channel_layer("default", InMemoryChannelLayer())


class News(AsyncWebsocketConsumer):
    channel_layer_alias = "default"
    groups = ["readers"]  # every instance gets its own copy

    async def news(self, event: ChannelMessage) -> None:
        await self.send(event["text"])


quart = Quart(__name__)


@quart.get("/")
async def page() -> str:
    return PAGE


@quart.post("/news")
async def publish() -> tuple[str, int]:
    text = await request.get_data(as_text=True)
    layer = get_channel_layer()
    assert layer is not None
    await layer.group_send("readers", {"type": "news", "text": text})
    return "", 202


@quart.while_serving
async def while_serving() -> AsyncGenerator[None]:
    async with channels_lifespan()(quart):
        yield


news = News.as_asgi()


async def app(
    scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Pass each connection to a consumer or to Quart."""
    if scope["type"] == "websocket" and scope["path"] == "/ws/news":
        await news(scope, receive, send)
    else:
        # Quart's types of scopes and events are narrower than those of ASGI.
        application: Any = quart
        await application(scope, receive, send)
