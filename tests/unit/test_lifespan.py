"""The lifespan of an application: layers, consumers and signals at shutdown."""

import asyncio
import contextlib
import multiprocessing
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, MutableMapping
from types import FrameType, ModuleType
from typing import Any

import pytest

from fast_channels.consumer import (
    AsyncConsumer,
    AsyncHttpConsumer,
    AsyncWebsocketConsumer,
)
from fast_channels.layers import (
    BaseChannelLayer,
    channel_layers,
    register_channel_layer,
)
from fast_channels.lifespan import channels_lifespan, close_consumers
from fast_channels.testing import (
    ApplicationCommunicator,
    HttpCommunicator,
    WebsocketCommunicator,
)

# Seconds: enough for consumers that end, and short for those that do not.
TIMEOUT = 0.2
CLOSE = {"type": "websocket.close", "code": 1012}


class ClosingLayer(BaseChannelLayer):
    """Records that it is closed, or fails to close."""

    def __init__(self, events: list[str], error: Exception | None = None) -> None:
        super().__init__()
        self.events = events
        self.error = error

    async def close(self) -> None:
        self.events.append("closed")
        if self.error is not None:
            raise self.error


class Client(WebsocketCommunicator):
    """Answers a close with its own code, as some servers do."""

    async def connected(self) -> None:
        assert (await self.connect())[0]

    async def answer_close(self) -> None:
        assert await self.receive_output() == CLOSE
        await self.send_input({"type": "websocket.disconnect", "code": 1000})


class Guest(AsyncWebsocketConsumer):
    """Records how it ended."""

    def __init__(self, *codes: int) -> None:
        super().__init__()
        self.codes = list(codes)
        self.busy = asyncio.Event()
        self.go_on = asyncio.Event()

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        self.busy.set()
        await self.go_on.wait()
        # A close has been sent to the client, so this is dropped.
        await self.send("late")

    async def disconnect(self, code: int) -> None:
        self.codes.append(code)


# Lifespans


async def test_lifespan_without_one_of_your_own() -> None:
    """The default lifespan yields no state, and closes each layer once."""
    events: list[str] = []
    layer = ClosingLayer(events)
    register_channel_layer("default", layer)
    register_channel_layer("again", layer)
    async with channels_lifespan()("the application") as state:
        assert state is None
        assert events == []
    assert events == ["closed"]
    # The layers can be used again, as when tests start an application twice.
    assert list(channel_layers) == ["default", "again"]


async def test_lifespan_around_your_own() -> None:
    """Your startup can register layers, and your shutdown can send through them."""
    events: list[str] = []

    @channels_lifespan
    @contextlib.asynccontextmanager
    async def lifespan(app: str) -> AsyncGenerator[dict[str, str]]:
        register_channel_layer("default", ClosingLayer(events))
        events.append("startup")
        yield {"app": app}
        assert guest.codes == [1012]
        events.append("shutdown")

    guest = Guest()
    async with Client(guest, "/") as client:
        async with lifespan("the application") as state:
            assert state == {"app": "the application"}
            await client.connected()
            answer = asyncio.create_task(client.answer_close())
        await answer
        await client.wait()
    assert events == ["startup", "shutdown", "closed"]


@pytest.mark.parametrize("when", ["startup", "shutdown"])
async def test_error_of_your_own_lifespan(when: str) -> None:
    """An error in your startup or shutdown is raised, and the layers are closed."""
    events: list[str] = []
    register_channel_layer("default", ClosingLayer(events))

    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncGenerator[None]:
        if when == "startup":
            raise OSError(when)
        yield
        raise OSError(when)

    with pytest.raises(OSError, match=when):
        async with channels_lifespan(lifespan)(None):
            events.append("serving")
    assert events == (["closed"] if when == "startup" else ["serving", "closed"])


