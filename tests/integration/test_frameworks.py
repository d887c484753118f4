"""Consumers behind real servers and sockets, under every framework."""

import asyncio
import contextlib
import json
import logging
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeAlias
from urllib.parse import parse_qs

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from quart import Quart
from starlette.applications import Starlette
from starlette.exceptions import WebSocketException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from websockets import ConnectionClosed, InvalidStatus, Subprotocol
from websockets.asyncio.client import ClientConnection, connect
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from fast_channels.consumer import (
    AsyncConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
)
from fast_channels.consumer.timing import Timing
from fast_channels.exceptions import DenyConnection
from fast_channels.layers import InMemoryChannelLayer, register_channel_layer
from fast_channels.type_defs import (
    ASGIApplication,
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelScope,
    WebSocketDisconnectEvent,
)
from tests.waiting import turn

from .servers import SERVERS_THAT_NOTICE, Serve, serving

# uvicorn's "websockets" is deprecated, but was the default for many years.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The `websockets` implementation is deprecated"),
    pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated"),
    pytest.mark.filterwarnings("ignore:websockets.server.WebSocketServerProtocol is"),
    pytest.mark.filterwarnings("ignore:remove second argument of ws_handler"),
    pytest.mark.filterwarnings("ignore:ConnectionClosed.(code|reason) is deprecated"),
]

Errors: TypeAlias = list[logging.LogRecord]


class Room(AsyncWebsocketConsumer):
    """Sends every frame to everyone in the room, and records how it ended."""

    channel_layer_alias: str | None = "default"
    groups = ["room"]

    def __init__(self, codes: list[int]) -> None:
        super().__init__()
        self.codes = codes

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.say(text_data, bytes_data)

    async def say(self, text: str | None, data: bytes | None = None) -> None:
        await self.channel_layer.group_send(
            "room", {"type": "room.message", "text": text, "bytes": data}
        )

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send(event["text"], event["bytes"])

    async def disconnect(self, code: int) -> None:
        self.codes.append(code)


@pytest.fixture
def codes() -> list[int]:
    """Collect the arguments of ``disconnect()``."""
    return []


# Frames


