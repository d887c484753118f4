"""Consumers for HTTP: requests, whole and streamed responses, and their end."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

import pytest

from fast_channels.consumer import AsyncHttpConsumer
from fast_channels.exceptions import InvalidChannelLayerError, StopConsumer
from fast_channels.layers import InMemoryChannelLayer, register_channel_layer
from fast_channels.type_defs import ChannelMessage, HttpRequestEvent
from tests.waiting import until

from .fakes import Boom, FakeServer, Layer, QueueLayer, logged, members

Answer: TypeAlias = Callable[["Page"], Awaitable[None]]

DISCONNECT: dict[str, Any] = {"type": "http.disconnect"}
REQUEST: dict[str, Any] = {"type": "http.request"}


class Page(AsyncHttpConsumer):
    """Answers with a given function, and records what happens."""

    def __init__(self, answer: Answer | None = None) -> None:
        super().__init__()
        self.answer: Answer = answer or hello
        self.events: list[object] = []

    async def handle(self, body: bytes) -> None:
        self.events.append(body)
        try:
            await self.answer(self)
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        self.events.append("answered")

    async def disconnect(self) -> None:
        self.events.append("disconnect")

    async def news(self, message: Mapping[str, Any]) -> None:
        """Send a part of the response; an empty text means that it never ends."""
        self.events.append(message["text"])
        if message["text"] == "hang":
            await asyncio.Event().wait()
        await self.send_body(message["text"].encode(), more_body=message["text"] != "!")


class Feed(Page):
    """A page with a layer, in a group."""

    channel_layer_alias = "default"

    async def handle(self, body: bytes) -> None:
        await self.channel_layer.group_add("feed", self.channel_name)
        await super().handle(body)


async def hello(page: Page) -> None:
    await page.send_response(200, b"hello")


async def begin(page: Page) -> None:
    """Leave the response open."""
    await page.send_headers()
    await page.send_body(b"", more_body=True)


async def hang(page: Page) -> None:
    """Never complete the response."""
    await begin(page)
    await asyncio.Event().wait()


async def follow(page: Page) -> None:
    """Receive messages, and send them to the client."""
    await begin(page)
    message: Mapping[str, Any] = {}
    while message.get("text") != "!":
        message = await page.channel_receive()
        await page.dispatch(message)


def serve(page: Page, *events: dict[str, Any], **scope: Any) -> FakeServer:
    """Serve a request whose server returns these events."""
    server = FakeServer(page, {"type": "http", "headers": [], **scope})
    server.put(*events)
    # When sending fails, the test itself sends a disconnect if it needs one.
    server.silent = True
    return server


def body_of(server: FakeServer) -> bytes:
    return b"".join(event.get("body", b"") for event in server.sent)


def statuses(server: FakeServer) -> list[int]:
    return [event["status"] for event in server.sent if "status" in event]


def assert_released(layer: Layer) -> None:
    """Assert that consumers have left nothing in a layer."""
    if isinstance(layer, InMemoryChannelLayer):
        assert members(layer) == set()
        assert layer.channels == {}


# Requests and responses


@pytest.mark.parametrize(
    ("parts", "body"),
    [([None], b""), ([b"all"], b"all"), ([b"o", None, b"k"], b"ok")],
)
async def test_whole_body_is_handled_once(
    parts: list[bytes | None], body: bytes
) -> None:
    """handle() gets the whole body, and disconnect() follows."""
    events = [REQUEST | ({} if part is None else {"body": part}) for part in parts]
    for event in events[:-1]:
        event["more_body"] = True
    page = Page()
    server = serve(page, *events)
    assert await server.end() is None
    assert page.events == [body, "answered", "disconnect"]
    assert server.sent == [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"hello", "more_body": False},
    ]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-a", b"\xe9"), (b"x-b", b"2")],
        [["x-a", "é"], ("x-b", b"2")],
        {b"x-a": b"\xe9", b"x-b": b"2"},
        {"x-a": "é", "x-b": "2"},
    ],
)
async def test_headers_are_pairs_or_a_dict(headers: Any) -> None:
    """Names and values are bytes, or str that are encoded as in HTTP."""

    async def answer(page: Page) -> None:
        await page.send_response(404, b"no", headers=headers)

    server = serve(Page(answer), REQUEST)
    assert await server.end() is None
    assert server.sent[0]["status"] == 404
    assert server.sent[0]["headers"] == [(b"x-a", b"\xe9"), (b"x-b", b"2")]
    assert server.sent[1]["body"] == b"no"


async def test_instance_can_be_used_without_a_server() -> None:
    """To test a method of a consumer, replace only base_send."""
    page, sent = Page(), list[ChannelMessage]()

    async def send(event: ChannelMessage) -> None:
        sent.append(event)

    page.base_send = send
    await hello(page)
    assert len(sent) == 2


async def body_first(page: Page) -> None:
    await page.send_body(b"hello")


async def headers_twice(page: Page) -> None:
    await page.send_headers()
    await page.send_headers(status=404)


async def body_afterwards(page: Page) -> None:
    await hello(page)
    await page.send_body(b"!")


async def wrong_header(page: Page) -> None:
    await page.send_headers(headers={"content-length": 5})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the subject of the test


async def wrong_body(page: Page) -> None:
    await page.send_response(200, "hello")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the subject of the test


async def nothing(page: Page) -> None:
    """Send no response."""


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (body_first, RuntimeError, r"body before the headers: call send_headers\(\)"),
        (headers_twice, RuntimeError, r"status 404: the headers .* were sent already"),
        (body_afterwards, RuntimeError, r"is complete; send_body\(\) needs more_body="),
        (wrong_header, TypeError, r"headers must be bytes or str, not 5"),
        (wrong_body, AssertionError, r"must be bytes, not 'hello'; encode it"),
        (nothing, RuntimeError, r"Page.handle\(\) sent no response: send .*is None"),
        (begin, RuntimeError, r"Page.handle\(\) left its response open: send .*"),
        (AsyncHttpConsumer.handle, NotImplementedError, r"Page .* implement handle"),
    ],
)
async def test_mistakes_reach_the_server(
    answer: Any, error: type[Exception], message: str
) -> None:
    """A mistake in handle() raises an error that explains it, for the server to log."""
    page = Page(lambda page: answer(page, *[b""] * (answer.__name__ == "handle")))
    outcome = await serve(page, REQUEST).end()
    with pytest.raises(error, match=message):
        raise outcome or StopConsumer
    assert page.events.count("disconnect") == 1


async def test_only_http_is_served() -> None:
    """In a route of another protocol, the error says where the consumer belongs."""
    outcome = await serve(Page(), type="websocket").end()
    with pytest.raises(ValueError, match=r"Page serves HTTP .* scope of type 'websoc"):
        raise outcome or StopConsumer


@pytest.mark.parametrize(
    "events",
    [
        [{"type": "http.response.pathsend", "path": "/srv/film"}],
        [{"type": "http.response.zerocopysend", "file": 3, "more_body": False}],
        [
            {"type": "http.response.body", "body": b"hello"},
            {"type": "http.response.trailers", "headers": [], "more_trailers": True},
            {"type": "http.response.trailers", "headers": []},
        ],
    ],
)
async def test_response_with_an_extension(events: list[dict[str, Any]]) -> None:
    """send() accepts the events of a server's extensions."""

    async def answer(page: Page) -> None:
        await page.send({"type": "http.response.debug", "info": {}})
        start = {"type": "http.response.start", "status": 200}
        await page.send(start | {"trailers": len(events) > 1})
        for event in events:
            await page.send(event)

    server = serve(Page(answer), REQUEST)
    assert await server.end() is None
    assert server.sent[2:] == events


