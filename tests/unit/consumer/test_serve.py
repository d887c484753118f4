"""serve() runs a consumer inside an endpoint with dependencies and parameters."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.testing import WebsocketCommunicator
from fast_channels.type_defs import ASGISendCallable

from .fakes import Boom

events: list[Any] = []


async def user_of(token: str = "") -> AsyncGenerator[str]:
    """Depend on a session that ends with the connection."""
    yield token.title()
    events.append("session ended")


class Chat(AsyncJsonWebsocketConsumer):
    """Greets the user, and fails on request."""

    def __init__(self, room: str, user: str) -> None:
        super().__init__()
        self.room, self.user = room, user

    async def connect(self) -> None:
        await self.accept("chat.v1")
        await self.send_json({"room": self.room, "user": self.user})

    async def receive_json(self, content: Any) -> None:
        if content == "boom":
            raise Boom
        if content == "close":
            await self.close(4001)

    async def disconnect(self, code: int) -> None:
        events.append(code)


app = FastAPI()
User = Annotated[str, Depends(user_of)]


@app.websocket("/rooms/{room}")
async def chat(websocket: WebSocket, room: str, user: User) -> None:
    """Serve a room."""
    await Chat(room=room, user=user).serve(websocket)


@app.websocket("/accepted/{room}")
async def accepted(websocket: WebSocket, room: str, user: User) -> None:
    """Accept the connection, which is the consumer's job."""
    await websocket.accept()
    await Chat(room=room, user=user).serve(websocket)


@app.websocket("/gone/{room}")
async def gone(websocket: WebSocket, room: str, user: User) -> None:
    """Serve a client that leaves unnoticed while the consumer is busy."""

    class Talker(Chat):
        async def receive_json(self, content: Any) -> None:
            for _ in range(2):
                try:
                    await self.send_json("hello?")
                except Exception as exc:  # noqa: BLE001 # as people write it
                    events.append(type(exc).__bases__[0].__name__)
            await self.send_json("hello?")

    await Talker(room=room, user=user).serve(websocket)


@pytest.fixture(autouse=True)
def _forget() -> None:
    events.clear()


async def test_dependencies_and_path_parameters() -> None:
    """The consumer gets the endpoint's values, and the client gets its messages."""
    async with WebsocketCommunicator(app, "/rooms/tea?token=ann") as client:
        assert await client.connect() == (True, "chat.v1")
        assert await client.receive_json_from() == {"room": "tea", "user": "Ann"}
        await client.disconnect(1001)
    assert events == [1001, "session ended"]


async def test_consumer_closes() -> None:
    """The endpoint continues after the connection has ended."""
    async with WebsocketCommunicator(app, "/rooms/tea?token=ann") as client:
        await client.connect()
        await client.receive_json_from()
        await client.send_json_to("close")
        assert (await client.receive_output())["code"] == 4001
        await client.disconnect(1005)
    assert events == [4001, "session ended"]


async def test_exception_in_a_handler() -> None:
    """An exception closes the connection, and serve() raises it."""
    async with WebsocketCommunicator(app, "/rooms/tea?token=ann") as client:
        await client.connect()
        await client.receive_json_from()
        await client.send_json_to("boom")
        assert (await client.receive_output())["code"] == 1011
        with pytest.raises(Boom):
            await client.wait()
    assert events[0] == 1011


async def test_client_is_gone() -> None:
    """A framework's exception for an OSError is a disconnect too."""
    server: dict[str, ASGISendCallable] = {}

    async def break_off(scope: Any, receive: Any, send: ASGISendCallable) -> None:
        async def fail(event: Any) -> None:
            if event["type"] == "websocket.send" and "hello" in event["text"]:
                raise ConnectionResetError
            await send(event)

        server["send"] = send
        await app(scope, receive, fail)

    async with WebsocketCommunicator(break_off, "/gone/tea?token=ann") as client:
        await client.connect()
        await client.receive_json_from()
        await client.send_json_to("talk")
        await client.wait(3)
    assert events == ["StopConsumer", "StopConsumer", 1006, "session ended"]


async def test_connection_that_was_accepted() -> None:
    """If the endpoint has already accepted, the error says that connect() does that."""
    client = WebsocketCommunicator(app, "/accepted/tea?token=ann")
    await client.connect()
    with pytest.raises(RuntimeError, match=r"before Chat\.serve\(\): leave that to"):
        await client.wait()


async def test_anything_with_scope_receive_and_send() -> None:
    """serve() takes any object with scope, receive and send."""

    class Connection:
        def __init__(self, scope: Any, receive: Any, send: Any) -> None:
            self.scope, self.receive, self.send = scope, receive, send

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await Chat("tea", "Ann").serve(Connection(scope, receive, send))

    async with WebsocketCommunicator(application, "/") as client:
        assert await client.connect() == (True, "chat.v1")
    assert events == [1000]
