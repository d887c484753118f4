"""Broadcasts through real servers, frameworks and sockets."""

import asyncio
import contextlib
import datetime as dt
import importlib
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI, WebSocket
from packaging.version import Version
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, WebSocketRoute
from websockets.asyncio.client import ClientConnection, connect

from fast_channels.consumer import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    broadcast,
)
from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    register_channel_layer,
)
from fast_channels.type_defs import ASGIApplication
from tests.redis_servers.server import RedisServer
from tests.waiting import until

from .servers import SERVERS, Serve, serving

# uvicorn's "websockets" is deprecated, but was the default for many years.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The `websockets` implementation is deprecated"),
    pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated"),
    pytest.mark.filterwarnings("ignore:websockets.server.WebSocketServerProtocol is"),
    pytest.mark.filterwarnings("ignore:remove second argument of ws_handler"),
    pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated"),
]

FRAMES = "uvicorn-fast_channels.uvicorn:WebSocketProtocol"
# The servers that take frames: none with a uvicorn before 0.38.
TAKES_FRAMES = [server for server in SERVERS if server == FRAMES]


class Room(AsyncWebsocketConsumer):
    """Sends what its client says to everyone; "busy" keeps it busy for a moment."""

    channel_layer_alias = "default"
    groups = ["room"]

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        if text_data == "busy":
            await asyncio.sleep(0.05)
            await self.send("was busy")
        else:
            await self.channel_layer.group_send(
                "room", {"type": "room.message", "content": text_data or bytes_data}
            )

    @broadcast
    def room_message(cls, event: dict[str, Any]) -> str | bytes:
        content: str | bytes = event["content"]
        return content


def bare(consumer: Any) -> ASGIApplication:
    application: ASGIApplication = consumer.as_asgi()
    return application


def starlette(consumer: Any) -> ASGIApplication:
    return Starlette(routes=[WebSocketRoute("/", consumer.as_asgi())])


def mounted(consumer: Any) -> ASGIApplication:
    return Starlette(routes=[Mount("/", app=starlette(consumer))])


def fastapi(consumer: Any) -> ASGIApplication:
    app = FastAPI()

    @app.websocket("/")
    async def endpoint(websocket: WebSocket) -> None:
        await consumer().serve(websocket)

    return app


class Shouting:
    """A middleware that changes the text of every frame."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def shout(event: dict[str, Any]) -> None:
            if event.get("text"):
                event["text"] = event["text"].upper()
            await send(event)

        await self.app(scope, receive, shout)


def shouting(consumer: Any) -> ASGIApplication:
    return Starlette(
        routes=[WebSocketRoute("/", consumer.as_asgi())],
        middleware=[Middleware(Shouting)],
    )


@contextlib.asynccontextmanager
async def clients(
    address: str, count: int, **options: Any
) -> AsyncGenerator[list[ClientConnection]]:
    """Connect a number of clients."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(connect(f"ws://{address}/", **options))
            for _ in range(count)
        ]


async def receive(client: ClientConnection, count: int) -> Sequence[str | bytes]:
    return [await client.recv() for _ in range(count)]


@pytest.mark.parametrize("make", [bare, starlette, mounted, fastapi])
async def test_everyone_gets_everything_in_order(
    serve: Serve, make: Callable[[Any], ASGIApplication]
) -> None:
    """Broadcasts reach all clients, in order, under each server and framework."""
    async with serve(make(Room)) as address, clients(address, 3) as (one, two, three):
        expected: list[str | bytes] = ["grüße", b"\x00\xff", "x" * 200, "x" * 70_000]
        for content in expected:
            await one.send(content)
        for client in (one, two, three):
            assert await receive(client, 4) == expected
        # What a busy consumer gets waits for its handler.
        await two.send("busy")
        await asyncio.sleep(0.01)
        for number in range(10):
            await one.send(str(number))
        numbers = list(map(str, range(10)))
        assert await receive(one, 10) == numbers
        assert sorted(await receive(two, 11)) == sorted([*numbers, "was busy"])


async def test_middleware_sees_broadcasts(serve: Serve) -> None:
    """A middleware can change broadcasts, for each client."""
    async with serve(shouting(Room)) as address, clients(address, 2) as (one, two):
        await one.send("hello")
        await one.send(b"bytes")
        for client in (one, two):
            assert await receive(client, 2) == ["HELLO", b"bytes"]


async def test_json(serve: Serve) -> None:
    """Broadcasts of a JSON consumer are JSON."""

    class Chat(AsyncJsonWebsocketConsumer):
        channel_layer_alias = "default"
        groups = ["chat"]

        @broadcast
        def chat_message(cls, event: dict[str, Any]) -> dict[str, Any]:
            return {"text": event["text"]}

        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.channel_layer.group_send(
                "chat", {"type": "chat.message", "text": content}
            )

    async with serve(starlette(Chat)) as address, clients(address, 2) as (one, two):
        await one.send('"é"')
        for client in (one, two):
            assert await client.recv() == '{"text": "\\u00e9"}'


async def test_slow_client(serve: Serve) -> None:
    """A client that reads nothing delays no other, and gets all that fits, in order."""
    text = "x" * 100_000
    async with (
        serve(starlette(Room)) as address,
        clients(address, 2) as (one, two),
        connect(
            f"ws://{address}/", max_queue=1, compression=None, close_timeout=0.1
        ) as slow,
    ):
        # Enough for the buffers of sockets and servers to be full.
        for number in range(90):
            await one.send(f"{number:3}{text}")
            assert str(await one.recv()).startswith(f"{number:3}")
            assert str(await two.recv()).startswith(f"{number:3}")
        got = [int(str(await slow.recv())[:3]) for _ in range(90)]
        assert got == list(range(90))