# Limits on the body


@pytest.mark.parametrize(
    ("declared", "events", "received"),
    [
        (b"11", [], 0),
        (b"5", [REQUEST | {"body": b"12345678901"}], 1),
        (b"many", [REQUEST | {"body": b"123456", "more_body": True}] * 2, 2),
    ],
)
async def test_too_large_body(
    declared: bytes, events: list[dict[str, Any]], received: int
) -> None:
    """A body is refused with status 413 as soon as it exceeds the limit."""
    page = Page()
    page.max_body_size = 10
    headers = [(b"host", b"here"), (b"content-length", declared)]
    server = serve(page, *events, headers=headers)
    assert await server.end() is None
    assert len(server.received) == received
    assert statuses(server) == [413]
    assert body_of(server) == b"The body of the request is larger than 10 bytes."
    assert page.events == ["disconnect"]


async def test_body_of_the_largest_size() -> None:
    """A body of exactly the largest size is handled."""
    page = Page()
    page.max_body_size = 10
    request = REQUEST | {"body": b"1234567890"}
    server = serve(page, request, headers=[(b"content-length", b"10")])
    assert await server.end() is None
    assert page.events[0] == b"1234567890"


# Clients that go away


async def test_body_that_ends_early() -> None:
    """An incomplete request is not handled, and is not an error."""
    page = Page()
    server = serve(page, REQUEST | {"body": b"1", "more_body": True}, DISCONNECT)
    assert await server.end() is None
    assert page.events == ["disconnect"]
    assert server.sent == []


