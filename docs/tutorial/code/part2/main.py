from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse

from consumers import Room
from layers import register_layers

register_layers()

app = FastAPI()
app.router.add_websocket_route("/ws/{room}", Room.as_asgi())


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("index.html"))
