"""Applications whose servers shut down."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from websockets import ConnectionClosedError
from websockets.asyncio.client import ClientConnection, connect

from tests.redis_servers.server import RedisServer, free_port

from .servers import IMPLEMENTATIONS

# Logs events in their order.
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
    # The application runs in a worker process, which gets no signal.
    "hypercorn": "hypercorn app:app --bind 127.0.0.1:{}",
    # The application runs in the main process.
    "hypercorn-without-workers": "hypercorn app:app --bind 127.0.0.1:{} --workers 0",
}


HANDSHAKE = (
    b"GET /flood HTTP/1.1\r\nHost: localhost\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)

# For clients that read nothing, and for those that read a stream.
STREAMING = """
import asyncio

from fastapi import FastAPI

from fast_channels.consumer import AsyncHttpConsumer, AsyncWebsocketConsumer
from fast_channels.lifespan import channels_lifespan


class Flood(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        while True:
            try:
                async with asyncio.timeout(0.5):
                    await self.send(bytes_data=bytes(100000))
            except TimeoutError:
                print("full", flush=True)
                raise


class Stream(AsyncHttpConsumer):
    async def handle(self, body):
        await self.send_headers(headers={"content-type": "text/event-stream"})
        await self.send_body(b"data: 1\\n\\n", more_body=True)
        await asyncio.Event().wait()

    async def disconnect(self):
        print("disconnect", flush=True)


app = FastAPI(lifespan=channels_lifespan(timeout=1))
app.router.add_websocket_route("/flood", Flood.as_asgi())
app.router.add_route("/stream", Stream.as_asgi())
# The same, with a timeout that no test waits for.
patient = FastAPI(lifespan=channels_lifespan(timeout=3600))
patient.router.add_route("/stream", Stream.as_asgi())
"""


@contextlib.asynccontextmanager
async def running(
    folder: Path, source: str, command: str, **environment: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run a server of an application with readable output."""
    (folder / "app.py").write_text(source)
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", *command.split()],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


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
    """Clients and consumers get 1012; then the shutdown continues, in bounded time."""
    port = free_port()
    command, url = SERVERS[server].format(port), own_redis_server.url
    async with running(tmp_path, APPLICATION, command, URL=url) as process:
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
    assert printed.decode().split("\n") == [
        "disconnect 1012",
        "disconnect 1012",
        "shutdown",
        "connections 0",
        "",
    ], log.decode()
    assert "Traceback" not in log.decode()


@pytest.mark.parametrize("websockets", IMPLEMENTATIONS)
async def test_client_that_reads_nothing(websockets: str, tmp_path: Path) -> None:
    """With its own time limit, uvicorn stops despite a client that reads nothing."""
    port = free_port()
    command = (
        f"uvicorn app:app --port {port} --log-level warning --ws {websockets} "
        "--timeout-graceful-shutdown 3"
    )
    async with running(tmp_path, STREAMING, command) as process:
        reader, writer = await open_stream(port)
        writer.write(HANDSHAKE)
        async with asyncio.timeout(15):
            await reader.readuntil(b"\r\n\r\n")
        # An empty text frame; the client reads nothing from now on.
        writer.write(b"\x81\x80\0\0\0\0")
        assert process.stdout is not None
        async with asyncio.timeout(15):
            assert await process.stdout.readline() == b"full\n"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            await process.wait()
        writer.transport.abort()


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_event_stream(http: str, tmp_path: Path) -> None:
    """An event stream is completed at once when the server shuts down."""
    port = free_port()
    command = f"uvicorn app:patient --port {port} --log-level warning --http {http}"
    async with running(tmp_path, STREAMING, command) as process:
        reader, writer = await open_stream(port)
        writer.write(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(15):
            await reader.readuntil(b"data: 1\n\n\r\n")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            # Only the chunk that ends a response.
            assert await reader.read() == b"0\r\n\r\n"
            printed, log = await process.communicate()
        writer.close()
    assert printed == b"disconnect\n"
    assert log == b""


async def open_stream(
    port: int,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as soon as the server accepts connections."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