who: ContextVar[str] = ContextVar("who", default="nobody")


async def test_client_that_leaves_ends_handle() -> None:
    """handle() is cancelled at its await, and its task and context are kept."""
    told: list[object] = []

    async def introduce(page: Page) -> None:
        who.set("somebody")
        await hang(page)

    class Introduced(Page):
        async def disconnect(self) -> None:
            task = asyncio.current_task()
            assert task is not None
            told.extend((task.cancelling(), who.get()))
            await asyncio.sleep(0)
            await super().disconnect()

    page = Introduced(introduce)
    server = serve(page, REQUEST)
    await until(lambda: len(server.sent) == 2)
    # A server has no other event to send after the request.
    server.put(REQUEST, DISCONNECT)
    assert await server.end() is None
    assert page.events == [b"", "cancelled", "disconnect"]
    assert told == [0, "somebody"]


@pytest.mark.parametrize("leaves", [True, False])
async def test_cancellation_is_never_lost(leaves: bool) -> None:
    """A server's cancellation is raised even if the client leaves at the same time."""
    page = Page(hang)
    server = serve(page, REQUEST)
    await until(lambda: len(server.sent) == 2)
    if leaves:
        server.put(DISCONNECT)
        await until(server.task.cancelling)
    server.task.cancel()
    assert isinstance(await server.end(), asyncio.CancelledError)
    assert page.events == [b"", "cancelled", "disconnect"]


async def test_sending_to_a_client_that_left() -> None:
    """An OSError from the server ends the handler, every time that it sends again."""

    async def keep_sending(page: Page) -> None:
        await begin(page)
        server.gone = True
        try:
            await page.send_body(b"1", more_body=True)
        finally:
            server.gone = False
            server.put(DISCONNECT)
            await asyncio.sleep(0)
            await page.send_body(b"2", more_body=True)

    page = Page(keep_sending)
    server = serve(page, REQUEST)
    assert await server.end() is None
    assert page.events == [b"", "disconnect"]
    assert body_of(server) == b""


@pytest.mark.parametrize("goes_on", ["sending", "returning"])
async def test_handle_that_suppresses_its_cancellation(goes_on: str) -> None:
    """A handle() that catches the cancellation cannot send, but runs to its end."""

    async def resist(page: Page) -> None:
        try:
            await hang(page)
        except asyncio.CancelledError:
            if goes_on == "sending":
                await page.send_body(b"still there?", more_body=True)

    page = Page(resist)
    server = serve(page, REQUEST)
    await until(lambda: len(server.sent) == 2)
    server.put(DISCONNECT)
    assert await server.end() is None
    assert page.events[-1] == "disconnect"
    assert len(server.sent) == 2
    assert server.task.cancelling() == 0


async def test_work_after_the_response_is_not_cancelled() -> None:
    """After a complete response, handle() continues although the client has left."""
    received = asyncio.Event()

    async def tidy_up(page: Page) -> None:
        await hello(page)
        server.put(DISCONNECT)
        await until(lambda: server.received == ["http.request", "http.disconnect"])
        await asyncio.sleep(0)
        received.set()

    page = Page(tidy_up)
    server = serve(page, REQUEST)
    assert await server.end() is None
    assert received.is_set()
    assert page.events == [b"", "answered", "disconnect"]


async def test_stream_that_never_waits() -> None:
    """A handler that only sends is cancelled when the client leaves."""

    async def send(event: ChannelMessage) -> None:
        sent.append(event)

    async def stream(page: Page) -> None:
        page.base_send = send
        await page.send_headers()
        while len(sent) < 1000:
            await page.send_body(b"1", more_body=True)
            if len(sent) == 10:
                server.put(DISCONNECT)

    sent: list[ChannelMessage] = []
    page = Page(stream)
    server = serve(page, REQUEST)
    assert await server.end() is None
    assert page.events == [b"", "cancelled", "disconnect"]
    assert len(sent) < 20


# Errors


