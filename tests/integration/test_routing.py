"""Routers, served by uvicorn."""

import contextlib
import logging
from collections.abc import AsyncGenerator

import httpx
import pytest
import websockets
from fastapi import FastAPI

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.routing import ProtocolTypeRouter

from .servers import serving


class Echo(AsyncWebsocketConsumer):
    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.send(text_data=text_data)


async def test_protocols(
    caplog: pytest.LogCaptureFixture, errors: list[logging.LogRecord]
) -> None:
    """Each protocol has its application, and FastAPI's lifespan runs."""
    caplog.set_level(logging.INFO)
    happened: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        happened.append("startup")
        yield
        happened.append("shutdown")

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    def root() -> list[str]:
        return happened

    router = ProtocolTypeRouter({"http": app, "websocket": Echo})
    async with (
        serving(router, "uvicorn-wsproto") as address,
        httpx.AsyncClient(trust_env=False) as client,
        websockets.connect(f"ws://{address}/", proxy=None) as websocket,
    ):
        assert (await client.get(f"http://{address}/")).json() == ["startup"]
        await websocket.send("hello")
        assert await websocket.recv() == "hello"
    assert happened == ["startup", "shutdown"]

    async with serving(ProtocolTypeRouter({"websocket": Echo}), "uvicorn-wsproto"):
        pass
    assert caplog.text.count("Application shutdown complete") == 2
    assert "unsupported" not in caplog.text
