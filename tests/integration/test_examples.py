"""The example application: its consumers, and the process that serves it."""

import asyncio
import contextlib
import functools
import hashlib
import json
import mimetypes
import os
import re
import socket
import sys
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from fastapi import FastAPI
from websockets import Origin

from examples import notify
from examples.answers import writing
from examples.counter import counting
from examples.layers import CHAT, setup_layers
from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    channel_layers,
    register_channel_layer,
)
from fast_channels.testing import HttpCommunicator, WebsocketCommunicator
from tests.chat_server import ChatServer, start_chat
from tests.redis_servers.server import RedisServer

# As for a page of this application in a browser.
ORIGIN = [(b"origin", b"http://localhost:8000")]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    """Give a test the application, and check that its layers are empty afterwards."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    # Imported here, as the import reads REDIS_URL.
    from examples.app import app  # noqa: PLC0415

    # Otherwise Starlette does this, which blocks, when it sends its first file.
    mimetypes.init()
    setup_layers(force=True)
    layers = [channel_layers.get(alias) for alias in channel_layers]
    yield app
    for layer in layers:
        assert isinstance(layer, InMemoryChannelLayer)
        assert layer.groups == {}
        assert layer.channels == {}


@contextlib.asynccontextmanager
async def opened(app: FastAPI, path: str) -> AsyncGenerator[WebsocketCommunicator]:
    async with WebsocketCommunicator(app, path, ORIGIN) as person:
        assert await person.connect() == (True, None)
        yield person


@contextlib.asynccontextmanager
async def joined(
    app: FastAPI, name: str, path: str = "/ws/room/tea"
) -> AsyncGenerator[WebsocketCommunicator]:
    async with opened(app, path) as person:
        await person.send_json_to({"type": "join", "name": name, "tab": name})
        room = path.rpartition("/")[2]
        # Everyone gets the notices, and ignores their own.
        assert await receive_both(person) == [
            {
                "type": "joined",
                "room": room,
                "name": name,
                "id": id_of(name),
                "complete": True,
            },
            notice("join", name),
        ]
        yield person


def id_of(tab: str) -> str:
    return hashlib.sha256(tab.encode()).hexdigest()[:16]


def notice(event: str, name: str, tab: str = "") -> dict[str, str]:
    return {"type": "notice", "event": event, "name": name, "from": id_of(tab or name)}


async def receive_both(person: WebsocketCommunicator) -> list[Any]:
    return [await person.receive_json_from(timeout=5) for _ in range(2)]


async def receive_error(person: WebsocketCommunicator) -> str:
    error = await person.receive_json_from()
    assert error.keys() == {"type", "detail"}
    assert error["type"] == "error"
    detail: str = error["detail"]
    return detail


def browse(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.mark.parametrize(
    ("path", "script"),
    [
        ("/", "chat"),
        ("/room/tea", "chat"),
        ("/room/a/b", "chat"),
        ("/room/a%20b", "chat"),
        ("/answers", "answers"),
        ("/system", "system"),
        ("/jobs", "jobs"),
        ("/notifications", "notifications"),
        ("/analytics", "analytics"),
    ],
)
async def test_every_part_has_a_page(app: FastAPI, path: str, script: str) -> None:
    """Every part has a page; all rooms share one, even those with a bad name."""
    async with counting(), browse(app) as client:
        page = await client.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert 'data-layer="memory" data-jobs="server"' in page.text
        assert "$" not in page.text
        for file in ("/static/style.css", f"/static/{script}.js"):
            assert f'"{file}"' in page.text
            assert (await client.get(file)).status_code == 200
        module = await client.get("/client/fast-channels.js")
        assert module.status_code == 200
        assert "javascript" in module.headers["content-type"]


@pytest.mark.parametrize("path", ["/ws/lobby", "/ws/system", "/ws/jobs"])
async def test_pages_of_other_sites_are_refused(app: FastAPI, path: str) -> None:
    """A page of another site cannot open a WebSocket."""
    foreign = [(b"origin", b"https://example.com")]
    async with WebsocketCommunicator(app, path, foreign) as page:
        assert await page.connect() == (False, 403)


async def test_system_answers(app: FastAPI) -> None:
    """The consumer without a layer greets, and answers valid and invalid texts."""
    async with opened(app, "/ws/system") as page:
        assert "The connection is open since " in str(await page.receive_from())
        await page.send_to(" hello ")
        assert await page.receive_from() == "You wrote: hello"
        for nonsense in (" ", "a" * 501):
            await page.send_to(nonsense)
            assert await page.receive_from() == "A text has 1 to 500 characters."
        await page.send_to(bytes_data=b"\0")
        assert await page.receive_from() == "That was a binary frame. Write text."


START = '{"type": "start", "title": " Sales "}'


async def test_job_reports_its_progress(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the page that starts a job gets its progress, up to 100 %."""
    monkeypatch.setattr("examples.reports.SECONDS", 0)
    async with opened(app, "/ws/jobs") as page, opened(app, "/ws/jobs") as other:
        await page.send_to(START)
        queued = await page.receive_json_from()
        job = queued.pop("job")
        assert queued == {"type": "queued", "title": "Sales", "where": "server"}
        for percent in range(0, 101, 5):
            progress = {"type": "progress", "job": job, "percent": percent}
            assert await page.receive_json_from() == progress
        assert await other.receive_nothing()


