"""The example chat: its consumers, and the process that serves it."""

import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import websockets
from fastapi import FastAPI

from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisChannelLayer,
    get_channel_layer,
    register_channel_layer,
)
from fast_channels.testing import WebsocketCommunicator
from tests.chat_server import ChatServer, start_chat
from tests.redis_servers.server import RedisServer


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    """Give the application; nothing may be left in its layer after the test."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    # Imported here, since the import looks at REDIS_URL.
    from examples.app import app  # noqa: PLC0415
    from examples.layers import register_layers  # noqa: PLC0415

    register_layers()
    layer = get_channel_layer("chat")
    assert isinstance(layer, InMemoryChannelLayer)
    yield app
    assert layer.groups == {}
    assert layer.channels == {}


@contextlib.asynccontextmanager
async def opened(app: FastAPI, path: str) -> AsyncGenerator[WebsocketCommunicator]:
    async with WebsocketCommunicator(app, path) as person:
        assert await person.connect() == (True, None)
        yield person


@contextlib.asynccontextmanager
async def joined(
    app: FastAPI, name: str, path: str = "/ws/room/tea"
) -> AsyncGenerator[WebsocketCommunicator]:
    async with opened(app, path) as person:
        await person.send_json_to({"type": "join", "name": name})
        room = path.rpartition("/")[2]
        assert await person.receive_json_from() == {
            "type": "joined",
            "room": room,
            "name": name,
        }
        yield person


def notice(event: str, name: str) -> dict[str, str]:
    return {"type": "notice", "event": event, "name": name}


async def receive_error(person: WebsocketCommunicator) -> str:
    error = await person.receive_json_from()
    assert error.keys() == {"type", "detail"}
    assert error["type"] == "error"
    detail: str = error["detail"]
    return detail


@pytest.mark.parametrize("path", ["/", "/room/tea", "/room/a/b", "/room/a%20b"])
async def test_every_room_has_the_page(app: FastAPI, path: str) -> None:
    """The lobby and every room have the same page, those with a bad name too."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://chat") as client:
        page = await client.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        for file in ("/static/chat.css", "/static/chat.js"):
            assert f'"{file}"' in page.text
            assert (await client.get(file)).status_code == 200


async def test_message_reaches_everybody(app: FastAPI) -> None:
    """A message reaches everybody in the room, its author too."""
    async with joined(app, "Ada") as ada, joined(app, "Bob") as bob:
        assert await ada.receive_json_from() == notice("join", "Bob")
        await bob.send_json_to({"type": "message", "text": " <b>Hello</b>\n"})
        message = await ada.receive_json_from()
        assert await bob.receive_json_from() == {**message, "own": True}
        sent = datetime.fromisoformat(message.pop("time"))
        assert sent.tzinfo == UTC
        assert message == {
            "type": "message",
            "own": False,
            "name": "Bob",
            "text": "<b>Hello</b>",
        }


async def test_others_see_who_leaves(app: FastAPI) -> None:
    """The others are told when somebody who had joined leaves."""
    async with joined(app, "Ada") as ada:
        async with joined(app, "Bob"), opened(app, "/ws/room/tea"):
            assert await ada.receive_json_from() == notice("join", "Bob")
        # Of the one who had not joined, and left before Bob, she is told nothing.
        assert await ada.receive_json_from() == notice("leave", "Bob")


async def test_name_can_be_changed(app: FastAPI) -> None:
    """Joining again changes the name: the others see one leave and one join."""
    async with joined(app, "Ada") as ada, joined(app, "Bob") as bob:
        assert await ada.receive_json_from() == notice("join", "Bob")
        await bob.send_json_to({"type": "join", "name": " Robert "})
        assert (await bob.receive_json_from())["name"] == "Robert"
        assert await ada.receive_json_from() == notice("leave", "Bob")
        assert await ada.receive_json_from() == notice("join", "Robert")
        await ada.send_json_to({"type": "message", "text": "Hello"})
        # Of his own coming and going he is told nothing.
        assert (await bob.receive_json_from())["type"] == "message"


async def test_rooms_are_isolated(app: FastAPI) -> None:
    """What happens in a room shows in no other; the lobby is a room too."""
    async with joined(app, "Ada") as ada, joined(app, "Bob", "/ws/lobby") as bob:
        for person, text in ((ada, "for the room"), (bob, "for the lobby")):
            await person.send_json_to({"type": "message", "text": text})
            assert (await person.receive_json_from())["text"] == text


@pytest.mark.parametrize("name", ["", "a b", "a/b", "caf%C3%A9", "a" * 51, "..", "a.b"])
async def test_bad_room_is_refused(app: FastAPI, name: str) -> None:
    """A room with a bad name is closed with a code and a reason."""
    async with opened(app, f"/ws/room/{name}") as person:
        event = await person.receive_output()
        assert event["type"] == "websocket.close"
        assert event["code"] == 4400
        assert event["reason"].startswith("A room name has 1 to 50 ")
        await person.wait()


@pytest.mark.parametrize(
    ("frame", "detail"),
    [
        ("nonsense", "Expecting value"),
        ("", "an empty frame"),
        (b'{"type": "join", "name": "Ada"}', "a binary frame"),
        ("[" * 100_000, "recursion"),
        ("null", "Expected a 'join'"),
        ("[]", "Expected a 'join'"),
        ('{"type": "leave"}', "Expected a 'join'"),
        ('{"type": "chat.message", "text": "x"}', "Expected a 'join'"),
        ('{"type": "join"}', "Expected a 'join'"),
        ('{"type": "join", "name": 7}', "Expected a 'join'"),
        ('{"type": "join", "name": "  "}', "A name has 1 to 40 "),
        ('{"type": "join", "name": "A\\u0007a"}', "A name has 1 to 40 "),
        (json.dumps({"type": "join", "name": "a" * 41}), "A name has 1 to 40 "),
        ('{"type": "message", "text": "Hello"}', "Join the room "),
    ],
)
async def test_wrong_input_is_answered(
    app: FastAPI, frame: str | bytes, detail: str
) -> None:
    """What is wrong is answered with an error, and the connection stays open."""
    async with opened(app, "/ws/room/tea") as person:
        if isinstance(frame, bytes):
            await person.send_to(bytes_data=frame)
        else:
            await person.send_to(frame)
        assert detail in await receive_error(person)
        await person.send_json_to({"type": "join", "name": "a" * 40})
        assert (await person.receive_json_from())["type"] == "joined"


