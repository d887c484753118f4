"""uvicorn's protocol with the extension, on a fake transport."""

import asyncio
import runpy
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame as ParsedFrame
from websockets.frames import Opcode
from websockets.uri import parse_uri

import fast_channels.uvicorn
from fast_channels.frames import EXTENSION, Frame, SocketOutlet
from fast_channels.uvicorn import WebSocketProtocol, check_base
from tests.waiting import turn, until


class Transport(asyncio.Transport):
    """Hands what is written to a client."""

    def __init__(self, client: ClientProtocol) -> None:
        super().__init__()
        self._client = client
        self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        if self.closing:
            raise ConnectionResetError
        self._client.receive_data(bytes(data))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Connection:
    """A connection of a client to an application that hands out its ``send``."""

    def __init__(self, **options: Any) -> None:
        factory = ClientPerMessageDeflateFactory(**options)
        self.client = ClientProtocol(
            parse_uri("ws://localhost/"), extensions=[factory] if options else []
        )
        self.send: Callable[[dict[str, Any]], Any]
        self.scope: dict[str, Any]
        self.ended = asyncio.Event()
        self.closed = False
        config = Config(
            self._serve,
            interface="asgi3",
            log_config=None,
            ws_per_message_deflate=bool(options),
        )
        config.load()
        self.transport = Transport(self.client)
        self.protocol = WebSocketProtocol(config, ServerState(), {})
        self.protocol.connection_made(self.transport)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self.send = scope, send
        await self.ended.wait()

    async def open(self) -> None:
        """Connect."""
        self.client.send_request(self.client.connect())
        self.feed()
        await until(lambda: hasattr(self, "send"))
        await self.send({"type": "websocket.accept"})

    def feed(self) -> None:
        """Let the server receive what the client has sent."""
        self.protocol.data_received(b"".join(self.client.data_to_send()))

    def texts(self) -> list[str]:
        """Return what the client has received since the last call."""
        return [
            bytes(event.data).decode()
            for event in self.client.events_received()
            if isinstance(event, ParsedFrame) and event.opcode is Opcode.TEXT
        ]

    def lose(self) -> None:
        """Have the connection lost."""
        if not self.closed:
            self.closed = True
            self.protocol.connection_lost(None)

    @property
    def outlet(self) -> SocketOutlet:
        return self.protocol.outlet


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    """Give a test an open connection."""
    connection = Connection()
    await connection.open()
    yield connection
    connection.lose()
    connection.ended.set()
    await turn()


async def test_frames_and_events_reach_the_client(connection: Connection) -> None:
    """Frames from the outlet and from events arrive in order, between other events."""
    assert connection.scope["extensions"][EXTENSION] == {"outlet": connection.outlet}
    await connection.send({"type": "websocket.send", "text": "one"})
    connection.outlet.send(Frame("two"))
    await connection.send(Frame("three").event())
    await connection.send({"type": "websocket.send", "text": "four"})
    assert connection.texts() == ["one", "two", "three", "four"]


async def test_changed_events_are_respected(connection: Connection) -> None:
    """The frame of an event whose content was changed is not sent."""
    await connection.send(Frame("hello").event() | {"text": "HELLO"})
    await connection.send(Frame(b"hello").event() | {"bytes": None, "text": "text"})
    await connection.send(Frame("hello").event() | {"text": "hel" + "lo"[:2]})
    assert connection.texts() == ["HELLO", "text", "hello"]


async def test_outlet_is_open_while_the_client_can_take_frames() -> None:
    """The outlet opens with accept(), and is closed while the buffer is full."""
    connection = Connection()
    assert not connection.outlet.open
    await connection.open()
    assert connection.outlet.open
    connection.protocol.pause_writing()
    assert not connection.outlet.open
    sending = asyncio.ensure_future(connection.send(Frame("waits").event()))
    await turn()
    assert not sending.done()
    connection.protocol.resume_writing()
    assert connection.outlet.open
    await sending
    assert connection.texts() == ["waits"]
    connection.lose()
    assert not connection.outlet.open
    connection.ended.set()
    await turn()


