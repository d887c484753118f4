"""A test can use an HTTP application as a client would."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from fast_channels.consumer import AsyncHttpConsumer
from fast_channels.testing import HttpCommunicator
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


class Echo(AsyncHttpConsumer):
    """Sends the body back, or fails, or counts until the client leaves."""

    async def handle(self, body: bytes) -> None:
        if body == b"fail":
            raise Oops(body)
        await self.send_headers(status=201, headers=self.scope["headers"])
        number = 0
        while body == b"count":
            number += 1
            await self.send_body(b"%d" % number, more_body=True)
            await asyncio.sleep(0)
        await self.send_body(body[:2], more_body=True)
        await self.send_body(body[2:])

    async def disconnect(self) -> None:
        self.scope["disconnected"] = self.scope.get("disconnected", 0) + 1


def sending(*events: Mapping[str, Any]) -> ASGIApplication:
    """Return an application that answers a client with these events, and ends."""

    async def application(
        scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        await receive()
        for event in events:
            await send(dict(event))

    return application


async def test_scope_of_a_request() -> None:
    """The scope has everything that a server would put into it."""
    headers = [(b"host", b"example.com")]
    communicator = HttpCommunicator(Echo, "get", "/a%20b/ä?c=%20d", headers=headers)
    assert communicator.scope == {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a b/ä",
        "raw_path": "/a%20b/ä".encode(),
        "query_string": b"c=%20d",
        "root_path": "",
        "headers": headers,
        "client": ("testclient", 50000),
        "server": ("testserver", 80),
    }


@pytest.mark.parametrize("application", [Echo, Echo.as_asgi()])
async def test_whole_response(application: Any) -> None:
    """A response has status, headers and the whole body, every time."""
    communicator = HttpCommunicator(
        application, "POST", "/", b"hello", iter([(b"a", b"b")])
    )
    async with communicator:
        response = await communicator.get_response()
        assert response == {"status": 201, "headers": [(b"a", b"b")], "body": b"hello"}
        assert await communicator.get_response() == response
        await communicator.wait()
    assert communicator.scope["disconnected"] == 1


async def test_response_without_headers_and_body() -> None:
    """Parts that an application can omit are empty."""
    events = (
        {"type": "http.response.start", "status": 204},
        {"type": "http.response.body"},
    )
    communicator = HttpCommunicator(sending(*events), "GET", "/")
    response = await communicator.get_response()
    assert response == {"status": 204, "headers": [], "body": b""}


async def test_response_part_by_part() -> None:
    """A response can be received in parts, and then as a whole."""
    async with HttpCommunicator(Echo, "POST", "/", b"hello") as communicator:
        assert await communicator.receive_body() == b"he"
        assert communicator.status == 201
        assert communicator.response_headers == []
        assert (await communicator.get_response())["body"] == b"hello"
        with pytest.raises(AssertionError, match=r"the response is complete"):
            await communicator.receive_body()


@pytest.mark.parametrize("explicitly", [True, False])
async def test_client_that_goes_away(explicitly: bool) -> None:
    """A client leaves a stream on disconnect(), and at the end of the block."""
    async with HttpCommunicator(Echo, "GET", "/", b"count") as communicator:
        assert await communicator.receive_body() == b"1"
        assert await communicator.receive_body() == b"2"
        if explicitly:
            await communicator.disconnect()
            assert communicator.scope["disconnected"] == 1
    assert communicator.scope["disconnected"] == 1


async def test_request_that_ends_early() -> None:
    """A test can send a part of a request before the client leaves."""
    async with HttpCommunicator(Echo, "GET", "/") as communicator:
        await communicator.send_input({"type": "http.request", "more_body": True})
    assert communicator.scope["disconnected"] == 1
    assert await communicator.receive_nothing()


async def test_unused_communicator() -> None:
    """Nothing is started for a request that is never sent."""
    async with HttpCommunicator(Echo, "GET", "/") as communicator:
        pass
    assert "disconnected" not in communicator.scope


async def test_failing_application() -> None:
    """The call that waits for the application raises its exception."""
    communicator = HttpCommunicator(Echo, "POST", "/", b"fail")
    async with communicator:
        await communicator.send_request()
        with pytest.raises(Oops):
            await communicator.get_response(timeout=2)


async def test_failing_test() -> None:
    """An application that is still running when a test fails is cancelled."""
    communicator = HttpCommunicator(Echo, "GET", "/", b"count")

    async def fail() -> None:
        async with communicator:
            await communicator.receive_body()
            raise Oops

    with pytest.raises(Oops):
        await fail()
    assert communicator.future.cancelled()


async def test_application_that_does_not_answer() -> None:
    """A missing response raises TimeoutError."""
    communicator = HttpCommunicator(sending(), "GET", "/")
    with pytest.raises(TimeoutError):
        await communicator.get_response(timeout=SHORT)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([{"type": "http.response.body"}], r"to send http.response.start, but it"),
        (
            [{"type": "http.response.start", "status": 200}] * 2,
            r"to send http.response.body, but it sent {'type': 'http.response.start'",
        ),
        (
            [
                {"type": "http.response.start", "status": 200},
                {"type": "http.response.body", "body": "text"},
            ],
            r"a body must be bytes, not 'text'",
        ),
    ],
)
async def test_application_that_breaks_the_rules(
    events: list[dict[str, Any]], message: str
) -> None:
    """An invalid response fails the test, and the error shows what was sent."""
    with pytest.raises(AssertionError, match=message):
        await HttpCommunicator(sending(*events), "GET", "/").get_response()


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (b"/", b"", r"path must be a str, not b'/'"),
        ("/", "text", r"body must be bytes, not 'text'"),
    ],
)
def test_arguments_are_checked(path: Any, body: Any, message: str) -> None:
    """A path is a str, and a body is bytes."""
    with pytest.raises(TypeError, match=message):
        HttpCommunicator(Echo, "GET", path, body)