async def test_exception_reaches_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in handle() reaches the server, whatever disconnect() raises."""

    async def fail(page: Page) -> None:
        raise Boom("handle")

    class Doomed(Page):
        async def disconnect(self) -> None:
            await super().disconnect()
            raise Boom("disconnect")

    page = Doomed(fail)
    outcome = await serve(page, REQUEST).end()
    assert isinstance(outcome, Boom)
    assert outcome.args == ("handle",)
    assert page.events == [b"", "disconnect"]
    assert any(message.endswith("could not disconnect") for message in logged(caplog))


async def test_exception_while_the_client_leaves() -> None:
    """An exception that handle() raises when it is cancelled reaches the server."""

    async def fail(page: Page) -> None:
        try:
            await hang(page)
        finally:
            raise Boom("cleaning up")

    page = Page(fail)
    server = serve(page, REQUEST)
    await until(lambda: len(server.sent) == 2)
    server.put(DISCONNECT)
    assert isinstance(await server.end(), Boom)
    assert page.events == [b"", "disconnect"]
    assert server.task.cancelling() == 0


# With a layer


@pytest.mark.parametrize("answer", [begin, follow, nothing])
async def test_messages_complete_the_response(layer: Layer, answer: Answer) -> None:
    """Each message is received in handle() or dispatched after it, once."""
    feed = Feed(answer)
    server = serve(feed, REQUEST)
    await until(lambda: members(layer, "feed"))
    if answer is nothing:
        await until(lambda: "answered" in feed.events)
        await feed.send_headers()
    # Messages after the end are ignored.
    for text in ["1", "2", "3", "!", "too late"]:
        await layer.group_send("feed", {"type": "news", "text": text})
    assert await server.end() is None
    assert body_of(server) == b"123!"
    assert feed.events[-1] == "disconnect"
    assert_released(layer)


@pytest.mark.parametrize("busy", [True, False])
async def test_client_that_leaves_an_open_response(layer: Layer, busy: bool) -> None:
    """The consumer ends, whether it is waiting for messages or handling one."""
    feed = Feed(begin)
    server = serve(feed, REQUEST)
    await until(lambda: "answered" in feed.events)
    if busy:
        await layer.group_send("feed", {"type": "news", "text": "hang"})
        await until(lambda: "hang" in feed.events)
    server.put(DISCONNECT)
    assert await server.end() is None
    assert feed.events == [b"", "answered", *["hang"] * busy, "disconnect"]
    assert_released(layer)


async def test_no_handler_begins_when_the_client_is_gone(layer: Layer) -> None:
    """Messages that are waiting when the client leaves are not handled."""

    class Stubborn(Feed):
        async def news(self, message: Mapping[str, Any]) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await super().news(message)

    feed = Stubborn(begin)
    server = serve(feed, REQUEST)
    await until(lambda: "answered" in feed.events)
    for text in ["hang", "never handled"]:
        await layer.group_send("feed", {"type": "news", "text": text})
    await until(lambda: "hang" in feed.events)
    server.put(DISCONNECT)
    assert await server.end() is None
    assert feed.events == [b"", "answered", "hang", "disconnect"]


async def cancel_after(turns: int, feed: Feed) -> bool:
    """Cancel a request after some turns of the event loop; return if it was running."""
    server = serve(feed, REQUEST | {"body": b"1", "more_body": True}, REQUEST)
    for turn in range(turns):
        await asyncio.sleep(0)
        if turn == 25:
            server.put(DISCONNECT)
    in_time = server.task.cancel()
    assert isinstance(await server.end(), asyncio.CancelledError) is in_time
    # The request may have been cancelled before it began.
    assert feed.events.count("disconnect") == (turns > 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return in_time


@pytest.mark.parametrize("answer", [begin, follow])
async def test_cancelled_at_every_step(layer: Layer, answer: Answer) -> None:
    """A request cancelled at any step calls disconnect() and leaves nothing behind."""
    turns = 0
    while await cancel_after(turns, Feed(answer)):
        assert_released(layer)
        turns += 1
    assert turns > 25


@pytest.mark.parametrize("layer_type", [InMemoryChannelLayer, QueueLayer, None])
async def test_http_request_can_be_overridden(layer_type: type[Layer] | None) -> None:
    """An override gets each part of the body, and can leave the response open."""

    class Upload(Page):
        channel_layer_alias = "default" if layer_type else None

        async def http_request(self, message: HttpRequestEvent) -> None:
            self.events.append(message.get("body"))
            if not message.get("more_body"):
                await begin(self)

        async def http_disconnect(self, message: Any) -> None:
            # It doesn't have to raise StopConsumer.
            self.events.append("left")

    if layer_type is not None:
        register_channel_layer("default", layer_type())
    page = Upload()
    server = serve(page, REQUEST | {"body": b"1", "more_body": True}, REQUEST)
    await until(lambda: len(server.sent) == 2)
    server.put(DISCONNECT)
    assert await server.end() is None
    assert page.events == [b"1", None, "left", "disconnect"]


async def test_instance_serves_one_request() -> None:
    """An instance is itself an application, for one request."""
    page = Page()
    assert await serve(page, REQUEST | {"body": b"1"}).end() is None
    outcome = await serve(page, REQUEST | {"body": b"2"}).end()
    assert isinstance(outcome, RuntimeError)
    assert "write Page.as_asgi()" in str(outcome)
    assert page.events == [b"1", "answered", "disconnect"]


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((200, "hello"), AssertionError, "must be bytes, not 'hello'"),
        (("200", b"hello"), TypeError, "a status must be an int, not '200'"),
    ],
)
async def test_nothing_is_sent_of_an_invalid_response(
    arguments: Any, error: type[Exception], message: str
) -> None:
    """An invalid response is refused before its headers are sent."""

    async def answer(page: Page) -> None:
        await page.send_response(*arguments)

    server = serve(Page(answer), REQUEST)
    outcome = await server.end()
    with pytest.raises(error, match=message):
        raise outcome or StopConsumer
    assert server.sent == []


@pytest.mark.parametrize("started", [False, True])
async def test_returned_value_is_not_a_response(
    any_layer: Layer | None, *, started: bool
) -> None:
    """If handle() returns a value instead of sending it, the error says what to do."""

    class Returning(Page):
        channel_layer_alias = None if any_layer is None else "default"

        async def handle(self, body: bytes) -> Any:
            if started:
                await begin(self)
            return {"hello": "world"}

    outcome = await serve(Returning(), REQUEST).end()
    assert isinstance(outcome, RuntimeError)
    did = "left its response open" if started else "sent no response"
    assert f"Returning.handle() {did} and returned {{'hello': 'world'}}" in str(outcome)
    assert "send a response with send_response()" in str(outcome)


async def test_returned_value_after_the_response() -> None:
    """The value that handle() returns after a whole response is ignored."""

    class Returning(Page):
        async def handle(self, body: bytes) -> Any:
            await hello(self)
            return "done"

    server = serve(Returning(), REQUEST)
    assert await server.end() is None
    assert body_of(server) == b"hello"


# Groups


async def test_groups_are_joined_and_left(layer: Layer) -> None:
    """The groups of the class are joined before handle(), and left at the end."""
    seen: list[Any] = []

    class Grouped(Page):
        channel_layer_alias = "default"
        groups = ["feed"]

        async def handle(self, body: bytes) -> None:
            await self.join_group("more")
            seen.append([members(layer, group) for group in ("feed", "more")])
            await begin(self)

        async def disconnect(self) -> None:
            seen.append(members(layer))

    page = Grouped()
    async with serve(page, REQUEST) as server:
        await until(lambda: seen)
        for text in "hello", "!":
            await layer.group_send("feed", {"type": "news", "text": text})
        assert await server.end() is None
    channel = {page.channel_name}
    assert seen == [[channel, channel], set()]
    assert body_of(server) == b"hello!"


async def test_groups_without_a_layer() -> None:
    """A request to a consumer that has groups but no layer fails, and says why."""

    class Groupie(Page):
        groups = ["feed"]

    outcome = await serve(Groupie(), REQUEST).end()
    assert isinstance(outcome, InvalidChannelLayerError)
    assert "Groupie cannot join its groups ['feed']" in str(outcome)


# A request that is replayed


@pytest.mark.parametrize("leaves", [False, True])
async def test_request_is_replayed_forever(
    any_layer: Layer | None, *, leaves: bool
) -> None:
    """A receive() that never waits blocks nothing, and its client can still leave."""
    gone = asyncio.Event()

    class Waiting(Page):
        channel_layer_alias = None if any_layer is None else "default"

    async def answer(page: Page) -> None:
        await begin(page)
        # Other tasks run meanwhile.
        for _ in range(100):
            await asyncio.sleep(0)
        gone.set()
        if leaves:
            await asyncio.Event().wait()
        await page.send_body(b"!")

    async def receive() -> dict[str, Any]:
        return DISCONNECT if leaves and gone.is_set() else REQUEST

    async def send(event: ChannelMessage) -> None:
        pass

    page = Waiting(answer)
    async with asyncio.timeout(5):
        await page({"type": "http", "headers": []}, receive, send)
    assert page.events == [b"", "cancelled" if leaves else "answered", "disconnect"]