async def close_it(connection: Connection) -> None:
    await connection.send({"type": "websocket.close", "code": 1000})


async def client_closes(connection: Connection) -> None:
    connection.client.send_close(1000)
    connection.feed()


async def shut_down(connection: Connection) -> None:
    connection.protocol.shutdown()


async def half_close(connection: Connection) -> None:
    connection.protocol.eof_received()


async def lose(connection: Connection) -> None:
    connection.lose()


@pytest.mark.parametrize("end", [close_it, client_closes, shut_down, half_close, lose])
async def test_outlet_closes_with_the_connection(
    connection: Connection, end: Callable[[Connection], Any]
) -> None:
    """However a connection ends, its outlet is closed."""
    connection.outlet.send(Frame("hello"))
    await end(connection)
    assert not connection.outlet.open
    assert connection.texts() == ["hello"]


async def test_outlet_closes_when_pings_are_not_answered(
    connection: Connection,
) -> None:
    """A client that does not answer pings is sent no frames any more."""
    if hasattr(WebSocketProtocol.__bases__[0], "keepalive_timeout"):
        connection.protocol.keepalive_timeout()
        assert not connection.outlet.open


async def test_outlet_stays_closed_for_refused_clients() -> None:
    """A client that is refused is sent no frames."""
    connection = Connection()
    connection.client.send_request(connection.client.connect())
    connection.feed()
    await until(lambda: hasattr(connection, "send"))
    await connection.send({"type": "websocket.close"})
    assert not connection.outlet.open
    connection.lose()
    connection.ended.set()
    await turn()


async def test_frame_of_the_client(connection: Connection) -> None:
    """A frame of the client leaves the outlet open."""
    connection.client.send_text(b"hello")
    connection.feed()
    assert connection.outlet.open


async def test_release_of_the_lost(connection: Connection) -> None:
    """A send() that waits for the buffer ends when the connection is lost."""
    connection.protocol.pause_writing()
    sending = asyncio.ensure_future(connection.send(Frame("waits").event()))
    await turn()
    connection.lose()
    async with asyncio.timeout(5):
        await asyncio.wait([sending])
    # older uvicorn has no error for this.
    sending.exception()


@pytest.mark.parametrize(
    "options",
    [
        {"client_max_window_bits": True},
        {"server_max_window_bits": 9},
        {"server_no_context_takeover": True},
    ],
    ids=str,
)
async def test_compressed_frames(options: dict[str, Any]) -> None:
    """Shared and other messages can be decompressed in any order."""
    connection = Connection(**options)
    await connection.open()
    texts = [f"{'the same words again and again ' * 20}{i}" for i in range(20)]
    for number, text in enumerate(texts):
        if number % 3:
            await connection.send({"type": "websocket.send", "text": text})
        elif number % 2:
            await connection.send(Frame(text).event())
        else:
            connection.outlet.send(Frame(text))
    assert connection.texts() == texts
    connection.lose()
    connection.ended.set()
    await turn()


async def test_releases_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uvicorn that lacks what is used is refused, with what to do."""
    base: type[Any] = WebSocketProtocol.__bases__[0]
    check_base(base)

    class Changed:
        def __init__(self) -> None:
            self.conn = self.scope = self.writable = None

        async def run_asgi(self) -> None: ...
        async def send(self, message: object) -> None: ...
        def shutdown(self) -> None: ...
        def data_received(self, data: bytes) -> None: ...

    with pytest.raises(ImportError) as caught:
        check_base(Changed)
    assert "Changed has no close_sent, connection_lost, handshake_complete" in str(
        caught.value
    )
    assert "--ws websockets-sansio" in str(caught.value)
    module = "uvicorn.protocols.websockets.websockets_sansio_impl"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"needs uvicorn 0\.38 or newer"):
        runpy.run_path(vars(fast_channels.uvicorn)["__file__"])
