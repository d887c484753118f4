"""The response of endpoints: from its first event to the end of its iterator."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from starlette.background import BackgroundTask

from fast_channels.layers import InMemoryChannelLayer
from fast_channels.lifespan import close_consumers
from fast_channels.sse import EventStreamResponse, ServerSentEvent
from fast_channels.testing import HttpCommunicator
from tests.waiting import until

# Seconds: longer than a test can take, and short.
NEVER, SOON = 3600, 0.01


class Source:
    """A generator of events that records how it ends."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.end = ""

    async def __call__(self) -> AsyncGenerator[Any]:
        self.end = "runs"
        try:
            while (event := await self.events.get()) is not None:
                if isinstance(event, Exception):
                    self.fail(event)
                yield event
            self.end = "returned"
        except BaseException as exc:
            self.end = type(exc).__name__
            raise

    def fail(self, error: Exception) -> None:
        raise error


@pytest.fixture
def source() -> Source:
    return Source()


def request(
    source: Source, heartbeat: float | None = None, **options: Any
) -> HttpCommunicator:
    response = EventStreamResponse(source(), heartbeat=heartbeat, **options)
    return HttpCommunicator(response, "GET", "/")


async def test_events(source: Source) -> None:
    """The response has the headers of a stream, a first comment, and the events."""
    ended = asyncio.Event()

    async def end() -> None:
        ended.set()

    headers = {"x-more": "1", "cache-control": "no-cache"}
    background = BackgroundTask(end)
    page = request(source, headers=headers, background=background)
    for event in ("text", {"a": 1}, ServerSentEvent("b", id="7"), None):
        source.events.put_nowait(event)
    response = await page.get_response()
    assert response["status"] == 200
    assert dict(response["headers"]) == {
        b"content-type": b"text/event-stream",
        b"cache-control": b"no-cache",
        b"x-accel-buffering": b"no",
        b"x-more": b"1",
    }
    body = b':\n\ndata: text\n\ndata: {"a":1}\n\nid: 7\ndata: b\n\n'
    assert response["body"] == body
    await page.wait()
    assert ended.is_set()
    assert source.end == "returned"


async def test_head(source: Source) -> None:
    """A request for the headers alone gets no events."""
    page = HttpCommunicator(EventStreamResponse(source()), "HEAD", "/")
    response = await page.get_response()
    assert response["body"] == b""
    assert dict(response["headers"])[b"content-type"] == b"text/event-stream"
    assert source.end == ""


async def test_heartbeat(source: Source) -> None:
    """Comments are sent while there are no events, and only then."""
    async with request(source, heartbeat=SOON) as page:
        for _ in range(4):
            assert await page.receive_body() == b":\n\n"
    async with request(source, heartbeat=NEVER) as page:
        assert await page.receive_body() == b":\n\n"
        source.events.put_nowait("late")
        assert await page.receive_body() == b"data: late\n\n"
        assert await page.receive_nothing()


async def test_heartbeats_wait_for_a_client_that_does_not_keep_up() -> None:
    """A heartbeat never overlaps with an event, nor joins a queue of parts."""
    parts: list[bytes] = []
    full = asyncio.Event()

    async def events() -> AsyncIterator[str]:
        yield "first"
        await asyncio.Event().wait()

    async def send(event: Any) -> None:
        if event["type"] == "http.response.body":
            parts.append(event["body"])
            if parts[-1] == b"data: first\n\n":
                await asyncio.sleep(10 * SOON)
                assert parts[-1] == b"data: first\n\n"
                full.set()

    response = EventStreamResponse(events(), heartbeat=SOON)
    serving = asyncio.create_task(
        response({"type": "http"}, asyncio.Event().wait, send)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # never answers
    )
    await full.wait()
    await until(lambda: parts[-1] == b":\n\n", pause=SOON)
    serving.cancel()
    await asyncio.wait([serving])


async def test_client_that_leaves_ends_the_iterator(source: Source) -> None:
    """A client that goes away cancels the iterator where it waits."""
    async with request(source) as page:
        await page.receive_body()
        await until(lambda: source.end)
    assert source.end == "CancelledError"


