"""Frames are encoded once, and go to a server past what does not look at them."""

import types
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as ParsedFrame
from websockets.frames import Opcode
from websockets.streams import StreamReader

from fast_channels.frames import EXTENSION, Frame, Outlet, SocketOutlet, socket_outlet

LENGTHS = [0, 1, 125, 126, 65535, 65536]


def parse(data: bytes, *, window_bits: int = 0) -> ParsedFrame:
    """Parse a frame as a client does."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    extensions = []
    if window_bits:
        extensions = [PerMessageDeflate(False, False, window_bits, window_bits)]
    parsing = ParsedFrame.parse(
        reader.read_exact, mask=False, max_size=None, extensions=extensions
    )
    try:
        while True:
            next(parsing)
    except StopIteration as stop:
        frame: ParsedFrame = stop.value
    assert not reader.buffer
    return frame


class Transport:
    """Records what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("window_bits", [0, 12])
def test_frames_are_what_clients_expect(length: int, window_bits: int) -> None:
    """Frames of any length have the content and the type, compressed or not."""
    binary = parse(Frame(b"x" * length).encode(window_bits), window_bits=window_bits)
    assert (binary.opcode, binary.data) == (Opcode.BINARY, b"x" * length)
    text = parse(
        Frame("é" * (length // 2)).encode(window_bits), window_bits=window_bits
    )
    assert (text.opcode, text.data) == (Opcode.TEXT, ("é" * (length // 2)).encode())


def test_frames_are_encoded_once() -> None:
    """A frame is encoded once for each size of the window."""
    frame = Frame("hello")
    assert frame.encode() is frame.encode()
    assert frame.encode(12) is frame.encode(12)
    assert frame.encode(12) != frame.encode()


@pytest.mark.parametrize(("content", "key"), [("hi", "text"), (b"hi", "bytes")])
def test_events_carry_their_frame(content: str | bytes, key: str) -> None:
    """Each event of a frame is a new dict, with the content and the frame."""
    frame = Frame(content)
    event = frame.event()
    assert event == {"type": "websocket.send", key: content, EXTENSION: frame}
    assert frame.event() is not event


def test_outlets_write_frames() -> None:
    """A frame is written as the client of the outlet expects it."""
    transport = Transport()
    outlet = SocketOutlet(transport)
    assert not outlet.open
    frame = Frame("hello")
    outlet.send(frame)
    outlet.window_bits = 10
    outlet.send(frame)
    assert transport.written == [frame.encode(), frame.encode(10)]
    assert outlet.shared
    with pytest.raises(NotImplementedError):
        Outlet().send(frame)


# What is between a consumer and the server


class Server:
    """Has an outlet, and a method that sends."""

    def __init__(self) -> None:
        self.outlet = SocketOutlet(Transport())

    async def send(self, message: Message) -> None:
        """Do nothing."""

    def scope(self) -> dict[str, Any]:
        return {
            "type": "websocket",
            "path": "/room",
            "headers": [],
            "extensions": {EXTENSION: {"outlet": self.outlet}},
        }


async def never() -> Message:
    raise AssertionError("nothing is received here")


async def send_inside(
    server: Server, application: Callable[[Any], Any]
) -> tuple[Scope, Send]:
    """Return the scope and the ``send`` that an application gets."""
    got: list[tuple[Scope, Send]] = []

    class Endpoint:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            got.append((scope, send))

    await application(Endpoint())(server.scope(), never, server.send)
    return got[0]


class Counting:
    """A middleware that wraps ``send``."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            await send(message)

        await self.app(scope, receive, counted)


class Passing(Counting):
    """A middleware that does not."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def bare(endpoint: Any) -> Any:
    return endpoint


def routed(endpoint: Any) -> Starlette:
    return Starlette(routes=[WebSocketRoute("/room", endpoint)])


def mounted(endpoint: Any) -> Starlette:
    return Starlette(routes=[Mount("/", routes=[WebSocketRoute("/room", endpoint)])])


def nested(endpoint: Any) -> Starlette:
    return Starlette(routes=[Mount("/", app=routed(endpoint))])


def passed(endpoint: Any) -> Starlette:
    return Starlette(
        routes=[WebSocketRoute("/room", endpoint)], middleware=[Middleware(Passing)]
    )


def counted(endpoint: Any) -> Starlette:
    return Starlette(
        routes=[WebSocketRoute("/room", endpoint)], middleware=[Middleware(Counting)]
    )


@pytest.mark.parametrize("application", [bare, routed, mounted, nested, passed])
async def test_starlette_does_not_hide_the_server(
    application: Callable[[Any], Any],
) -> None:
    """The wrapper that Starlette puts around send() is recognized."""
    server = Server()
    scope, send = await send_inside(server, application)
    assert socket_outlet(scope, send) is server.outlet


async def test_middleware_hides_the_server() -> None:
    """What a middleware has wrapped is not bypassed."""
    scope, send = await send_inside(Server(), counted)
    assert socket_outlet(scope, send) is None


@pytest.mark.parametrize("extensions", [{}, {"extensions": {}}, {"extensions": None}])
def test_server_without_the_extension(extensions: dict[str, Any]) -> None:
    """Without the extension there is no outlet."""
    assert socket_outlet({"type": "websocket", **extensions}, Server().send) is None


def test_other_server() -> None:
    """The outlet of a scope is for the server that sends its events."""
    assert socket_outlet(Server().scope(), Server().send) is None


# Wrappers that are like Starlette's, and do something else.
OTHERS = {
    "log": "print(message)\n  await send(message)",
    "drop a key": "message.pop('text')\n  await send(message)",
    "send text": "message['text'] = message['type']\n  await send(message)",
    "another variable": "copy = message\n  await send(copy)",
}


def wrapper(body: str, name: str = "sender", module: str = "") -> Any:
    """Return a function that wraps ``send``, with a server's ``send`` inside."""
    source = (
        "def make(send):\n"
        " response_started = False\n"
        f" async def {name}(message):\n"
        "  nonlocal response_started\n"
        "  if message['type'] == 'http.response.start': response_started = True\n"
        f"  {body}\n"
        f" return {name}\n"
    )
    names: dict[str, Any] = {"__name__": module or "starlette._exception_handler"}
    exec(source, names)  # noqa: S102 # code that a release of Starlette may have
    return names["make"]


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_wrappers_that_do_more_are_not_bypassed(body: str) -> None:
    """A wrapper of a future release that does something else sees all events."""
    server = Server()
    same = wrapper("await send(message)")(server.send)
    assert isinstance(same, types.FunctionType)
    assert socket_outlet(server.scope(), same) is server.outlet
    assert socket_outlet(server.scope(), wrapper(body)(server.send)) is None


def test_wrappers_of_others_are_not_bypassed() -> None:
    """A wrapper by another name, or of another module, sees all events."""
    server = Server()
    for name, module in (("other", ""), ("sender", "another_module")):
        make: Callable[[Callable[[Message], Awaitable[None]]], Any] = wrapper(
            "await send(message)", name, module
        )
        assert socket_outlet(server.scope(), make(server.send)) is None
