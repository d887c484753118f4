"""A clock without any framework: ``uvicorn examples.bare_asgi:app``.

Open http://localhost:8000. It needs no layer: each page has its own task.
"""

import asyncio
from datetime import UTC, datetime

from fast_channels.consumer import AsyncHttpConsumer, AsyncWebsocketConsumer
from fast_channels.routing import ProtocolTypeRouter

PAGE = """<!doctype html>
<html lang="en">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Clock</title>
<h1>It is <time>…</time></h1>
<script>
  const socket = new WebSocket(location.href.replace("http", "ws"));
  socket.onmessage = ({ data }) => {
    document.querySelector("time").textContent = data;
  };
</script>
"""


class Clock(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.accept()
        self.ticking = asyncio.create_task(self.tick())

    async def tick(self) -> None:
        while True:
            await self.send(datetime.now(UTC).strftime("%H:%M:%S UTC"))
            await asyncio.sleep(1)

    async def disconnect(self, code: int) -> None:
        self.ticking.cancel()
        await asyncio.gather(self.ticking, return_exceptions=True)


class Page(AsyncHttpConsumer):
    async def handle(self, body: bytes) -> None:
        found = self.scope["path"] == "/"
        status, text = (200, PAGE) if found else (404, "There is only the path /.")
        headers = {"content-type": "text/html; charset=utf-8"}
        await self.send_response(status, text.encode(), headers=headers)


app = ProtocolTypeRouter({"http": Page, "websocket": Clock})
