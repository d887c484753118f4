"""Applications whose servers are told to shut down."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from websockets import ConnectionClosedError
from websockets.asyncio.client import ClientConnection, connect

from tests.redis_servers.server import RedisServer, free_port

# Says what happens, in the order in which it happens.
APPLICATION = """
import asyncio, contextlib, os

import redis
from fastapi import FastAPI

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.layers import (
    RedisChannelLayer, get_channel_layer, register_channel_layer
)
from fast_channels.lifespan import channels_lifespan

URL = os.environ["URL"]


class Guest(AsyncWebsocketConsumer):
    channel_layer_alias = "default"
    groups = ["guests"]

    async def connect(self):
        await self.accept()
        await self.send(self.scope["state"]["greeting"])

    async def disconnect(self, code):
        print("disconnect", code, flush=True)


class Stubborn(Guest):
    async def disconnect(self, code):
        await super().disconnect(code)
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def own(app):
    register_channel_layer("default", RedisChannelLayer(hosts=[URL]))
    yield {"greeting": "hello"}
    await get_channel_layer("default").group_send("guests", {"type": "bye"})
    print("shutdown", flush=True)


@contextlib.asynccontextmanager
async def lifespan(app):
    async with channels_lifespan(own, timeout=1)(app) as state:
        yield state
    with redis.Redis.from_url(URL) as client:
        print("connections", len(client.client_list()) - 1, flush=True)


app = FastAPI(lifespan=lifespan)
app.router.add_websocket_route("/guest", Guest.as_asgi())
app.router.add_websocket_route("/stubborn", Stubborn.as_asgi())
"""

SERVERS = {
    "uvicorn": "uvicorn app:app --port {} --log-level warning",
    # The application runs in a process of its own, which gets no signal,
    "hypercorn": "hypercorn app:app --bind 127.0.0.1:{}",
    # and here it does not.
    "hypercorn-without-workers": "hypercorn app:app --bind 127.0.0.1:{} --workers 0",
}


async def open_socket(url: str) -> ClientConnection:
    """Connect as soon as the server accepts connections."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await connect(url, proxy=None)
            except OSError:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("server", SERVERS)
async def test_shutdown(
    server: str, own_redis_server: RedisServer, tmp_path: Path
) -> None:
    """Clients see 1012, and so do consumers; then comes the rest, in bounded time."""
    (tmp_path / "app.py").write_text(APPLICATION)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", *SERVERS[server].format(port).split()],
        cwd=tmp_path,
        env={**os.environ, "URL": own_redis_server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        clients = [
            await open_socket(f"ws://127.0.0.1:{port}/{name}")
            for name in ("guest", "stubborn")
        ]
        for client in clients:
            assert await client.recv() == "hello"
        process.send_signal(signal.SIGTERM)
        for client in clients:
            with pytest.raises(ConnectionClosedError) as info:
                await client.recv()
            assert info.value.rcvd is not None
            assert info.value.rcvd.code == 1012
        async with asyncio.timeout(10):
            printed, log = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert printed.decode().split("\n") == [
        "disconnect 1012",
        "disconnect 1012",
        "shutdown",
        "connections 0",
        "",
    ], log.decode()
    assert "Traceback" not in log.decode()
