"""A test can use a WebSocket application as a client would."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from fast_channels.consumer import (
    AsyncConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
)
from fast_channels.testing import WebsocketCommunicator
from fast_channels.type_defs import (
    ASGIApplication,
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelScope,
)

# Seconds to wait for something that does not happen.
SHORT = 0.02


class Oops(Exception):
    """The error of the consumers."""


class Echo(AsyncWebsocketConsumer):
    """Sends every frame back, and records the disconnect code in its scope."""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        if text_data == "fail":
            raise Oops(text_data)
        if text_data == "close":
            await self.close(4000)
        else:
            await self.send(text_data, bytes_data)

    async def disconnect(self, code: int) -> None:
        self.scope["disconnected"] = [*self.scope.get("disconnected", []), code]


class JsonEcho(AsyncJsonWebsocketConsumer):
    """Sends decoded content back."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json(content)


class Choosy(AsyncWebsocketConsumer):
    """Accepts with the given arguments, or refuses with a code."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__()
        self.code = code

    async def connect(self) -> None:
        if self.code is not None:
            await self.close(self.code)
        else:
            await self.accept(self.scope["subprotocols"][0], self.scope["headers"])


def sending(*events: Mapping[str, Any]) -> ASGIApplication:
    """Return an application that answers a client with these events, and ends."""

    async def application(
        scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        await receive()
        for event in events:
            await send(dict(event))

    return application


def disconnects(communicator: WebsocketCommunicator) -> list[int]:
    """Return the codes with which ``Echo.disconnect()`` was called."""
    scope: ChannelScope = communicator.scope
    codes: list[int] = scope["disconnected"]
    return codes


# The scope


async def test_scope_of_a_websocket() -> None:
    """The scope has everything that a server would put into it for a plain client."""
    communicator = WebsocketCommunicator(Echo, "/")
    assert communicator.scope == {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }


async def test_scope_has_the_request_of_the_client() -> None:
    """A test can set headers, subprotocols and the version of the specification."""
    communicator = WebsocketCommunicator(
        Echo,
        "/",
        headers=iter([(b"origin", b"https://example.com")]),
        subprotocols=("v2", "v1"),
        spec_version="2.4",
    )
    assert communicator.scope["headers"] == [(b"origin", b"https://example.com")]
    assert communicator.scope["subprotocols"] == ["v2", "v1"]
    assert communicator.scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}


@pytest.mark.parametrize(
    ("given", "path", "raw_path", "query_string"),
    [
        ("/ws/room", "/ws/room", b"/ws/room", b""),
        ("/ws?a=1&b=%20+", "/ws", b"/ws", b"a=1&b=%20+"),
        ("/ws?next=/x?y", "/ws", b"/ws", b"next=/x?y"),
        ("/a%20b/%E6%97%A5?q=%E6", "/a b/日", b"/a%20b/%E6%97%A5", b"q=%E6"),
        ("/a%2Fb%3Fc", "/a/b?c", b"/a%2Fb%3Fc", b""),
        ("//room", "//room", b"//room", b""),
        ("", "", b"", b""),
    ],
)
async def test_scope_has_path_and_query(
    given: str, path: str, raw_path: bytes, query_string: bytes
) -> None:
    """The path is decoded, and the query string is unchanged."""
    scope = WebsocketCommunicator(Echo, given).scope
    assert scope["path"] == path
    assert scope["raw_path"] == raw_path
    assert scope["query_string"] == query_string


async def test_path_that_is_not_a_str_is_refused() -> None:
    """The error names the given value."""
    path: Any = b"/ws"
    with pytest.raises(TypeError, match=r"^path must be a str, not b'/ws'$"):
        WebsocketCommunicator(Echo, path)


# Connecting


@pytest.mark.parametrize("application", [Echo, Echo.as_asgi()])
async def test_conversation_without_a_context_manager(
    application: ASGIApplication | type[AsyncConsumer],
) -> None:
    """connect() and disconnect() run an application from start to end."""
    communicator = WebsocketCommunicator(application, "/")
    assert await communicator.connect() == (True, None)
    await communicator.send_to("hello")
    assert await communicator.receive_from() == "hello"
    assert await communicator.receive_nothing(timeout=SHORT)
    await communicator.disconnect()
    assert communicator.future.done()
    assert disconnects(communicator) == [1000]


async def test_connect_returns_subprotocol_and_headers() -> None:
    """A test can inspect the subprotocol and headers of accept()."""
    headers = [(b"x-room", b"1"), (b"x-room", b"2")]
    async with WebsocketCommunicator(Choosy, "/", headers, ["v2"]) as communicator:
        assert communicator.response_headers == []
        assert await communicator.connect() == (True, "v2")
        assert communicator.response_headers == headers


@pytest.mark.parametrize(
    ("application", "answer"),
    [
        (Choosy.as_asgi(code=4003), (False, 4003)),
        (sending({"type": "websocket.close"}), (False, 1000)),
        (sending({"type": "websocket.accept"}), (True, None)),
        (sending({"type": "websocket.accept", "headers": None}), (True, None)),
    ],
)
async def test_connect_returns_the_answer_of_the_application(
    application: ASGIApplication, answer: tuple[bool, str | int | None]
) -> None:
    """A refusal has a code, 1000 by default."""
    async with WebsocketCommunicator(application, "/") as communicator:
        assert await communicator.connect() == answer
        assert communicator.response_headers == []


async def test_connect_waits_for_an_answer() -> None:
    """An application that does not answer in time is cancelled."""

    async def silent(
        scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        while True:
            await receive()

    async with WebsocketCommunicator(silent, "/") as communicator:
        with pytest.raises(TimeoutError):
            await communicator.connect(timeout=SHORT)
    assert communicator.future.cancelled()


async def test_connect_fails_at_another_event() -> None:
    """The error shows what the application sent instead of an answer."""
    event = {"type": "websocket.send", "text": "too early"}
    async with WebsocketCommunicator(sending(event), "/") as communicator:
        with pytest.raises(AssertionError, match=r"'text': 'too early'"):
            await communicator.connect()


# Frames


@pytest.mark.parametrize("frame", [{"text_data": ""}, {"bytes_data": b"\x00"}])
async def test_frames_go_to_the_application_and_back(frame: dict[str, Any]) -> None:
    """A text frame is a str, a binary frame is bytes; both can be empty."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
        await communicator.send_to(**frame)
        assert [await communicator.receive_from()] == list(frame.values())


