"""A WebSocket application can be run in a test as a client would use it."""

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

# For so many seconds is waited in vain, where waiting in vain is what is tested.
SHORT = 0.02


class Oops(Exception):
    """What consumers fail with."""


class Echo(AsyncWebsocketConsumer):
    """Sends every frame back, and notes the code of the disconnect in its scope."""

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
    """Accepts with what it is given, or refuses with a code."""

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


async def test_scope_is_that_of_a_websocket() -> None:
    """An application finds all that a server would tell of a plain client."""
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


async def test_scope_has_what_the_client_asks_with() -> None:
    """Headers, subprotocols and the version of the specification may be given."""
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
    """The path is decoded, and the query string is left as it is."""
    scope = WebsocketCommunicator(Echo, given).scope
    assert scope["path"] == path
    assert scope["raw_path"] == raw_path
    assert scope["query_string"] == query_string


async def test_path_that_is_not_a_str_is_refused() -> None:
    """The error names what was given."""
    path: Any = b"/ws"
    with pytest.raises(TypeError, match=r"^path must be a str, not b'/ws'$"):
        WebsocketCommunicator(Echo, path)


# Connecting


@pytest.mark.parametrize("application", [Echo, Echo.as_asgi()])
async def test_conversation_without_a_context_manager(
    application: ASGIApplication | type[AsyncConsumer],
) -> None:
    """connect() and disconnect() run an application from its start to its end."""
    communicator = WebsocketCommunicator(application, "/")
    assert await communicator.connect() == (True, None)
    await communicator.send_to("hello")
    assert await communicator.receive_from() == "hello"
    assert await communicator.receive_nothing(timeout=SHORT)
    await communicator.disconnect()
    assert communicator.future.done()
    assert disconnects(communicator) == [1000]


async def test_connect_tells_subprotocol_and_headers() -> None:
    """What the application accepted with is there for the test."""
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
async def test_connect_tells_what_the_application_answered(
    application: ASGIApplication, answer: tuple[bool, str | int | None]
) -> None:
    """A code comes with a refusal, 1000 if the application gave none."""
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
    """The error shows what the application sent in place of an answer."""
    event = {"type": "websocket.send", "text": "too early"}
    async with WebsocketCommunicator(sending(event), "/") as communicator:
        with pytest.raises(AssertionError, match=r"'text': 'too early'"):
            await communicator.connect()


# Frames


@pytest.mark.parametrize("frame", [{"text_data": ""}, {"bytes_data": b"\x00"}])
async def test_frames_go_to_the_application_and_back(frame: dict[str, Any]) -> None:
    """A text frame is a str, a binary frame is bytes; both may be empty."""
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
async def test_frame_that_cannot_be_is_refused(
    frame: dict[str, Any], error: type[Exception], reason: str
) -> None:
    """The error names the value, and the application hears nothing of it."""
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
async def test_frame_may_have_a_none_beside_its_content(
    event: dict[str, Any], content: str | bytes
) -> None:
    """Frameworks send both keys, with None for the kind of frame that it is not."""
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
    """The application is told that the server shuts down."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
        with pytest.raises(TimeoutError):
            await receive(communicator, timeout=SHORT)
    assert communicator.future.cancelled()
    assert disconnects(communicator) == [1012]


# Disconnecting


@pytest.mark.parametrize("code", [1000, 1001, 4321])
async def test_disconnect_tells_the_application_a_code(code: int) -> None:
    """The application ends with the code of the client, and only once."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
        await communicator.disconnect(code)
        assert communicator.future.done()
    assert disconnects(communicator) == [code]


async def test_disconnect_cancels_an_application_that_goes_on() -> None:
    """disconnect() waits only so long for the end."""

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
    """An application that closed gets the code that the client answers with."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
        await communicator.send_to("close")
        closing = await communicator.receive_output()
        assert closing == {"type": "websocket.close", "code": 4000}
        await communicator.disconnect(closing["code"])
    assert disconnects(communicator) == [4000]


async def test_exception_of_the_consumer_comes_out_of_disconnect() -> None:
    """A failure fails the test at its next call, and is shown once."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
        await communicator.send_to("fail")
        with pytest.raises(Oops, match=r"^fail$"):
            await communicator.disconnect()
    assert disconnects(communicator) == [1011]


# As a context manager


async def test_client_disconnects_at_the_end_of_the_block() -> None:
    """The application ends as it does when a client leaves."""
    async with WebsocketCommunicator(Echo, "/") as communicator:
        await communicator.connect()
    assert communicator.future.done()
    assert not communicator.future.cancelled()
    assert disconnects(communicator) == [1000]


async def test_refused_client_disconnects_at_the_end_of_the_block() -> None:
    """An application that refused is told of the end too."""
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
async def test_failure_that_no_call_has_shown_comes_out_at_the_end(wait: bool) -> None:
    """A consumer that failed, or fails at the disconnect, fails the test."""

    async def block() -> None:
        async with WebsocketCommunicator(Echo, "/") as communicator:
            await communicator.connect()
            await communicator.send_to("fail")
            if wait:
                await asyncio.wait([communicator.future])

    with pytest.raises(Oops, match=r"^fail$"):
        await block()


async def test_exception_that_closes_the_connection() -> None:
    """A consumer's exception comes out, and not only the close that comes first."""

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
    """An application that closes with that code and goes on is not waited for long."""
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
