from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fast_channels.consumer import AsyncWebsocketConsumer


class Echo(AsyncWebsocketConsumer):
    async def connect(self):
        await self.accept()
        await self.send("Hello! What you send comes back.")

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(f"You said: {text_data}")

    async def disconnect(self, code):
        print("Somebody left, with code", code)


app = FastAPI()
app.router.add_websocket_route("/ws", Echo.as_asgi())


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("index.html"))