async def test_accept_sends_subprotocol_and_headers(serve: Serve) -> None:
    """The client gets the subprotocol and the headers of accept()."""

    class Polite(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            offered = self.scope["subprotocols"]
            await self.accept(offered[-1], [(b"x-room", b"lobby")])

    offer = [Subprotocol("chat.v1"), Subprotocol("chat.v2")]
    async with (
        serve(Polite.as_asgi()) as address,
        connect(f"ws://{address}/", subprotocols=offer) as client,
    ):
        assert client.subprotocol == "chat.v2"
        assert client.response is not None
        assert client.response.headers["x-room"] == "lobby"


@pytest.mark.parametrize("frame", ["grüße", "", b"\x00\xff", b""])
async def test_frames_reach_everyone_in_the_group(
    serve: Serve, codes: list[int], frame: str | bytes
) -> None:
    """Text and binary frames go through a group to every client, unchanged."""
    async with (
        serve(Room.as_asgi(codes=codes)) as address,
        connect(f"ws://{address}/") as one,
        connect(f"ws://{address}/") as other,
    ):
        await one.send(frame)
        assert [await one.recv(), await other.recv()] == [frame, frame]
    assert len(codes) == 2


async def test_json_frames(serve: Serve) -> None:
    """A JSON consumer speaks JSON with its client."""

    class Echo(AsyncJsonWebsocketConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.send_json({"echo": content})

    async with (
        serve(Echo.as_asgi()) as address,
        connect(f"ws://{address}/") as client,
    ):
        await client.send('{"list": [1, null, "é"]}')
        assert json.loads(await client.recv()) == {"echo": {"list": [1, None, "é"]}}


# How connections end


async def close_it(consumer: AsyncWebsocketConsumer) -> None:
    await consumer.close()


async def deny_it(consumer: AsyncWebsocketConsumer) -> None:
    raise DenyConnection


@pytest.mark.parametrize("refuse", [close_it, deny_it])
async def test_refused_client_sees_a_rejected_handshake(
    serve: Serve,
    codes: list[int],
    refuse: Callable[[AsyncWebsocketConsumer], Any],
) -> None:
    """A client that is not accepted gets status 403, and disconnect() is called."""

    class Closed(Room):
        async def connect(self) -> None:
            await refuse(self)

    async with serve(Closed.as_asgi(codes=codes)) as address:
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://{address}/")
    assert caught.value.response.status_code == 403
    assert len(codes) == 1


async def test_both_sides_get_the_code_of_close(serve: Serve, codes: list[int]) -> None:
    """The client gets the code and reason, and disconnect() gets the same code."""

    class Strict(Room):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            await self.close(4001, "mind your language")

    async with (
        serve(Strict.as_asgi(codes=codes)) as address,
        connect(f"ws://{address}/") as client,
    ):
        await client.send("!")
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (4001, "mind your language")
    # Although uvicorn's older implementation and hypercorn report others.
    assert codes == [4001]


class DeafClient:
    """A client that ignores the server's close frame, and keeps sending."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def connected(cls, address: str) -> AsyncGenerator["DeafClient"]:
        """Connect to a server."""
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(
            b"GET / HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        try:
            yield cls(writer)
        finally:
            writer.transport.abort()

    async def say(self, text: bytes) -> None:
        """Send a text frame, https://www.rfc-editor.org/rfc/rfc6455.html#section-5.2."""
        # Masked with zeros.
        self.writer.write(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
        # The server may have closed the connection.
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()


@pytest.mark.parametrize("alias", ["default", None])
@pytest.mark.parametrize("talks", [False, True])
async def test_client_that_ignores_the_close(
    serve: Serve,
    layer: InMemoryChannelLayer,
    codes: list[int],
    alias: str | None,
    *,
    talks: bool,
) -> None:
    """After close() no frame is handled, and the consumer ends in time."""
    handled: list[str | None] = []

    class LoggedOut(Room):
        # uvicorn's older implementation waits for the client's answer when it closes.
        _consumer_timing = Timing(answer=0.2, close=0.1)
        channel_layer_alias = alias
        groups = [] if alias is None else ["room"]

        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            handled.append(text_data)
            if text_data == "close":
                await self.close(4401)

    async with (
        serve(LoggedOut.as_asgi(codes=codes)) as address,
        DeafClient.connected(address) as client,
    ):
        await client.say(b"hello")
        await client.say(b"close")
        async with asyncio.timeout(5):
            while not codes:
                if talks:
                    await client.say(b"still here")
                await asyncio.sleep(0.001)
        assert layer.groups == {}
    assert codes == [4401]
    assert handled == ["hello", "close"]


async def test_messages_after_close_are_not_sent(
    serve: Serve, codes: list[int]
) -> None:
    """Group messages that arrive after close() are handled, but not sent."""
    handled: list[str] = []

    class Leaving(Room):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            await self.close(4001)
            await self.say("too late")

        async def room_message(self, event: dict[str, Any]) -> None:
            handled.append(event["text"])
            await super().room_message(event)
            await self.close(4002)

    async with (
        serve(Leaving.as_asgi(codes=codes)) as address,
        connect(f"ws://{address}/") as client,
    ):
        await client.send("go")
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 4001
    assert handled == ["too late"]
    assert len(codes) == 1


async def test_closing_by_the_client(
    serve: Serve, server: str, codes: list[int]
) -> None:
    """disconnect() gets the client's code with every server that reports it."""
    async with serve(Room.as_asgi(codes=codes)) as address:
        client = await connect(f"ws://{address}/")
        await client.close(4002, "bye")
    assert codes == [code_of_client(4002, server)]


def code_of_client(code: int, server: str) -> int:
    """Return the code that a server reports for the client's code."""
    return 1006 if server == "hypercorn" else code


def close_tcp(client: ClientConnection) -> None:
    client.transport.abort()


def reset_tcp(client: ClientConnection) -> None:
    sock = client.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.transport.abort()


@pytest.mark.parametrize("vanish", [close_tcp, reset_tcp])
async def test_vanishing_client(
    serve: Serve, codes: list[int], vanish: Callable[[ClientConnection], None]
) -> None:
    """A connection that breaks without a close is a disconnect like any other."""
    async with serve(Room.as_asgi(codes=codes)) as address:
        client = await connect(f"ws://{address}/")
        vanish(client)
        await client.wait_closed()
    # The specification requires 1006; uvicorn treats it as a close without a code.
    assert codes in ([1005], [1006])


async def say_goodbye(client: ClientConnection) -> None:
    await client.close(4002)


async def hang_up(client: ClientConnection) -> None:
    reset_tcp(client)
    await client.wait_closed()


@pytest.mark.parametrize("busy_with", ["frame", "message"])
@pytest.mark.parametrize("leave", [say_goodbye, hang_up])
async def test_sending_to_a_client_that_left(
    serve: Serve,
    server: str,
    codes: list[int],
    leave: Callable[[ClientConnection], Any],
    busy_with: str,
) -> None:
    """Sending to a client that has left causes only the disconnect.

    The disconnect is the same as without sending: it has the client's code, and goes
    through ``websocket_disconnect``.
    """
    busy, left = asyncio.Event(), asyncio.Event()
    events: list[str] = []

    class Busy(Room):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            if busy_with == "message":
                await self.say(text_data)
            else:
                await self.keep_sending()

        async def room_message(self, event: dict[str, Any]) -> None:
            await self.keep_sending()

        async def keep_sending(self) -> None:
            busy.set()
            await left.wait()
            for _ in range(3):
                await self.send("still there?")
            await self.close(4003)

        async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
            events.append(message["type"])
            await super().websocket_disconnect(message)

    async with serve(Busy.as_asgi(codes=codes)) as address:
        client = await connect(f"ws://{address}/")
        await client.send("go")
        await busy.wait()
        await leave(client)
        await turn(50)
        left.set()
    if leave is say_goodbye:
        assert codes == [code_of_client(4002, server)]
    assert len(codes) == 1
    assert events == ["websocket.disconnect"]


@pytest.mark.parametrize("server", SERVERS_THAT_NOTICE, indirect=True)
async def test_client_that_stops_reading_and_vanishes(
    serve: Serve, codes: list[int]
) -> None:
    """A send that waits for a slow client ends when the client vanishes."""

    class Flood(Room):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            for _ in range(64):
                await self.send(bytes_data=bytes(2**20))

    async with serve(Flood.as_asgi(codes=codes)) as address:
        client = await connect(f"ws://{address}/", compression=None, max_queue=1)
        await client.send("go")
        await turn(50)
        await hang_up(client)
    assert codes in ([1005], [1006])


async def test_sending_in_disconnect(serve: Serve, codes: list[int]) -> None:
    """Frames that disconnect() sends to the client that has left are dropped."""

    class Talkative(Room):
        async def disconnect(self, code: int) -> None:
            await super().disconnect(code)
            await self.send("goodbye")
            await self.close()
            self.codes.append(0)

    async with serve(Talkative.as_asgi(codes=codes)) as address:
        client = await connect(f"ws://{address}/")
        await client.close()
    assert codes[1:] == [0]


@pytest.mark.parametrize("trigger", ["frame", "message"])
async def test_exception_in_a_handler(
    serve: Serve, codes: list[int], errors: Errors, trigger: str
) -> None:
    """An exception is logged by the server and closes the connection."""

    class Broken(Room):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            if trigger == "frame":
                raise LookupError("broken")
            await self.say(text_data)

        async def room_message(self, event: dict[str, Any]) -> None:
            raise LookupError("broken")

    async with (
        serve(Broken.as_asgi(codes=codes)) as address,
        connect(f"ws://{address}/") as client,
    ):
        await client.send("go")
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 1011
    assert codes == [1011]
    assert_logged(errors, "broken")


@pytest.mark.parametrize("accepted", [False, True])
async def test_exception_that_the_framework_closes_for(
    serve: Serve, errors: Errors, *, accepted: bool
) -> None:
    """Starlette's WebSocketException closes the connection with its own code."""

    class Room(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            if not accepted:
                raise WebSocketException(4403)
            await self.accept()

        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            raise WebSocketException(4403, "not for you")

    app = Starlette(routes=[WebSocketRoute("/", Room.as_asgi())])
    async with serve(app) as address:
        if not accepted:
            with pytest.raises(InvalidStatus):
                await connect(f"ws://{address}/")
            return
        async with connect(f"ws://{address}/") as client:
            await client.send("go")
            await client.wait_closed()
            assert (client.close_code, client.close_reason) == (4403, "not for you")
    assert errors == []


@pytest.mark.parametrize("frame", ["{", b"{}"])
async def test_frames_that_are_not_json(
    serve: Serve, errors: Errors, frame: str | bytes
) -> None:
    """A frame that is not JSON closes the connection, without a server error."""
    codes: list[int] = []

    class Strict(AsyncJsonWebsocketConsumer):
        async def disconnect(self, code: int) -> None:
            codes.append(code)

    async with (
        serve(Strict.as_asgi()) as address,
        connect(f"ws://{address}/") as client,
    ):
        await client.send(frame)
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == (1007 if isinstance(frame, str) else 1003)
    assert codes == [client.close_code]
    assert errors == []


async def test_exception_in_connect(
    serve: Serve, codes: list[int], errors: Errors
) -> None:
    """An exception before accept() is logged, and the client gets status 500."""

    class Broken(Room):
        async def connect(self) -> None:
            raise LookupError("broken")

    async with serve(Broken.as_asgi(codes=codes)) as address:
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://{address}/")
    assert caught.value.response.status_code == 500
    assert codes == [1011]
    assert_logged(errors, "broken")


def assert_logged(errors: Errors, text: str) -> None:
    """Assert that one exception was logged, and remove it from the list."""
    (record,) = errors
    assert record.exc_info is not None
    assert text in str(record.exc_info[1])
    errors.clear()


# Startup and shutdown


async def test_shutdown_of_the_server(
    serve: Serve, server: str, codes: list[int]
) -> None:
    """When the server shuts down, open connections are disconnected once."""
    async with asyncio.timeout(5):
        async with serve(Room.as_asgi(codes=codes)) as address:
            client = await connect(f"ws://{address}/")
            # hypercorn waits for its clients to leave, uvicorn closes them.
            leaving = asyncio.create_task(
                client.close() if server == "hypercorn" else client.wait_closed()
            )
        await leaving
    assert codes == ([1006] if server == "hypercorn" else [1012])
    assert client.close_code == (1000 if server == "hypercorn" else 1012)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_end_of_the_event_loop(
    server: str, layer: InMemoryChannelLayer, codes: list[int], *, busy: bool
) -> None:
    """When all tasks are cancelled, connections are disconnected once."""
    handling = asyncio.Event()

    class Busy(Room):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            handling.set()
            if busy:
                await asyncio.Event().wait()

    async def session() -> None:
        async with (
            serving(Busy.as_asgi(codes=codes), server) as address,
            connect(f"ws://{address}/") as client,
        ):
            await client.send("go")
            await client.wait_closed()

    async def main() -> None:
        task = asyncio.create_task(session())
        await handling.wait()
        assert not task.done()

    asyncio.run(main())
    assert codes == [1012]


@pytest.mark.parametrize("consumer", [AsyncConsumer, AsyncWebsocketConsumer])
async def test_consumer_without_framework_takes_no_part_in_lifespan(
    serve: Serve, consumer: type[AsyncConsumer]
) -> None:
    """A consumer can be a server's only application: it has no lifespan events."""
    async with serve(consumer.as_asgi()) as address:
        host, port = address.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        await writer.wait_closed()


async def test_http_request_to_a_websocket_consumer(
    serve: Serve, errors: Errors, codes: list[int]
) -> None:
    """If a WebSocket consumer gets an HTTP request, the log says what is wrong."""
    async with serve(Room.as_asgi(codes=codes)) as address, httpx.AsyncClient() as http:
        response = await http.get(f"http://{address}/")
    assert response.status_code == 500
    assert_logged(errors, "Room serves WebSockets, but was called for a scope of type")
    assert codes == []


# Frameworks


class Visitor(AsyncJsonWebsocketConsumer):
    """Sends its client the parameters from the framework's routing."""

    async def connect(self) -> None:
        await self.accept()
        query = parse_qs(self.scope["query_string"].decode())
        await self.send_json({**self.scope["path_params"], **query})


async def test_consumer_in_an_endpoint(serve: Serve, errors: Errors) -> None:
    """serve() works in an endpoint, with path parameters and dependencies."""
    codes: list[int] = []
    app = FastAPI()

    async def user_of(token: str) -> AsyncGenerator[str]:
        yield token.title()
        codes.append(0)

    class Greeter(AsyncJsonWebsocketConsumer):
        def __init__(self, **found: str) -> None:
            super().__init__()
            self.found = found

        async def connect(self) -> None:
            await self.accept()
            await self.send_json(self.found)

        async def receive_json(self, content: Any) -> None:
            if content == "boom":
                raise LookupError("broken")
            await self.close(4001)

        async def disconnect(self, code: int) -> None:
            codes.append(code)

    @app.websocket("/rooms/{room}")
    async def rooms(
        websocket: WebSocket, room: str, user: Annotated[str, Depends(user_of)]
    ) -> None:
        await Greeter(room=room, user=user).serve(websocket)

    async with serve(app) as address:
        for word, code in ("leave", 4001), ("boom", 1011):
            async with connect(f"ws://{address}/rooms/tea?token=ann") as client:
                assert json.loads(await client.recv()) == {"room": "tea", "user": "Ann"}
                await client.send(json.dumps(word))
                await client.wait_closed()
                assert client.close_code == code
        async with connect(f"ws://{address}/rooms/tea?token=ann") as client:
            reset_tcp(client)
            await client.wait_closed()
    assert [codes[:2], codes[2], codes[-1]] == [[4001, 0], 1011, 0]
    assert_logged(errors, "broken")


async def home(request: Request) -> PlainTextResponse:
    """Serve the page next to the WebSocket."""
    return PlainTextResponse("home")


def fastapi_router() -> ASGIApplication:
    app = FastAPI()
    app.add_route("/", home)
    app.router.add_websocket_route("/ws/room/{room_name}", Visitor.as_asgi())
    return app


def fastapi_included_router() -> ASGIApplication:
    router = APIRouter()
    router.add_websocket_route("/room/{room_name}", Visitor.as_asgi())
    app = FastAPI()
    app.add_route("/", home)
    app.include_router(router, prefix="/ws")
    return app


def fastapi_mounted_app() -> ASGIApplication:
    ws_app = FastAPI()
    ws_app.router.add_websocket_route("/room/{room_name}", Visitor.as_asgi())
    app = FastAPI()
    app.add_route("/", home)
    app.mount("/ws", ws_app)
    return app


def fastapi_routes() -> ASGIApplication:
    return FastAPI(
        routes=[
            Route("/", home),
            WebSocketRoute("/ws/room/{room_name}", Visitor.as_asgi()),
        ]
    )


def starlette_routes() -> ASGIApplication:
    return Starlette(
        routes=[
            Route("/", home),
            WebSocketRoute("/ws/room/{room_name}", Visitor.as_asgi()),
        ]
    )


def starlette_mount() -> ASGIApplication:
    rooms = [WebSocketRoute("/room/{room_name}", Visitor.as_asgi())]
    return Starlette(routes=[Route("/", home), Mount("/ws", routes=rooms)])


async def quart_home() -> str:
    """Serve the page next to the WebSocket."""
    return "home"


def quart_app() -> ASGIApplication:
    quart = Quart(__name__)
    quart.add_url_rule("/", view_func=quart_home)
    consumers = Map([Rule("/ws/room/<room_name>", endpoint=Visitor.as_asgi())])
    app: Any = quart  # its types of scope and events are narrower than those of ASGI
    app.asgi_app = with_consumers(app.asgi_app, consumers)
    return app  # type: ignore[no-any-return]


def with_consumers(app: ASGIApplication, consumers: Map) -> ASGIApplication:
    """Serve the WebSockets of some paths with consumers, and the rest with Quart.

    A user of Quart would write this.
    """

    async def dispatch(
        scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        endpoint: ASGIApplication = app
        if scope["type"] == "websocket":
            try:
                endpoint, params = consumers.bind("").match(scope["path"])
                scope["path_params"] = params
            except HTTPException:
                pass
        await endpoint(scope, receive, send)

    return dispatch


@pytest.mark.parametrize("server", ["uvicorn-auto", "hypercorn"], indirect=True)
@pytest.mark.parametrize(
    "build",
    [
        fastapi_router,
        fastapi_included_router,
        fastapi_mounted_app,
        fastapi_routes,
        starlette_routes,
        starlette_mount,
        quart_app,
    ],
)
async def test_consumer_in_a_framework(
    serve: Serve, build: Callable[[], ASGIApplication]
) -> None:
    """The framework's routing provides path parameters; HTTP still works."""
    async with serve(build()) as address, httpx.AsyncClient() as http:
        path = f"{address}/ws/room/lobby"
        async with connect(f"ws://{path}?user=7") as client:
            visited = json.loads(await client.recv())
        assert visited == {"room_name": "lobby", "user": ["7"]}
        with pytest.raises(InvalidStatus):
            await connect(f"ws://{address}/ws/elsewhere")
        assert (await http.get(f"http://{address}/")).text == "home"
        assert (await http.get(f"http://{path}")).status_code == 404


@pytest.mark.parametrize("server", ["uvicorn-auto"], indirect=True)
async def test_layer_registered_when_the_application_starts(
    serve: Serve, codes: list[int]
) -> None:
    """Routes can be declared before the layer of their consumers is registered."""
    started = InMemoryChannelLayer()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        register_channel_layer("default", started)
        yield

    app = FastAPI(lifespan=lifespan)
    app.router.add_websocket_route("/", Room.as_asgi(codes=codes))
    async with serve(app) as address, connect(f"ws://{address}/") as client:
        assert len(started.groups["room"]) == 1
        await client.send("hello")
        assert await client.recv() == "hello"
    assert started.groups == {}
    assert started.channels == {}
