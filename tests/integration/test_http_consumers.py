"""HTTP consumers behind real servers and sockets, under every framework."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from fast_channels.consumer import AsyncHttpConsumer
from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    register_channel_layer,
)
from fast_channels.type_defs import ASGIApplication

from .servers import Serve

# uvicorn without a WebSocket implementation, as the old ones are deprecated.
behind_servers = pytest.mark.parametrize(
    "server", ["uvicorn-none", "hypercorn"], indirect=True
)

AnyLayer: TypeAlias = InMemoryChannelLayer | RedisChannelLayer | RedisPubSubChannelLayer

LIMIT = 10
"""Seconds after which a test that would wait forever fails."""


class Echo(AsyncHttpConsumer):
    """Answers with the request."""

    max_body_size = 10

    async def handle(self, body: bytes) -> None:
        who = self.scope.get("path_params", {}).get("who", "nobody")
        text = f"{self.scope['method']} {who} {body.decode()}"
        headers = {
            "content-type": "text/plain",
            "content-length": str(len(text)),
            "x-port": str(self.scope["client"][1]),
        }
        await self.send_response(200, text.encode(), headers=headers)


class Events(AsyncHttpConsumer):
    """Sends messages from the layer as server-sent events."""

    channel_layer_alias = "default"

    def __init__(self, gone: asyncio.Event) -> None:
        super().__init__()
        self.gone = gone

    async def handle(self, body: bytes) -> None:
        await self.channel_layer.group_add("events", self.channel_name)
        await self.send_headers(headers={"content-type": "text/event-stream"})
        await self.send_body(b": welcome\n\n", more_body=True)

    async def event(self, message: Mapping[str, Any]) -> None:
        event = f"data: {message['text']}\n\n".encode()
        await self.send_body(event, more_body=message["text"] != "last")

    async def disconnect(self) -> None:
        self.gone.set()


class EventsInHandle(Events):
    """The same with a ``handle()`` that receives the messages itself."""

    async def handle(self, body: bytes) -> None:
        await super().handle(body)
        while True:
            message = await self.channel_receive()
            await self.event(message)
            if message["text"] == "last":
                break


@pytest.fixture
async def any_layer(
    request: pytest.FixtureRequest, layer: InMemoryChannelLayer
) -> AsyncIterator[AnyLayer]:
    """Register a layer of the chosen kind, and check that it is empty afterwards."""
    chosen: AnyLayer = layer
    if request.param is not InMemoryChannelLayer:
        hosts = [request.getfixturevalue("redis_server").url]
        chosen = request.param(hosts, prefix=request.getfixturevalue("prefix"))
        register_channel_layer("default", chosen)
    async with chosen:
        yield chosen
        async with asyncio.timeout(LIMIT):
            held = chosen.statistics()
            while held["channels"] or held["groups"] or held["waiting"]:
                await asyncio.sleep(0)
                held = chosen.statistics()


@asynccontextmanager
async def requesting(
    address: str, request: bytes
) -> AsyncGenerator[asyncio.StreamReader]:
    """Send a request, read the answer, and leave."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(LIMIT):
            writer.write(request)
            yield reader
    finally:
        writer.close()
        await writer.wait_closed()


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@behind_servers
@pytest.mark.parametrize("consumer", [Events, EventsInHandle])
@pytest.mark.parametrize(
    "any_layer",
    [InMemoryChannelLayer, RedisChannelLayer, RedisPubSubChannelLayer],
    indirect=True,
)
async def test_server_sent_events(
    serve: Serve, any_layer: AnyLayer, consumer: type[Events]
) -> None:
    """Messages of a group reach each client until it leaves or the response ends."""

    async def send(text: str) -> None:
        await any_layer.group_send("events", {"type": "event", "text": text})

    gone = asyncio.Event()
    async with (
        serve(consumer.as_asgi(gone=gone)) as address,
        requesting(address, GET) as stays,
    ):
        async with requesting(address, GET) as leaves:
            for client in (leaves, stays):
                await client.readuntil(b": welcome\n\n")
            for text in ("1", "2", "3"):
                await send(text)
            for client in (leaves, stays):
                assert (await client.readuntil(b"data: 3\n\n")).count(b"data: ") == 3
            assert not gone.is_set()
        await gone.wait()
        gone.clear()
        await send("last")
        assert b"data: last\n\n" in await stays.readuntil(b"\r\n0\r\n\r\n")
        await gone.wait()


@behind_servers
async def test_connection_is_kept(serve: Serve) -> None:
    """Several requests of any allowed size share one connection."""
    async with serve(Echo.as_asgi()) as address, httpx.AsyncClient() as http:
        ports = set[str]()
        for size in (0, 10, 5):
            url = f"http://{address}/"
            response = await http.post(url, content=b"x" * size)
            assert response.text == f"POST nobody {'x' * size}"
            ports.add(response.headers["x-port"])
    assert len(ports) == 1


