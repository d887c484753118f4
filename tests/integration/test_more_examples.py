"""The single-file examples, and the worker of the example application."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples import bare_asgi, chanx_chat, quart_app, starlette_app
from examples.django_and_fastapi import fastapi_app
from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisChannelLayer,
    register_channel_layer,
)
from fast_channels.lifespan import channels_lifespan
from fast_channels.testing import HttpCommunicator, WebsocketCommunicator
from tests.integration.redis.peer import find_python
from tests.redis_servers.server import RedisServer

CHECKOUT = Path(__file__).parents[2]


@asynccontextmanager
async def opened(app: Any, path: str) -> AsyncGenerator[WebsocketCommunicator]:
    async with WebsocketCommunicator(app, path) as page:
        assert await page.connect() == (True, None)
        yield page


async def get_page(app: Any) -> str:
    response = await HttpCommunicator(app, "GET", "/").get_response()
    assert response["status"] == 200
    return response["body"].decode()


async def test_starlette_counts(layer: InMemoryChannelLayer) -> None:
    """The counter goes up for everyone."""
    app = starlette_app.app
    assert "<title>Counter</title>" in await get_page(app)
    async with opened(app, "/counter") as one, opened(app, "/counter") as other:
        await one.send_json_to({})
        number = await one.receive_json_from()
        assert await other.receive_json_from() == number
        await other.send_json_to({})
        assert await one.receive_json_from() == {"number": number["number"] + 1}


async def test_quart_sends_news(layer: InMemoryChannelLayer) -> None:
    """News posted to Quart reaches the consumer's clients; Quart serves the rest."""
    client = quart_app.quart.test_client()
    page = await client.get("/")
    assert "<title>News</title>" in await page.get_data(as_text=True)
    async with opened(quart_app.app, "/ws/news") as reader:
        response = await client.post("/news", data="Kuchen ☕")
        assert response.status_code == 202
        assert await reader.receive_from() == "Kuchen ☕"


async def test_bare_clock_ticks() -> None:
    """The clock sends the time, and its task ends with the page."""
    assert "<title>Clock</title>" in await get_page(bare_asgi.app)
    missing = HttpCommunicator(bare_asgi.app, "GET", "/favicon.ico")
    assert (await missing.get_response())["status"] == 404
    async with opened(bare_asgi.app, "/") as page:
        assert str(await page.receive_from()).endswith(" UTC")


async def test_chanx_rooms(layer: InMemoryChannelLayer) -> None:
    """Everyone in a room is notified of joins, messages and leaves."""
    register_channel_layer("chat", layer)
    app = chanx_chat.app

    async def hear(page: WebsocketCommunicator) -> str:
        while (message := await page.receive_json_from())["action"] != (
            "room_notification"
        ):
            pass
        assert message["payload"]["room_name"] == "tea"
        text: str = message["payload"]["message"]
        return text

    async with opened(app, "/ws/room/tea") as one:
        async with opened(app, "/ws/room/tea") as other, opened(app, "/ws/room/x"):
            assert await hear(one) == "🚪 Somebody came in"
            said = {"action": "room_chat", "payload": {"message": "Hello"}}
            await one.send_json_to(said)
            assert await hear(one) == "💬 Hello"
            assert await hear(other) == "💬 Hello"
        assert await hear(one) == "👋 Somebody left"


# In an interpreter with Django Channels: a client of the project, without a server. It
# reports when it has connected, sends news for each line of its input, and prints what
# its WebSocket gets.
DJANGO_CLIENT = """
import asyncio, sys
from asgiref.testing import ApplicationCommunicator
from django_project import application

async def main():
    scope = {"type": "websocket", "path": "/ws/news", "headers": [], "subprotocols": []}
    socket = ApplicationCommunicator(application, scope)
    await socket.send_input({"type": "websocket.connect"})
    print((await socket.receive_output(5))["type"], flush=True)
    print((await socket.receive_output(10))["text"], flush=True)
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/news",
             "query_string": b"text=from+Django", "headers": [(b"host", b"localhost")]}
    request = ApplicationCommunicator(application, scope)
    await request.send_input({"type": "http.request", "body": b""})
    print((await request.receive_output(5))["status"], flush=True)
    print((await socket.receive_output(10))["text"], flush=True)
    await socket.send_input({"type": "websocket.disconnect", "code": 1000})
    await socket.wait()

asyncio.run(main())
"""


# The environment of the Django project may have to be created first.
@pytest.mark.timeout(600)
async def test_django_and_fastapi_share_a_group(own_redis_server: RedisServer) -> None:
    """Messages of either side to the group reach the WebSockets of both."""
    python = await asyncio.to_thread(find_python)
    layer = RedisChannelLayer(hosts=[own_redis_server.url])
    register_channel_layer("default", layer)
    async with layer, opened(fastapi_app.app, "/ws/news") as page:
        django = await asyncio.create_subprocess_exec(
            *(python, "-c", DJANGO_CLIENT),
            cwd=CHECKOUT / "examples/django_and_fastapi",
            env={**os.environ, "REDIS_URL": own_redis_server.url},
            stdout=subprocess.PIPE,
        )
        assert django.stdout is not None

        async def printed() -> str:
            assert django.stdout is not None
            return (await django.stdout.readline()).decode().rstrip("\n")

        assert await printed() == "websocket.accept"
        transport = httpx.ASGITransport(fastapi_app.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
            response = await http.post("/news", params={"text": "from FastAPI"})
            assert response.status_code == 202
        news = {"from": "FastAPI", "text": "from FastAPI"}
        assert await page.receive_json_from() == news
        assert await printed() == '{"from": "FastAPI", "text": "from FastAPI"}'
        assert await printed() == "202"
        assert await page.receive_json_from(timeout=5) == {
            "from": "Django",
            "text": "from Django",
        }
        assert await printed() == '{"from": "Django", "text": "from Django"}'
        assert await django.wait() == 0


# ARQ requires a redis-py before 6, which only some environments have.
if find_spec("arq") is not None:

    async def test_worker_of_arq_does_a_job(
        own_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker runs a page's job, and sends the progress to that page."""
        monkeypatch.setenv("REDIS_URL", own_redis_server.url)
        from examples.jobs import Jobs  # noqa: PLC0415 # the import reads REDIS_URL
        from examples.layers import setup_layers  # noqa: PLC0415

        setup_layers()
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "arq", "examples.arq_worker.WorkerSettings"),
            cwd=CHECKOUT,
            stderr=subprocess.PIPE,
        )
        try:
            async with channels_lifespan()(None), opened(Jobs, "/ws/jobs") as page:
                await page.send_json_to({"type": "start", "title": "Sales"})
                queued = await page.receive_json_from(timeout=5)
                assert queued["where"] == "worker"
                percent = -1
                while percent < 100:
                    progress = await page.receive_json_from(timeout=10)
                    assert progress["job"] == queued["job"]
                    assert progress["percent"] > percent
                    percent = progress["percent"]
        finally:
            worker.terminate()
            await worker.communicate()
