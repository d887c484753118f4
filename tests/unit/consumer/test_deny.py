"""Consumers that refuse a connection with an HTTP response."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.exceptions import AcceptConnection, DenyConnection, StopConsumer
from fast_channels.testing import WebsocketCommunicator
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelScope,
)

from .fakes import FakeServer, Layer, members


class Guarded(AsyncWebsocketConsumer):
    """Denies every connection, and records the code that disconnect() gets."""

    def __init__(
        self,
        codes: list[int],
        then: Callable[["Guarded"], Awaitable[None]] | None = None,
        **response: Any,
    ) -> None:
        super().__init__()
        self.codes = codes
        self.then = then
        self.response = response

    async def connect(self) -> None:
        await self.deny(**self.response)
        if self.then is not None:
            await self.then(self)

    async def disconnect(self, code: int) -> None:
        self.codes.append(code)


@pytest.mark.parametrize(
    ("response", "status", "headers", "body"),
    [
        ({}, 403, {b"content-length": b"0"}, b""),
        (
            {"status": 401, "headers": [(b"WWW-Authenticate", b"Bearer")]},
            401,
            {b"www-authenticate": b"Bearer", b"content-length": b"0"},
            b"",
        ),
        (
            {"body": b"too late"},
            403,
            {b"content-length": b"8", b"content-type": b"text/plain; charset=utf-8"},
            b"too late",
        ),
        (
            {"headers": {b"Content-Type": b"text/html"}.items(), "body": b"<p>no"},
            403,
            {b"content-type": b"text/html", b"content-length": b"5"},
            b"<p>no",
        ),
        (
            {"headers": [(b"content-length", b"2")], "body": b"no"},
            403,
            {b"content-length": b"2", b"content-type": b"text/plain; charset=utf-8"},
            b"no",
        ),
    ],
)
async def test_client_gets_the_response(
    response: Any, status: int, headers: dict[bytes, bytes], body: bytes
) -> None:
    """The client gets the given response; headers about the body are always sent."""
    codes: list[int] = []
    application = Guarded.as_asgi(codes=codes, **response)
    async with WebsocketCommunicator(application, "/") as client:
        assert await client.connect() == (False, status)
        assert dict(client.response_headers) == headers
        assert client.response_body == body
        assert codes == []
        await client.disconnect(1006)
    assert codes == [1006]


async def test_response_in_parts() -> None:
    """The whole body of the response is sent, in one part or several."""

    async def application(
        scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        body = "websocket.http.response.body"
        await send({"type": "websocket.http.response.start", "status": 404})
        await send({"type": body, "body": b"not ", "more_body": True})
        await send({"type": body, "body": b"here", "more_body": True})
        await send({"type": body})

    async with WebsocketCommunicator(application, "/") as client:
        assert await client.connect() == (False, 404)
        assert client.response_headers == []
        assert client.response_body == b"not here"


async def test_groups_of_a_denied_connection(layer: Layer) -> None:
    """disconnect() gets the server's code, and the groups are left."""
    codes: list[int] = []

    class Member(Guarded):
        channel_layer_alias = "default"
        groups = ["lobby"]

    async with FakeServer(Member.as_asgi(codes=codes)) as server:
        await server.connect()
        assert len(members(layer, "lobby")) == 1
        assert await server.disconnect(code=1006) is None
    assert codes == [1006]
    assert members(layer) == set()


@pytest.mark.parametrize("extensions", [{}, {"extensions": None}, {"extensions": {}}])
async def test_server_without_the_extension_closes(extensions: Any) -> None:
    """If the server cannot send a response, the connection is refused with a close."""
    codes: list[int] = []
    scope = {"type": "websocket", **extensions}
    application = Guarded.as_asgi(codes=codes, status=401, body=b"who?")
    async with FakeServer(application, scope) as server:
        await server.connect()
        assert server.sent == [{"type": "websocket.close"}]
        assert await server.disconnect() is None
    assert codes == [1006]