@pytest.mark.parametrize("kind", [RedisChannelLayer, RedisPubSubChannelLayer])
@pytest.mark.usefixtures("errors")
async def test_redis(
    server: str,
    redis_server: RedisServer,
    prefix: str,
    kind: Callable[..., BaseChannelLayer],
) -> None:
    """Broadcasts go through Redis, to more clients than get them in one turn."""
    count = 150
    async with kind(hosts=[redis_server.url], prefix=prefix) as layer:
        register_channel_layer("default", layer)
        async with (
            serving(starlette(Room), server) as address,
            clients(address, count, compression=None) as members,
        ):
            for number in range(3):
                await layer.group_send(
                    "room", {"type": "room.message", "content": str(number)}
                )
            for member in members:
                assert await receive(member, 3) == ["0", "1", "2"]
        assert layer.statistics()["delivered"] == 3 * count


# What only a server with the extension does


@contextlib.asynccontextmanager
async def counting(
    application: ASGIApplication, layer: InMemoryChannelLayer, **options: Any
) -> AsyncGenerator[tuple[str, list[str]]]:
    """Serve an application with the extension.

    Yields:
        The address, and a list of the types of the events that pass through send().
    """
    from fast_channels.uvicorn import (  # noqa: PLC0415 # an older uvicorn has none
        WebSocketProtocol,
    )

    sent: list[str] = []

    class Counting(WebSocketProtocol):
        async def send(self, message: Any) -> None:
            sent.append(message["type"])
            await super().send(message)

    register_channel_layer("default", layer)
    options["ws"] = Counting
    async with serving(application, "uvicorn-auto", **options) as address:
        yield address, sent


@pytest.mark.parametrize("server", TAKES_FRAMES)
@pytest.mark.parametrize(
    ("make", "direct"),
    [(bare, True), (starlette, True), (mounted, True), (shouting, False)],
)
async def test_frames_pass_starlette_by(
    layer: InMemoryChannelLayer,
    server: str,
    make: Callable[[Any], ASGIApplication],
    direct: bool,
) -> None:
    """Under each release of Starlette, frames are written past its wrapper."""
    assert server == FRAMES
    async with (
        counting(make(Room), layer) as (address, sent),
        clients(address, 2) as members,
    ):
        await layer.group_send("room", {"type": "room.message", "content": "hello"})
        for member in members:
            assert str(await member.recv()).lower() == "hello"
        assert sent.count("websocket.send") == (0 if direct else 2)


@pytest.mark.parametrize("server", TAKES_FRAMES)
async def test_compression(layer: InMemoryChannelLayer, server: str) -> None:
    """Clients with and without compression get the same, mixed with other frames."""

    class Answering(Room):
        async def room_answer(self, event: dict[str, Any]) -> None:
            await self.send(event["content"])

    texts = [f"{'the same words again and again ' * 30}{i}" for i in range(20)]
    async with (
        serving(starlette(Answering), server) as address,
        clients(address, 2) as compressed,
        clients(address, 1, compression=None) as plain,
    ):
        for number, text in enumerate(texts):
            kind = "room.answer" if number % 3 else "room.message"
            await layer.group_send("room", {"type": kind, "content": text})
        for member in (*compressed, *plain):
            assert await receive(member, len(texts)) == texts


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for localhost, and its key; return their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


@pytest.mark.parametrize("server", TAKES_FRAMES)
async def test_tls(layer: InMemoryChannelLayer, server: str, tmp_path: Path) -> None:
    """Frames are written through TLS."""
    cert, key = certificate(tmp_path)
    options = {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}
    trust = ssl.create_default_context(cafile=str(cert))
    assert server == FRAMES
    async with (
        counting(starlette(Room), layer, **options) as (address, sent),
        connect(f"wss://{address}/", ssl=trust, server_hostname="localhost") as client,
    ):
        for content in ("hello", "x" * 100_000):
            await layer.group_send("room", {"type": "room.message", "content": content})
            assert await client.recv() == content
        assert sent == ["websocket.accept"]


@pytest.mark.parametrize("server", TAKES_FRAMES)
async def test_full_buffer(layer: InMemoryChannelLayer, server: str) -> None:
    """While a client reads nothing, the server's buffer stays within its limit."""
    text = "x" * 100_000
    sizes: list[int] = []
    assert server == FRAMES
    async with (
        counting(starlette(Room), layer) as (address, sent),
        connect(
            f"ws://{address}/", max_queue=1, compression=None, close_timeout=0.1
        ) as slow,
    ):
        for number in range(100):
            await layer.group_send(
                "room", {"type": "room.message", "content": f"{number:3}{text}"}
            )
            sizes.append(layer.statistics()["waiting"])
            await asyncio.sleep(0)
        # The rest waits in the mailbox, and no more than one in send().
        assert sizes[-1] > 0
        assert sent.count("websocket.send") <= 2
        got = [int(str(await slow.recv())[:3]) for _ in range(100)]
        assert got == list(range(100))
        await until(lambda: not layer.statistics()["waiting"])


def test_older_releases_of_uvicorn() -> None:
    """A uvicorn without the base class is refused, with what to do."""
    if Version(uvicorn.__version__) < Version("0.38"):
        with pytest.raises(ImportError, match=r"needs uvicorn 0\.38 or newer"):
            importlib.import_module("fast_channels.uvicorn")
    else:
        assert TAKES_FRAMES