async def test_json_goes_to_the_application_and_back() -> None:
    """Content is encoded and decoded on the way."""
    content = {"text": "日本", "list": [1, None, 2.5]}
    async with WebsocketCommunicator(JsonEcho, "/") as communicator:
        await communicator.connect()
        await communicator.send_json_to(content)
        assert await communicator.receive_json_from() == content


@pytest.mark.parametrize(
    ("frame", "error", "reason"),
    [
        ({}, ValueError, r"either text_data or bytes_data"),
        ({"text_data": "", "bytes_data": b""}, ValueError, r"either text_data or"),
        ({"text_data": b"x"}, TypeError, r"^text_data must be a str, not b'x'$"),
        ({"bytes_data": "x"}, TypeError, r"^bytes_data must be bytes, not 'x'$"),
    ],
)
async def test_invalid_frame_is_refused(
    frame: dict[str, Any], error: type[Exception], reason: str
) -> None:
    """The error names the value, and nothing is sent to the application."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
        with pytest.raises(error, match=reason):
            await communicator.send_to(**frame)
        assert await communicator.receive_nothing(timeout=SHORT)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"type": "websocket.close", "code": 4000}, r"'code': 4000"),
        ({"type": "websocket.send"}, r"either text or bytes"),
        ({"type": "websocket.send", "text": "", "bytes": b""}, r"either text or bytes"),
        ({"type": "websocket.send", "text": b"x"}, r"of type str, not b'x'$"),
        ({"type": "websocket.send", "bytes": "x"}, r"of type bytes, not 'x'$"),
    ],
)
async def test_receive_from_fails_at_anything_but_a_frame(
    event: dict[str, Any], reason: str
) -> None:
    """The error shows what the application sent."""
    application = sending({"type": "websocket.accept"}, event)
    async with WebsocketCommunicator(application, "/") as communicator:
        await communicator.connect()
        with pytest.raises(AssertionError, match=reason):
            await communicator.receive_from()


@pytest.mark.parametrize(
    ("event", "content"),
    [
        ({"text": "x", "bytes": None}, "x"),
        ({"text": None, "bytes": b"x"}, b"x"),
    ],
)
async def test_frame_can_have_none_for_its_other_key(
    event: dict[str, Any], content: str | bytes
) -> None:
    """Frameworks send both keys, with None for the other kind of frame."""
    application = sending(
        {"type": "websocket.accept"}, {"type": "websocket.send", **event}
    )
    async with WebsocketCommunicator(application, "/") as communicator:
        await communicator.connect()
        assert await communicator.receive_from() == content


async def test_json_in_a_binary_frame_is_refused() -> None:
    """receive_json_from() expects a text frame."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
        await communicator.send_to(bytes_data=b"{}")
        with pytest.raises(AssertionError, match=r"text frames, not b'{}'$"):
            await communicator.receive_json_from()


