from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fast_channels.layers import get_channel_layer
from fast_channels.lifespan import channels_lifespan

from consumers import Room
from layers import register_layers

register_layers()

app = FastAPI(lifespan=channels_lifespan())
app.router.add_websocket_route("/ws/{room}", Room.as_asgi())


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("index.html"))


@app.post("/announce/{room}")
async def announce(room: str, text: str) -> None:
    message = {"type": "chat.notice", "text": text}
    await get_channel_layer("chat").group_send(f"room.{room}", message)