@behind_servers
async def test_pipelined_requests(serve: Serve) -> None:
    """Requests that arrive at once are answered in order."""
    async with serve(Echo.as_asgi()) as address:
        put = b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1"
        last = put.replace(b"1\r\n\r\n1", b"1\r\nconnection: close\r\n\r\n2")
        async with requesting(address, put + last) as client:
            answers = await client.read()
    assert answers.index(b"PUT nobody 1") < answers.index(b"PUT nobody 2")


async def chunked() -> AsyncIterator[bytes]:
    yield b"x" * 6
    yield b"x" * 6


@behind_servers
async def test_too_large_body(serve: Serve) -> None:
    """A body above the limit is answered with 413, even if its length is unknown."""
    async with serve(Echo.as_asgi()) as address, httpx.AsyncClient() as http:
        for content in (b"x" * 11, chunked()):
            response = await http.post(f"http://{address}/", content=content)
            assert response.status_code == 413
            assert "larger than 10 bytes" in response.text


@behind_servers
async def test_body_that_ends_early(serve: Serve) -> None:
    """A client that leaves while it sends the body causes no error."""
    gone = asyncio.Event()

    class Upload(AsyncHttpConsumer):
        async def handle(self, body: bytes) -> None:
            raise AssertionError(body)

        async def disconnect(self) -> None:
            gone.set()

    async with serve(Upload.as_asgi()) as address:
        early = b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nearly"
        async with requesting(address, early):
            pass
        async with asyncio.timeout(LIMIT):
            await gone.wait()


@behind_servers
async def test_failing_consumer(serve: Serve, errors: list[logging.LogRecord]) -> None:
    """If a consumer fails, the client gets status 500, and the server logs why."""
    async with (
        serve(AsyncHttpConsumer.as_asgi()) as address,
        httpx.AsyncClient() as http,
    ):
        response = await http.get(f"http://{address}/")
        assert response.status_code == 500
    (record,) = errors
    assert record.exc_info is not None
    assert "does not implement handle()" in str(record.exc_info[1])
    errors.clear()


# Frameworks


def starlette_routes() -> ASGIApplication:
    return Starlette(routes=[Route("/room/{who}", Echo.as_asgi())])


def starlette_mount() -> ASGIApplication:
    return Starlette(routes=[Mount("/room/{who}", Echo.as_asgi())])


async def untouched(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Pass the request and response on unchanged."""
    return await call_next(request)


def starlette_middleware() -> ASGIApplication:
    return Starlette(
        routes=[Route("/room/{who}", Echo.as_asgi())],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=untouched)],
    )


def fastapi_app() -> ASGIApplication:
    app = FastAPI()
    app.add_route("/room/{who}", Echo.as_asgi())
    return app


def fastapi_router() -> ASGIApplication:
    app = FastAPI()
    app.router.add_route("/room/{who}", Echo.as_asgi(), methods=None)
    return app


def fastapi_mounted_app() -> ASGIApplication:
    rooms = FastAPI(routes=[Route("/{who}", Echo.as_asgi())])
    app = FastAPI()
    app.mount("/room", rooms)
    return app


def requests_to(application: ASGIApplication) -> httpx.AsyncClient:
    """Return a client of an application without a server."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(cast("Any", application)),
        base_url="http://x",
        follow_redirects=True,
    )


@pytest.mark.parametrize(
    "build",
    [
        starlette_routes,
        starlette_mount,
        starlette_middleware,
        fastapi_app,
        fastapi_router,
        fastapi_mounted_app,
    ],
)
async def test_consumer_in_a_framework(build: Callable[[], ASGIApplication]) -> None:
    """A route accepts every method, and path parameters are in the scope."""
    async with requests_to(build()) as http:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            response = await http.request(method, "/room/me")
            assert response.text == f"{method} me "


async def test_route_with_methods() -> None:
    """A route can be limited to some methods."""
    app = FastAPI()
    app.router.add_route("/", Echo.as_asgi(), methods=["POST"])
    async with requests_to(app) as http:
        assert (await http.post("/")).status_code == 200
        assert (await http.get("/")).status_code == 405


@behind_servers
@pytest.mark.parametrize(
    "middleware", [[], [Middleware(BaseHTTPMiddleware, dispatch=untouched)]]
)
async def test_stream_in_a_framework(
    serve: Serve, layer: InMemoryChannelLayer, middleware: list[Middleware]
) -> None:
    """A client's disconnect gets through the framework and its middleware."""
    gone = asyncio.Event()
    routes = [Route("/", EventsInHandle.as_asgi(gone=gone))]
    app = Starlette(routes=routes, middleware=middleware)
    async with serve(app) as address:
        async with requesting(address, GET) as client:
            await client.readuntil(b": welcome\n\n")
            assert len(layer.groups["events"]) == 1
        async with asyncio.timeout(LIMIT):
            await gone.wait()