async def test_layer_that_cannot_be_closed(caplog: pytest.LogCaptureFixture) -> None:
    """An error in closing a layer is logged with its alias; the others are closed."""
    events: list[str] = []
    register_channel_layer("bad", ClosingLayer(events, OSError("no")))
    register_channel_layer("good", ClosingLayer(events))
    async with channels_lifespan()(None):
        pass
    assert events == ["closed", "closed"]
    assert caplog.messages == ["the layer with alias 'bad' could not be closed"]


async def generator(app: object) -> AsyncGenerator[None]:
    yield


def application(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application, which is not a lifespan."""


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (application, r", not <function application .*lifespan=channels_lifespan\(\)"),
        ("lifespan", r", not 'lifespan'; "),
        (generator, r"with contextlib\.asynccontextmanager"),
    ],
)
def test_what_is_not_a_lifespan(given: Any, error: str) -> None:
    """An object that cannot be called with an application is refused at once."""
    with pytest.raises(TypeError, match=error):
        channels_lifespan(given)


def test_lifespan_without_a_signature() -> None:
    """A callable without a known signature is accepted unchecked."""
    lifespan: Any = type
    channels_lifespan(lifespan)


# How consumers end


async def test_consumers_end_when_their_handler_does() -> None:
    """A busy consumer finishes its handler; then disconnect(1012) is called, once."""
    guest = Guest()
    async with Client(guest, "/") as client:
        await client.connected()
        await client.send_to("work")
        await guest.busy.wait()
        closing = asyncio.create_task(close_consumers())
        await client.answer_close()
        assert guest.codes == []
        guest.go_on.set()
        await closing
        await client.wait()
        assert await client.receive_nothing(0)
    assert guest.codes == [1012]


async def test_silent_client() -> None:
    """If the client does not answer, the consumer is cancelled, without an error."""
    guest = Guest()
    async with Client(guest, "/") as client:
        await client.connected()
        await close_consumers(TIMEOUT)
        await client.wait()
    assert guest.codes == [1012]


async def test_unfinished_connect() -> None:
    """A connection that is not accepted yet is refused."""

    class Slow(Guest):
        async def connect(self) -> None:
            self.busy.set()
            await self.go_on.wait()
            await self.accept()

    slow = Slow()
    async with Client(slow, "/") as client:
        await client.send_input({"type": "websocket.connect"})
        await slow.busy.wait()
        closing = asyncio.create_task(close_consumers())
        await client.answer_close()
        slow.go_on.set()
        await closing
        await client.wait()
        assert await client.receive_nothing(0)
    assert slow.codes == [1012]


class Stubborn(Guest):
    """Waits in disconnect() until it has been cancelled a number of times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def disconnect(self, code: int) -> None:
        await super().disconnect(code)
        while self.times and not self.go_on.is_set():
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.times -= 1
        raise asyncio.CancelledError


@pytest.mark.parametrize("times", [1, 9])
async def test_disconnect_that_hangs(
    times: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A hanging disconnect() is cancelled; if that fails, it is logged and left."""
    stubborn = Stubborn(times)
    client = Client(stubborn, "/")
    await client.connected()
    await close_consumers(TIMEOUT)
    messages = list(caplog.messages)
    stubborn.go_on.set()
    await asyncio.wait([client.future])
    left = ["1 of 1 consumers did not end within 0.2 seconds: Stubborn (1)"]
    assert messages == (left if times == 9 else [])
    assert stubborn.codes == [1012]


async def test_many_that_hang(caplog: pytest.LogCaptureFixture) -> None:
    """Consumers that do not end are logged in one record, by class."""

    class Another(Stubborn):
        pass

    hanging = [Stubborn(9), Another(9), Another(9)]
    consumers = [*hanging, Guest()]
    clients = [Client(consumer, "/") for consumer in consumers]
    for client in clients:
        await client.connected()
    await close_consumers(TIMEOUT)
    messages = list(caplog.messages)
    for consumer in hanging:
        consumer.go_on.set()
    await asyncio.wait([client.future for client in clients])
    name = Another.__qualname__
    assert messages == [
        f"3 of 4 consumers did not end within 0.2 seconds: {name} (2), Stubborn (1)"
    ]


class Page(AsyncHttpConsumer):
    """Begins an endless response of a given type, or never begins one."""

    def __init__(self, content_type: str = "") -> None:
        super().__init__()
        self.content_type = content_type
        self.began = asyncio.Event()
        self.calls: list[str] = []

    async def handle(self, body: bytes) -> None:
        if self.content_type:
            headers = {"Content-Type": self.content_type, "x-page": "1"}
            await self.send_headers(headers=headers)
            await self.send_body(b"data: 1", more_body=True)
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.calls.append("cancelled")

    async def disconnect(self) -> None:
        self.calls.append("disconnect")


REQUEST = {"type": "http.request", "body": b""}
END = {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize(
    "content_type", ["text/event-stream", "Text/Event-Stream; a=b"]
)
async def test_event_stream(content_type: str) -> None:
    """An event stream is completed at once, and disconnect() is called."""
    page = Page(content_type)
    async with ApplicationCommunicator(page, {"type": "http"}) as communicator:
        await communicator.send_input(REQUEST)
        await page.began.wait()
        # Otherwise it would be cancelled after half an hour.
        await close_consumers(3600)
        await communicator.wait()
        sent = [await communicator.receive_output() for _ in range(3)]
        assert sent[2] == END
        assert await communicator.receive_nothing(0)
    assert page.calls == ["cancelled", "disconnect"]


async def test_download() -> None:
    """Any other response is left incomplete, so that its client notices."""
    page = Page("text/csv")
    async with ApplicationCommunicator(page, {"type": "http"}) as communicator:
        await communicator.send_input(REQUEST)
        await page.began.wait()
        await close_consumers(TIMEOUT)
        await communicator.wait()
        sent = [await communicator.receive_output() for _ in range(2)]
        assert sent[1]["more_body"]
        assert await communicator.receive_nothing(0)
    assert page.calls == ["cancelled", "disconnect"]


async def test_request_without_a_response() -> None:
    """A slow request is answered with 503 when its time is up."""
    page = Page()
    async with HttpCommunicator(page, "GET", "/") as communicator:
        response = asyncio.create_task(communicator.get_response(timeout=5))
        await page.began.wait()
        await close_consumers(TIMEOUT)
        assert (await response)["status"] == 503
        await communicator.wait()
    assert page.calls == ["cancelled", "disconnect"]


@pytest.mark.parametrize("hangs", [True, False])
async def test_end_of_a_response_that_cannot_be_sent(
    hangs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """disconnect() is called even if the end of the response cannot be sent."""
    page = Page("text/event-stream")
    events: list[dict[str, Any]] = [REQUEST]

    async def receive() -> dict[str, Any]:
        if not events:
            await asyncio.Event().wait()
        return events.pop()

    async def send(event: MutableMapping[str, Any]) -> None:
        if event == END:
            if hangs:
                await asyncio.Event().wait()
            raise RuntimeError("the connection is closed")

    serving = asyncio.ensure_future(page({"type": "http"}, receive, send))
    await page.began.wait()
    await close_consumers(TIMEOUT)
    await asyncio.wait([serving])
    assert serving.cancelled() is hangs
    assert page.calls == ["cancelled", "disconnect"]
    assert caplog.messages == []


async def test_consumer_without_a_websocket() -> None:
    """A consumer without a WebSocket gets time to end, and is then cancelled."""
    async with ApplicationCommunicator(AsyncConsumer, {"type": "http"}) as communicator:
        await communicator.send_input({"type": "http.nothing"})
        # This ends by itself: there is no such handler.
        closing = asyncio.create_task(close_consumers())
        with pytest.raises(ValueError, match=r"'http\.nothing'"):
            await communicator.wait()
        await closing
    async with ApplicationCommunicator(AsyncConsumer, {"type": "http"}) as communicator:
        assert not communicator.future.done()
        await asyncio.sleep(0)
        await close_consumers(TIMEOUT)
        await communicator.wait()


async def test_server_that_raises() -> None:
    """An exception from a server that refuses a close is ignored."""

    class Raw(AsyncConsumer):
        """Has no handler for websocket.disconnect."""

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(event: object) -> None:
        raise RuntimeError("the connection is closed")

    serving = asyncio.create_task(Raw()({"type": "websocket"}, receive, send))
    await asyncio.sleep(0)
    await close_consumers(TIMEOUT)
    await serving


async def test_cancellation_by_the_server_too() -> None:
    """If the server cancels a consumer too, the consumer ends as cancelled."""
    guest = Guest()
    client = Client(guest, "/")
    await client.connected()
    closing = asyncio.create_task(close_consumers())
    assert await client.receive_output() == CLOSE
    client.future.cancel()
    client.future.cancel()
    await closing
    await asyncio.wait([client.future])
    assert client.future.cancelled()
    assert guest.codes == [1012]


async def test_other_consumers_are_left_alone() -> None:
    """Consumers in other event loops continue, and so does the calling one."""
    codes: list[int] = []

    class Asking(Guest):
        async def connect(self) -> None:
            await self.accept()
            await close_consumers()
            self.go_on.set()

    def elsewhere() -> None:
        async def main() -> None:
            guest = Guest()
            async with Client(guest, "/") as client:
                await client.connected()
                connected.set()
                await asyncio.to_thread(over.wait)
                await client.disconnect(1001)
            codes.extend(guest.codes)

        asyncio.run(main())

    connected, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(connected.wait)
    asking = Asking()
    async with Client(asking, "/") as client:
        await client.connected()
        await asking.go_on.wait()
    over.set()
    await asyncio.to_thread(thread.join)
    assert asking.codes == [1000]
    assert codes == [1001]


# Signals to shut down


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """Handle SIGTERM as a server would."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


async def test_signal_ends_consumers(handled: list[int]) -> None:
    """A signal ends the consumers at once, and always reaches the server too."""
    own, interrupt = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    guest = Guest()
    async with Client(guest, "/") as client, channels_lifespan()(None):
        await client.connected()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        await client.answer_close()
        await client.wait()
        assert guest.codes == [1012]
    assert handled == [signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) is own
    assert signal.getsignal(signal.SIGINT) is interrupt


def test_handler_that_stays(handled: list[int]) -> None:
    """A signal handler that wraps the library's works after the application's end."""

    async def main() -> None:
        async with channels_lifespan()(None):
            ours: Any = signal.getsignal(signal.SIGTERM)

            def around(number: int, frame: FrameType | None) -> None:
                ours(number, frame)

            signal.signal(signal.SIGTERM, around)

    asyncio.run(main())
    signal.raise_signal(signal.SIGTERM)
    assert handled == [signal.SIGTERM]


def test_application_in_a_thread(handled: list[int]) -> None:
    """An application in a thread, as in test clients, gets no signals."""
    own = signal.getsignal(signal.SIGTERM)

    async def main() -> None:
        async with channels_lifespan()(None):
            assert signal.getsignal(signal.SIGTERM) is own

    thread = threading.Thread(target=asyncio.run, args=[main()])
    thread.start()
    thread.join()


@pytest.mark.parametrize("told", [True, False])
async def test_worker_of_hypercorn(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a worker process of hypercorn, its event ends the consumers."""
    event = threading.Event()
    arguments = {"config": None, "shutdown_event": event}
    monkeypatch.setitem(sys.modules, "hypercorn", ModuleType("hypercorn"))
    process = multiprocessing.current_process()
    monkeypatch.setattr(process, "_kwargs", arguments, raising=False)
    guest = Guest()
    async with Client(guest, "/") as client, channels_lifespan()(None):
        await client.connected()
        if told:
            event.set()
            await client.answer_close()
            await client.wait()
        else:
            await client.disconnect()
    assert guest.codes == [1012 if told else 1000]