async def test_jobs_are_limited(app: FastAPI) -> None:
    """Invalid requests and a sixth job are refused; jobs end with the page."""
    async with opened(app, "/ws/jobs") as page:
        for nonsense in ("{}", "[]", '{"type": "start"}', START.replace("Sales", " ")):
            await page.send_to(nonsense)
            assert await receive_error(page)
        for _ in range(6):
            await page.send_to(START)
        while (answer := await page.receive_json_from())["type"] != "error":
            assert answer["type"] in {"queued", "progress"}
        assert answer["detail"].startswith("5 jobs are running.")


async def test_every_page_is_notified(app: FastAPI) -> None:
    """A posted notification reaches every page; an invalid one is refused."""
    async with (
        opened(app, "/ws/notifications") as one,
        opened(app, "/ws/notifications") as other,
        browse(app) as client,
    ):
        for page in (one, other):
            assert await page.receive_json_from() == {"type": "ready"}
        await one.send_to("nonsense")
        assert (await client.post("/notify", json={"text": "x"})).status_code == 202
        for page in (one, other):
            notification = await page.receive_json_from()
            assert notification["text"] == "x"
            assert notification["source"] == "POST /notify"
        for text in ("", " ", "a" * 201, None):
            response = await client.post("/notify", json={"text": text})
            assert response.status_code == 422


async def receive_counts(page: HttpCommunicator) -> dict[str, int]:
    line = await page.receive_body()
    assert line.startswith(b"data: ")
    counts: dict[str, int] = json.loads(line.removeprefix(b"data: "))
    return counts


async def test_visits_are_counted(app: FastAPI) -> None:
    """A worker counts the visits, and the page gets the counts as events."""
    async with (
        counting(),
        browse(app) as client,
        HttpCommunicator(app, "GET", "/events") as page,
    ):
        before = await receive_counts(page)
        await client.get("/system")
        after = await receive_counts(page)
        assert after == {**before, "System": before.get("System", 0) + 1}


async def test_missing_worker_is_noticed(app: FastAPI) -> None:
    """Without a worker the page shows that, and gets the counts when one starts."""
    async with HttpCommunicator(app, "GET", "/events") as page:
        assert await page.receive_body(timeout=5) == b"event: nobody\ndata:\n\n"
        async with counting():
            await receive_counts(page)


async def test_message_reaches_everyone(app: FastAPI) -> None:
    """A message reaches everyone in the room, including its author."""
    async with joined(app, "Ada") as ada, joined(app, "Bob") as bob:
        assert await ada.receive_json_from() == notice("join", "Bob")
        await bob.send_json_to({"type": "message", "text": " <b>Hello</b>\n"})
        message = await ada.receive_json_from()
        assert await bob.receive_json_from() == message
        sent = datetime.fromisoformat(message.pop("time"))
        assert sent.tzinfo == UTC
        assert message == {
            "type": "message",
            "from": id_of("Bob"),
            "name": "Bob",
            "text": "<b>Hello</b>",
            "position": message["position"],
        }


async def test_room_is_resumed(app: FastAPI) -> None:
    """A person who comes back gets what was missed; a new one, the latest messages."""
    async with joined(app, "Ada") as ada:
        for number in range(3):
            await ada.send_json_to({"type": "message", "text": str(number)})
        received = [await ada.receive_json_from() for _ in range(3)]

    async def come(path: str, name: str) -> tuple[bool, list[Any]]:
        async with opened(app, f"/ws/room/tea{path}") as person:
            await person.send_json_to({"type": "join", "name": name, "tab": name})
            frames = [await person.receive_json_from()]
            while not await person.receive_nothing():
                frames.append(await person.receive_json_from())
            messages = [frame for frame in frames if frame["type"] == "message"]
            return frames[0]["complete"], messages

    since = f"?since={received[0]['position']}"
    assert await come(since, "Ada") == (True, received[1:])
    assert await come("?since=made-up", "Bob") == (False, received)
    assert await come("", "Cleo") == (True, received)


