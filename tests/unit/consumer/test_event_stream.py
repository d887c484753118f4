"""Consumers for event streams."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from typing_extensions import override

from fast_channels.consumer import AsyncEventStreamConsumer
from fast_channels.lifespan import close_consumers
from fast_channels.testing import HttpCommunicator

from .fakes import Layer, members

# Seconds, much shorter than the default.
SOON = 0.01


class News(AsyncEventStreamConsumer):
    """Sends the messages of a group."""

    channel_layer_alias = "default"
    groups = ["news"]

    async def news(self, message: Mapping[str, Any]) -> None:
        await self.send_event(message["data"], id=message.get("id"))

    async def last(self, message: Mapping[str, Any]) -> None:
        await self.end_stream()


async def test_stream(layer: Layer) -> None:
    """The stream begins by itself, and goes on with the messages of its groups."""
    async with HttpCommunicator(News, "GET", "/") as page:
        assert await page.receive_body() == b":\n\n"
        assert page.status == 200
        assert page.response_headers == [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await layer.group_send("news", {"type": "news", "data": "text", "id": "7"})
        assert await page.receive_body() == b"id: 7\ndata: text\n\n"
        await layer.group_send("news", {"type": "news", "data": {"a": 1}})
        assert await page.receive_body() == b'data: {"a":1}\n\n'
        await layer.group_send("news", {"type": "last"})
        assert await page.receive_body() == b""
        await page.wait()
    assert not members(layer, "news")


async def test_first_event_begins_the_stream() -> None:
    """handle() can send events itself, and all fields of one, without a layer."""

    class Countdown(AsyncEventStreamConsumer):
        async def handle(self, body: bytes) -> None:
            await self.send_event("2", event="count", id="a", retry=0.5)
            await self.send_event(id="b")
            await self.end_stream()

    response = await HttpCommunicator(Countdown, "GET", "/").get_response()
    assert response["body"] == (
        b":\n\nretry: 500\nevent: count\nid: a\ndata: 2\n\nid: b\n\n"
    )


async def test_more_headers_and_a_body(layer: Layer) -> None:
    """A stream can be begun with headers, once the whole body is there."""

    class Answer(News):
        @override
        async def handle(self, body: bytes) -> None:
            await self.start_stream(headers={"x-body": body})
            with pytest.raises(RuntimeError, match="sent already"):
                await self.start_stream()

    async with HttpCommunicator(Answer, "POST", "/") as page:
        await page.send_input(
            {"type": "http.request", "body": b"one ", "more_body": True}
        )
        assert await page.receive_nothing()
        await page.send_input({"type": "http.request", "body": b"two"})
        start = await page.receive_output()
        assert start["headers"][-1] == (b"x-body", b"one two")
        assert (await page.receive_output())["body"] == b":\n\n"


async def test_refusal(layer: Layer) -> None:
    """A request that is refused gets that response, and no stream."""

    class Private(News):
        @override
        async def handle(self, body: bytes) -> None:
            await self.send_response(403, b"members only")

    response = await HttpCommunicator(Private, "GET", "/").get_response()
    assert response == {"status": 403, "headers": [], "body": b"members only"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([(b"last-event-id", b"")], None),
        ([(b"accept", b"*/*"), (b"last-event-id", "é-7".encode())], "é-7"),
        ([(b"last-event-id", b"\xff")], "\N{REPLACEMENT CHARACTER}"),
    ],
)
async def test_last_event_id(
    headers: list[tuple[bytes, bytes]], expected: str | None
) -> None:
    """The ID of the last event is that of the header, in UTF-8."""
    seen: list[str | None] = []

    class Resumed(AsyncEventStreamConsumer):
        async def handle(self, body: bytes) -> None:
            seen.append(self.last_event_id)
            await self.send_event("now")
            await self.end_stream()

    await HttpCommunicator(Resumed, "GET", "/", headers=headers).get_response()
    assert seen == [expected]


async def test_heartbeats(layer: Layer) -> None:
    """Comments are sent whenever there was no event for a while."""

    class Steady(News):
        heartbeat = SOON

    async with HttpCommunicator(Steady, "GET", "/") as page:
        for _ in range(4):
            assert await page.receive_body() == b":\n\n"
        await layer.group_send("news", {"type": "news", "data": "text"})
        parts = [await page.receive_body()]
        while parts[-1] == b":\n\n":
            parts.append(await page.receive_body())
        assert parts[-1] == b"data: text\n\n"
        assert await page.receive_body() == b":\n\n"


@pytest.mark.parametrize("heartbeat", [None, 3600])
async def test_no_heartbeats(layer: Layer, heartbeat: float | None) -> None:
    """They can be switched off, and do not come too early."""

    class Quiet(News):
        pass

    Quiet.heartbeat = heartbeat
    async with HttpCommunicator(Quiet, "GET", "/") as page:
        assert await page.receive_body() == b":\n\n"
        assert await page.receive_nothing()


async def test_heartbeats_do_not_overlap_with_handlers(layer: Layer) -> None:
    """No comment is sent while a handler runs."""
    begun, release = asyncio.Event(), asyncio.Event()

    class Slow(News):
        heartbeat = SOON

        @override
        async def news(self, message: Mapping[str, Any]) -> None:
            begun.set()
            await release.wait()
            await super().news(message)

    async with HttpCommunicator(Slow, "GET", "/") as page:
        parts = [await page.receive_body()]
        await layer.group_send("news", {"type": "news", "data": "text"})
        await begun.wait()
        await asyncio.sleep(5 * SOON)
        release.set()
        while parts[-1] == b":\n\n":
            parts.append(await page.receive_body())
    # One for the beginning, and few until the handler began.
    assert len(parts) < 5
    assert parts[-1] == b"data: text\n\n"


async def test_shutdown(layer: Layer) -> None:
    """The stream is completed, so that the browser reconnects."""
    async with HttpCommunicator(News, "GET", "/") as page:
        assert await page.receive_body() == b":\n\n"
        await close_consumers()
        assert await page.receive_body() == b""
        await page.wait()
    assert not members(layer, "news")


async def test_client_that_leaves(layer: Layer) -> None:
    """The consumer ends, and leaves its groups; a later event ends the handler."""
    events: list[str] = []

    class Busy(News):
        @override
        async def handle(self, body: bytes) -> None:
            try:
                while True:
                    await self.send_event("tick")
            finally:
                events.append("ended")

        @override
        async def disconnect(self) -> None:
            events.append("disconnect")

    async with HttpCommunicator(Busy, "GET", "/") as page:
        assert await page.receive_body() == b":\n\n"
        assert await page.receive_body() == b"data: tick\n\n"
    assert events == ["ended", "disconnect"]
    assert not members(layer, "news")