@pytest.mark.parametrize("text", ["", " \n", "a" * 2001, 7, None])
async def test_wrong_text_is_answered(app: FastAPI, text: object) -> None:
    """A message that is empty, too long or no text is answered with an error."""
    async with joined(app, "Ada") as ada:
        await ada.send_json_to({"type": "message", "text": text})
        assert await receive_error(ada)
        await ada.send_json_to({"type": "message", "text": "a" * 2000})
        assert (await ada.receive_json_from())["text"] == "a" * 2000


async def test_process_serves_until_interrupted() -> None:
    """The printed address serves the chat, and Ctrl-C ends it without a word."""
    with ChatServer() as server:
        async with httpx.AsyncClient(trust_env=False) as client:
            page = await client.get(server.url)
            assert page.status_code == 200
        sockets = server.url.replace("http", "ws", 1) + "/ws"
        async with (
            websockets.connect(f"{sockets}/lobby", proxy=None) as ada,
            websockets.connect(f"{sockets}/room/a%2Fb", proxy=None) as refused,
        ):
            await ada.send('{"type": "join", "name": "Ada"}')
            answer: dict[str, Any] = json.loads(await ada.recv())
            assert answer == {"type": "joined", "room": "lobby", "name": "Ada"}
            await refused.wait_closed()
            assert refused.close_code == 4400
            assert str(refused.close_reason).startswith("A room name has ")
            assert server.stop() == (0, "", "")
            await ada.wait_closed()
            assert ada.close_code == 1012


def fail_to_start(
    *arguments: str, redis_url: str | None = None, redis_layer: str | None = None
) -> tuple[int, str]:
    chat = start_chat(*arguments, redis_url=redis_url, redis_layer=redis_layer)
    with chat as process:
        stdout, stderr = process.communicate()
    assert stdout == ""
    return process.returncode, stderr


def test_port_in_use_is_named() -> None:
    """A port that is in use is named in one line, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert fail_to_start("--port", str(port)) == (
            1,
            f"Port {port} of 127.0.0.1 is in use: choose another one with --port.\n",
        )


@pytest.mark.parametrize(
    "arguments", [("--port", "70000"), ("--host", "192.0.2.1"), ("--host", "a..b")]
)
def test_bad_address_is_named(arguments: tuple[str, str]) -> None:
    """An address that cannot be served on is named in one line."""
    code, stderr = fail_to_start(*arguments)
    assert code == 1
    assert stderr.startswith("Cannot serve on ")
    assert arguments[1] in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("url", ["localhost:6379", "redis://localhost/database"])
def test_bad_redis_url_is_named(url: str) -> None:
    """A REDIS_URL that is none is named in one line."""
    code, stderr = fail_to_start(redis_url=url)
    assert code == 1
    assert stderr.startswith(f"REDIS_URL: '{url}' ")
    assert stderr.count("\n") == 1


def test_bad_redis_layer_is_named() -> None:
    """A REDIS_LAYER that is none is named in one line."""
    code, stderr = fail_to_start(redis_url="redis://localhost", redis_layer="quick")
    assert (code, stderr) == (
        1,
        "REDIS_LAYER: 'quick' is neither 'queue' nor 'pubsub'\n",
    )


@pytest.mark.parametrize(
    ("redis_url", "redis_layer", "layer"),
    [
        (None, None, "memory; set REDIS_URL to connect several servers"),
        ("redis://:secret@192.0.2.1/1", None, "<RedisChannelLayer [redis://:***@"),
        ("redis://192.0.2.1/1", "pubsub", "<RedisPubSubChannelLayer [redis://192."),
    ],
)
def test_layer_is_named(
    redis_url: str | None, redis_layer: str | None, layer: str
) -> None:
    """The process prints which layer it uses, and needs no Redis to start and stop."""
    with ChatServer(redis_url, redis_layer) as server:
        assert server.layer.startswith(layer)
        assert httpx.get(server.url, trust_env=False).status_code == 200
        assert server.stop() == (0, "", "")


async def test_people_stay_without_redis(
    app: FastAPI, own_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Without Redis people are told what was not sent, and stay until it is back."""
    own_redis_server.stop()
    url = f"{own_redis_server.url}?socket_timeout=0.2"
    async with RedisChannelLayer(hosts=[url]) as layer:
        register_channel_layer("chat", layer)
        async with joined(app, "Ada") as ada:
            assert (await receive_error(ada)).startswith("Not sent: ")
            await ada.send_json_to({"type": "message", "text": "Hello"})
            assert (await receive_error(ada)).startswith("Not sent: ")
            # Bob leaves, which nobody can be told, and is gone all the same.
            async with joined(app, "Bob"):
                pass
            own_redis_server.start()
            await ada.send_json_to({"type": "message", "text": "Hello"})
            assert (await ada.receive_json_from())["text"] == "Hello"
    assert own_redis_server.keys("asgi:group:") == []
    ours = [record for record in caplog.records if record.name != "asyncio"]
    assert ["cannot be read" in record.message for record in ours] == [True]
