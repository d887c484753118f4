"""The application: the pages of the chat, and its WebSockets."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from .chat import Lobby, Room
from .layers import register_layers

STATIC = Path(__file__).parent / "static"

register_layers()

app = FastAPI(title="fast_channels chat")
app.mount("/static", StaticFiles(directory=STATIC), name="static")

# A path, since a name with a slash in it shall be refused in words, not with a 404.
app.router.add_websocket_route("/ws/lobby", Lobby.as_asgi())
app.router.add_websocket_route("/ws/room/{room_name:path}", Room.as_asgi())


@app.get("/")
@app.get("/room/{room_name:path}")
async def page() -> FileResponse:
    """Return the page of every room; its script finds the room in the address."""
    return FileResponse(STATIC / "index.html")