async def test_gap_in_a_room_is_filled(app: FastAPI) -> None:
    """A connection that was too slow gets what it has missed."""
    layer = channel_layers["chat"]
    async with joined(app, "Ada") as ada:
        await ada.send_json_to({"type": "message", "text": "first"})
        position = (await ada.receive_json_from())["position"]
        gap = {"type": "group.gap", "group": "room.tea"}
        for since, complete in ((position, True), ("made-up", False)):
            await layer.group_send("people.tea", {**gap, "position": since})
            if complete:
                assert await ada.receive_nothing()
            else:
                assert (await ada.receive_json_from())["complete"] is False
                assert (await ada.receive_json_from())["text"] == "first"


@pytest.fixture
async def answers() -> AsyncGenerator[None]:
    """Stop writing answers at the end of a test."""
    async with writing():
        yield


async def ask(app: FastAPI, question: str) -> str:
    async with browse(app) as client:
        response = await client.post("/answers", json={"text": question})
        assert response.status_code == 202
        answer: str = response.json()["answer"]
        return answer


async def receive_events(page: HttpCommunicator) -> list[dict[str, str]]:
    """Return the events of a stream, each a dict of its fields."""
    body = (await page.get_response(timeout=5))["body"].decode()
    return [
        dict(line.split(": ", 1) for line in event.splitlines())
        for event in body.split("\n\n")
        if event.startswith(("id", "event", "data"))
    ]