async def accept(consumer: Guarded) -> None:
    """Accept the connection."""
    await consumer.accept()


async def accept_by_raising(consumer: Guarded) -> None:
    """Accept the connection with an exception."""
    raise AcceptConnection


async def refuse_by_raising(consumer: Guarded) -> None:
    """Refuse the connection with an exception."""
    raise DenyConnection


async def send_and_close(consumer: Guarded) -> None:
    """Use the connection as if it were open."""
    await consumer.send("hello", close=4000)


async def deny_again(consumer: Guarded) -> None:
    """Refuse the connection again."""
    await consumer.deny(404)


@pytest.mark.parametrize(
    "then", [accept, accept_by_raising, refuse_by_raising, send_and_close, deny_again]
)
async def test_nothing_is_sent_after_deny(
    then: Callable[[Guarded], Awaitable[None]],
) -> None:
    """A connection stays denied, whatever methods are called afterwards."""
    codes: list[int] = []
    extensions: Any = {"websocket.http.response": {}}
    scope = {"type": "websocket", "extensions": extensions}
    async with FakeServer(Guarded.as_asgi(codes=codes, then=then), scope) as server:
        await server.connect()
        assert [event["type"] for event in server.sent] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert server.sent[0]["status"] == 403
        assert await server.disconnect(code=1006) is None
    assert codes == [1006]


async def test_consumer_that_stops_after_deny() -> None:
    """disconnect() gets 1006 too if the consumer stops without the server's event."""
    codes: list[int] = []

    async def stop(consumer: Guarded) -> None:
        raise StopConsumer

    application = Guarded.as_asgi(codes=codes, then=stop)
    async with WebsocketCommunicator(application, "/") as client:
        assert await client.connect() == (False, 403)
        await client.wait()
    assert codes == [1006]


async def test_deny_after_close() -> None:
    """A connection that was closed cannot be denied."""

    class Closed(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            await self.close(4000)
            await self.deny()

    async with FakeServer(Closed.as_asgi()) as server:
        await server.connect()
        assert server.sent == [{"type": "websocket.close", "code": 4000}]
        assert await server.disconnect(code=1006) is None


async def test_deny_after_accept() -> None:
    """An open connection cannot be denied: the error says what to do."""

    class Late(AsyncWebsocketConsumer):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            await self.deny()

    async with WebsocketCommunicator(Late, "/") as client:
        assert await client.connect() == (True, None)
        await client.send_to("hello")
        with pytest.raises(RuntimeError, match=r"was accepted: call deny\(\) instead"):
            await client.wait()


async def test_client_that_leaves_while_it_is_denied() -> None:
    """A client that leaves while it is denied is an ordinary disconnect."""
    codes: list[int] = []
    async with FakeServer(Guarded.as_asgi(codes=codes)) as server:
        server.gone = True
        await server.connect()
        assert await server.end() is None
    assert codes == [1006]


@pytest.mark.parametrize(
    ("response", "error", "message"),
    [
        ({"status": 101}, ValueError, r"of 200 or higher, such as 401 .* not 101"),
        ({"status": 499}, ValueError, r"not 499"),
        ({"status": 1008}, ValueError, r"not 1008"),
        ({"status": "403"}, ValueError, r"not '403'"),
        ({"body": "no"}, TypeError, r"body must be bytes, not 'no'; encode"),
        (
            {"headers": [("retry-after", b"9")]},
            TypeError,
            r"a pair of bytes, not \('retry-after', b'9'\)",
        ),
        ({"headers": [(b"retry-after", "9")]}, TypeError, r"a pair of bytes, not"),
    ],
)
async def test_response_that_cannot_be_sent(
    response: Any, error: type[Exception], message: str
) -> None:
    """An invalid response is an error with any server, even one that cannot send it."""
    codes: list[int] = []
    async with FakeServer(Guarded.as_asgi(codes=codes, **response)) as server:
        await server.connect()
        assert server.sent == []
        with pytest.raises(error, match=message):
            server.task.result()
        await server.end()
    assert codes == [1011]