@pytest.mark.parametrize(
    "receive",
    [WebsocketCommunicator.receive_from, WebsocketCommunicator.receive_json_from],
)
async def test_receiving_in_vain_cancels_the_application(receive: Any) -> None:
    """The application is cancelled, and disconnect() gets the code of a shutdown."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
        with pytest.raises(TimeoutError):
            await receive(communicator, timeout=SHORT)
    assert communicator.future.cancelled()
    assert disconnects(communicator) == [1012]


# Disconnecting


@pytest.mark.parametrize("code", [1000, 1001, 4321])
async def test_disconnect_sends_a_code_to_the_application(code: int) -> None:
    """The application gets the client's code, once."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
        await communicator.disconnect(code)
        assert communicator.future.done()
    assert disconnects(communicator) == [code]


async def test_disconnect_cancels_an_application_that_does_not_end() -> None:
    """disconnect() waits a limited time for the end."""

    async def unmoved(
        scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        await send({"type": "websocket.accept"})
        while True:
            await receive()

    communicator = WebsocketCommunicator(unmoved, "/")
    await communicator.connect()
    await communicator.disconnect(timeout=SHORT)
    assert communicator.future.cancelled()


async def test_disconnect_answers_a_close_of_the_application() -> None:
    """An application that closed gets the code of the client's answer."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
        await communicator.send_to("close")
        closing = await communicator.receive_output()
        assert closing == {"type": "websocket.close", "code": 4000}
        await communicator.disconnect(closing["code"])
    assert disconnects(communicator) == [4000]


async def test_disconnect_raises_the_exception_of_the_consumer() -> None:
    """A failure is raised by the next call, once."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
        await communicator.send_to("fail")
        with pytest.raises(Oops, match=r"^fail$"):
            await communicator.disconnect()
    assert disconnects(communicator) == [1011]


# As a context manager


async def test_client_disconnects_at_the_end_of_the_block() -> None:
    """The application ends as if the client had left."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
    assert communicator.future.done()
    assert not communicator.future.cancelled()
    assert disconnects(communicator) == [1000]


async def test_refused_client_disconnects_at_the_end_of_the_block() -> None:
    """An application that refused gets a disconnect too."""
    application = Choosy.as_asgi(code=4003)
    async with WebsocketCommunicator(application, "/") as communicator:
        assert await communicator.connect() == (False, 4003)
        assert not communicator.future.done()
    assert communicator.future.done()
    assert not communicator.future.cancelled()


async def test_exception_in_the_block_ends_the_application_at_once() -> None:
    """The test fails with its own exception, and the application is cancelled."""
    communicator = WebsocketCommunicator(Echo, "/")

    async def block() -> None:
        async with communicator:
            await communicator.connect()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()
    assert communicator.future.cancelled()
    assert disconnects(communicator) == [1012]


@pytest.mark.parametrize("wait", [True, False])
async def test_block_raises_a_failure_that_no_call_has_raised(wait: bool) -> None:
    """A consumer that has failed, or fails on disconnect, fails the test."""

    async def block() -> None:
        async with WebsocketCommunicator(Echo, "/") as communicator:
            await communicator.connect()
            await communicator.send_to("fail")
            if wait:
                await asyncio.wait([communicator.future])

    with pytest.raises(Oops, match=r"^fail$"):
        await block()


async def test_exception_that_closes_the_connection() -> None:
    """A consumer's exception is raised although a close comes first."""

    class Broken(AsyncWebsocketConsumer):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            raise LookupError("broken")

    async with WebsocketCommunicator(Broken, "/") as communicator:
        await communicator.connect()
        await communicator.send_to("go")
        with pytest.raises(LookupError, match="broken"):
            await communicator.receive_from()


async def test_application_that_closes_with_1011() -> None:
    """The wait for an application that closes with 1011 and goes on is limited."""
    closed = asyncio.Event()

    class Closing(AsyncWebsocketConsumer):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            await self.close(1011)
            closed.set()

    async with WebsocketCommunicator(Closing, "/") as communicator:
        await communicator.connect()
        await communicator.send_to("go")
        async with asyncio.timeout(5):
            await closed.wait()
        with pytest.raises(AssertionError, match=r"'code': 1011"):
            await communicator.receive_from(timeout=0.01)