async def test_answer_continues(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page gets each word once, whenever and however it begins to listen."""
    monkeypatch.setattr("examples.answers.SECONDS", 0)
    answer = await ask(app, "Why?")
    stream = f"/answers/{answer}/events"
    events = await receive_events(HttpCommunicator(app, "GET", stream))
    text = "".join(json.loads(each["data"])["text"] for each in events[:-1])
    assert text.startswith("You asked: “Why?” I am not a model")
    assert events[-1] == {"event": "done", "id": events[-1]["id"], "data": ""}
    # A browser that reconnects.
    last_event = [(b"last-event-id", events[9]["id"].encode())]
    page = HttpCommunicator(app, "GET", stream, headers=last_event)
    assert await receive_events(page) == events[10:]
    # The same over WebSockets.
    for since, complete in ((events[9]["id"], True), ("made-up", False)):
        async with opened(app, f"/ws/answers/{answer}?since={since}") as socket:
            if not complete:
                assert await socket.receive_json_from() == {"again": True}
            first = 10 if complete else 0
            for event in events[first:-1]:
                data = json.loads(event["data"])
                word = {**data, "position": event["id"]}
                assert await socket.receive_json_from() == word
            assert await socket.receive_output() == {"type": "websocket.close"}
    # A position that is lost.
    headers = [(b"last-event-id", b"made-up")]
    page = HttpCommunicator(app, "GET", stream, headers=headers)
    assert await receive_events(page) == [{"data": '{"again":true}'}, *events]


@pytest.mark.usefixtures("answers")
async def test_gap_in_an_answer_is_filled(app: FastAPI) -> None:
    """A page that was too slow resumes from its last word."""
    answer = await ask(app, "Why?")
    group = f"answer.{answer}"
    (first,) = await channel_layers["answers"].group_history(group, limit=1)
    gap = {"type": "group.gap", "group": group, "position": first.position}
    async with (
        opened(app, f"/ws/answers/{answer}") as socket,
        HttpCommunicator(app, "GET", f"/answers/{answer}/events") as page,
    ):
        assert await socket.receive_json_from() == {
            "text": "",
            "position": first.position,
        }
        assert await page.receive_body() == b":\n\n"
        layer = channel_layers["answers"]
        assert isinstance(layer, InMemoryChannelLayer)
        for channel in list(layer.groups[group]):
            await layer.send(channel, gap)
        assert (await socket.receive_json_from(timeout=5))["text"] == "You "
        # The browser reconnects.
        assert (await page.get_response(timeout=5))["status"] == 200


@pytest.mark.parametrize("answer", ["unknown", "a b", "a" * 200])
async def test_unknown_answer(app: FastAPI, answer: str) -> None:
    """An answer to no question is refused, with a reason."""
    async with browse(app) as client:
        assert (await client.get(f"/answers/{answer}/events")).status_code == 404
        response = await client.post("/answers", json={"text": ""})
        assert response.status_code == 422
    async with opened(app, f"/ws/answers/{answer}") as socket:
        close = await socket.receive_output()
        assert (close["code"], close["reason"]) == (4404, "There is no such answer.")


async def test_answer_ends_with_its_server(app: FastAPI) -> None:
    """A server that stops ends its answers, for the pages on other servers."""
    layer = channel_layers["answers"]
    async with writing():
        answer = await ask(app, "Why?")
        async with layer.listen(f"answer.{answer}", last=2) as messages:
            assert [await messages.get(timeout=5) for _ in range(2)]
    history = await layer.group_history(f"answer.{answer}")
    assert history[-1]["type"] == "answer.done"
    assert len(history) < 10


async def test_others_are_notified_of_a_leave(app: FastAPI) -> None:
    """The others are notified when a person who had joined leaves."""
    async with joined(app, "Ada") as ada:
        async with joined(app, "Bob"), opened(app, "/ws/room/tea"):
            assert await ada.receive_json_from() == notice("join", "Bob")
        # She gets no notice for the connection that left before Bob without joining.
        assert await ada.receive_json_from() == notice("leave", "Bob")


async def test_name_can_be_changed(app: FastAPI) -> None:
    """Joining again changes the name: the others see a leave and a join."""
    async with joined(app, "Ada") as ada, joined(app, "Bob") as bob:
        assert await ada.receive_json_from() == notice("join", "Bob")
        await bob.send_json_to({"type": "join", "name": " Robert ", "tab": "Bob"})
        assert (await bob.receive_json_from())["name"] == "Robert"
        assert await receive_both(ada) == [
            notice("leave", "Bob"),
            notice("join", "Robert", "Bob"),
        ]


async def test_rooms_are_isolated(app: FastAPI) -> None:
    """Messages of a room do not reach another; the lobby is a room too."""
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
    """Invalid input is answered with an error, and the connection stays open."""
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
    """A message that is empty, too long or not a text is answered with an error."""
    async with joined(app, "Ada") as ada:
        await ada.send_json_to({"type": "message", "text": text})
        assert await receive_error(ada)
        await ada.send_json_to({"type": "message", "text": "a" * 2000})
        assert (await ada.receive_json_from())["text"] == "a" * 2000


async def test_process_serves_until_interrupted() -> None:
    """The printed address serves the chat, and Ctrl-C ends it silently."""
    with ChatServer() as server:
        async with httpx.AsyncClient(trust_env=False) as client:
            page = await client.get(server.url)
            assert page.status_code == 200
        sockets = server.url.replace("http", "ws", 1) + "/ws"
        refuse = f"{sockets}/room/a%2Fb"
        origin = Origin(server.url)
        async with (
            websockets.connect(f"{sockets}/lobby", origin=origin, proxy=None) as ada,
            websockets.connect(refuse, origin=origin, proxy=None) as refused,
        ):
            await ada.send('{"type": "join", "name": "Ada"}')
            answer: dict[str, Any] = json.loads(await ada.recv())
            assert (answer["type"], answer["room"]) == ("joined", "lobby")
            await refused.wait_closed()
            assert refused.close_code == 4400
            assert str(refused.close_reason).startswith("A room name has ")
            assert server.stop() == (0, "", "")
            await ada.wait_closed()
            assert ada.close_code == 1012


def test_port_in_use_is_named() -> None:
    """The error for a port in use names it in one line, and says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with start_chat("--port", str(port)) as process:
            stdout, stderr = process.communicate()
        hint = f"Port {port} of 127.0.0.1 is in use: choose another one with --port.\n"
        assert (process.returncode, stdout, stderr) == (1, "", hint)


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", 70000), ("192.0.2.1", 0), ("a..b", 0)]
)
def test_bad_address_is_named(app: FastAPI, host: str, port: int) -> None:
    """The error for an invalid address names it in one line."""
    from examples.__main__ import listen  # noqa: PLC0415 # it imports the application

    with pytest.raises(SystemExit, match=f"^Cannot serve on '{host}', port {port}: .+"):
        listen(host, port)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("REDIS_URL", "localhost:6379", "REDIS_URL: a str that begins with another"),
        ("REDIS_URL", "redis://a/database", "REDIS_URL: 'redis://a...' has a path"),
        ("REDIS_LAYER", "quick", "REDIS_LAYER: 'quick' is neither 'queue' nor 'pub"),
        ("ALLOWED_HOSTS", "a/b", "ALLOWED_HOSTS: cannot allow the origin 'a/b'"),
    ],
)
def test_bad_setting_is_named(
    app: FastAPI, name: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error for an invalid setting names it in one line."""
    from examples.app import allowed_hosts  # noqa: PLC0415 # it imports the application

    setup = functools.partial(setup_layers, force=True)
    monkeypatch.setenv("REDIS_URL", "redis://localhost")
    monkeypatch.setenv(name, value)
    check = allowed_hosts if name == "ALLOWED_HOSTS" else setup
    with pytest.raises(SystemExit, match=f"^{re.escape(problem)}"):
        check()


def test_layer_is_named(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer is shown without the password of its Redis."""
    from examples.__main__ import describe_layer  # noqa: PLC0415 # as above

    assert describe_layer() == "memory; set REDIS_URL to connect several servers"
    monkeypatch.setenv("REDIS_URL", "redis://:secret@192.0.2.1/1")
    monkeypatch.setenv("REDIS_LAYER", "queue")
    setup_layers(force=True)
    assert describe_layer().startswith("<RedisChannelLayer [redis://:***@192.0.2.1")


def test_process_needs_no_redis_to_start_and_stop() -> None:
    """Without Redis the process serves pages, and stops silently."""
    with ChatServer("redis://:secret@192.0.2.1/1") as server:
        assert server.layer.startswith("<RedisPubSubChannelLayer [redis://:***@192.")
        assert httpx.get(server.url, trust_env=False).status_code == 200
        assert server.stop() == (0, "", "")


async def test_people_stay_without_redis(
    app: FastAPI, own_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Without Redis, messages are answered with an error; people stay connected."""
    url = f"{own_redis_server.url}?socket_timeout=0.2"
    async with RedisChannelLayer(hosts=[url], history=CHAT) as layer:
        register_channel_layer("chat", layer)
        async with joined(app, "Ada") as ada:
            await ada.send_json_to({"type": "message", "text": "Hello"})
            assert (await ada.receive_json_from())["text"] == "Hello"
            own_redis_server.stop()
            await ada.send_json_to({"type": "message", "text": "Hello"})
            assert (await receive_error(ada)).startswith("Not sent: ")
            # Bob comes back later.
            async with opened(app, "/ws/room/other") as bob:
                await bob.send_json_to({"type": "join", "name": "Bob"})
                assert (await bob.receive_output(timeout=5))["code"] == 1013
            own_redis_server.start()
            await ada.send_json_to({"type": "message", "text": "Hello again"})
            # Redis has lost its data, so she gets the latest messages again.
            while (await ada.receive_json_from(timeout=5)).get("text") != "Hello again":
                pass
    assert own_redis_server.keys("asgi:group:") == []
    ours = [each.message for each in caplog.records if each.name != "asyncio"]
    # The process can end before it has noticed the end of the outage.
    assert "cannot be read" in ours[0]
    assert all(message.endswith("can be read again") for message in ours[1:])


async def test_script_notifies(app: FastAPI, redis_server: RedisServer) -> None:
    """A script sends a notification through Redis."""
    script = [sys.executable, "-m", "examples.notify", "hello"]
    environment = {**os.environ, "REDIS_URL": redis_server.url}
    async with RedisPubSubChannelLayer([redis_server.url], prefix="notify") as layer:
        register_channel_layer("notifications", layer)
        async with opened(app, "/ws/notifications") as page:
            assert await page.receive_json_from() == {"type": "ready"}
            done = await asyncio.create_subprocess_exec(
                *script, cwd=Path(__file__).parents[2], env=environment
            )
            assert await done.wait() == 0
            assert (await page.receive_json_from())["text"] == "hello"


@pytest.mark.parametrize(
    ("text", "url", "problem"),
    [
        ("hello", "", "This needs Redis: "),
        (" ", "redis://localhost", "usage: "),
        ("hello", "redis://127.0.0.1:1?socket_timeout=0.1", "Not sent: "),
        ("hello", "localhost", "REDIS_URL: "),
    ],
)
def test_script_explains_its_errors(
    text: str,
    url: str,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A script that fails says why, without a traceback."""
    monkeypatch.setattr(sys, "argv", ["notify", text])
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SystemExit) as ended:
        notify.main()
    assert (capsys.readouterr().err or str(ended.value)).startswith(problem)