@pytest.mark.parametrize("error", [OSError("gone"), ConnectionResetError()])
async def test_server_that_reports_the_client_as_gone(
    source: Source, error: OSError
) -> None:
    """A send that fails since the client is gone closes the iterator, silently."""

    async def send(event: Any) -> None:
        if event.get("body", b"").startswith(b"data"):
            raise error

    source.events.put_nowait("lost")
    await EventStreamResponse(source())({"type": "http"}, receive_request, send)
    assert source.end == "GeneratorExit"


async def receive_request() -> dict[str, Any]:
    """Return the body of a request, again and again, as some middleware does."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def test_iterator_that_fails(source: Source) -> None:
    """The server gets the exception, and the response stays incomplete."""
    source.events.put_nowait(LookupError("no such room"))
    page = request(source)
    assert await page.receive_body() == b":\n\n"
    with pytest.raises(LookupError, match="no such room"):
        await page.receive_body()


async def test_error_of_the_iterator_is_not_taken_for_a_client_that_left(
    source: Source,
) -> None:
    """An OSError of the iterator itself reaches the server."""
    source.events.put_nowait(ConnectionError("no database"))
    with pytest.raises(ConnectionError, match="no database"):
        await request(source).get_response()


async def test_cancelling_ends_the_iterator(source: Source) -> None:
    """A server that cancels the request ends its iterator before it goes on."""
    response = EventStreamResponse(source())
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    serving = asyncio.create_task(response({"type": "http"}, receive_request, send))
    await until(lambda: source.end)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert source.end == "CancelledError"
    assert sent[-1]["more_body"]


async def test_shutdown_ends_a_loop_over_messages() -> None:
    """A loop over messages ends by itself, and can still send an event."""
    layer = InMemoryChannelLayer()

    async def events() -> AsyncIterator[str]:
        async with layer.listen("news") as messages:
            async for message in messages:
                yield message["text"]
        yield "bye"

    async with HttpCommunicator(EventStreamResponse(events()), "GET", "/") as page:
        assert await page.receive_body() == b":\n\n"
        await until(lambda: layer.groups)
        await layer.group_send("news", {"type": "news", "text": "hello"})
        assert await page.receive_body() == b"data: hello\n\n"
        await close_consumers()
        assert await page.receive_body() == b"data: bye\n\n"
        assert await page.receive_body() == b""
        await page.wait()
    assert layer.groups == {}


async def test_shutdown_cancels_any_other_iterator(source: Source) -> None:
    """An iterator that waits for something else is cancelled after a moment."""
    async with request(source) as page:
        assert await page.receive_body() == b":\n\n"
        await until(lambda: source.end)
        await close_consumers()
        assert await page.receive_body() == b""
        await page.wait()
    assert source.end == "CancelledError"


async def test_shutdown_does_not_wait_for_a_client_that_reads_nothing(
    source: Source,
) -> None:
    """A client whose buffers are full does not delay the shutdown."""
    full = asyncio.Event()

    async def send(event: Any) -> None:
        if event["type"] == "http.response.body":
            full.set()
            await asyncio.Event().wait()

    response = EventStreamResponse(source())
    serving = asyncio.create_task(response({"type": "http"}, receive_request, send))
    await full.wait()
    await close_consumers()
    async with asyncio.timeout(5):
        await serving


async def test_iterator_without_aclose() -> None:
    """Any asynchronous iterator is accepted, and nothing else."""

    class Once:
        def __init__(self) -> None:
            self.left = ["only"]

        def __aiter__(self) -> "Once":
            return self

        async def __anext__(self) -> str:
            with contextlib.suppress(IndexError):
                return self.left.pop()
            raise StopAsyncIteration

    page = HttpCommunicator(EventStreamResponse(Once()), "GET", "/")
    assert (await page.get_response())["body"] == b":\n\ndata: only\n\n"
    with pytest.raises(TypeError, match="must be an asynchronous iterator"):
        EventStreamResponse(["text"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
