"""The types of ASGI and of channel layers.

Each ASGI event is a ``TypedDict`` with the keys that the specification requires;
optional keys are ``NotRequired``:
https://asgi.readthedocs.io/en/latest/specs/www.html
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Literal, NotRequired, Protocol, TypeAlias, TypedDict

__all__ = [
    "ASGI3Application",
    "ASGIApplication",
    "ASGIApplicationProtocol",
    "ASGIReceiveCallable",
    "ASGISendCallable",
    "ChannelApplication",
    "ChannelCapacityDict",
    "ChannelCapacityPattern",
    "ChannelHeaders",
    "ChannelLayerProtocol",
    "ChannelMessage",
    "ChannelScope",
    "CompiledChannelCapacities",
    "CompiledChannelCapacity",
    "HttpDisconnectEvent",
    "HttpRequestEvent",
    "HttpResponseBodyEvent",
    "HttpResponseStartEvent",
    "MiddlewareProtocol",
    "WebSocketAcceptEvent",
    "WebSocketCloseEvent",
    "WebSocketConnectEvent",
    "WebSocketDisconnectEvent",
    "WebSocketReceiveEvent",
    "WebSocketSendEvent",
]

ChannelScope: TypeAlias = MutableMapping[str, Any]
"""The ASGI scope of a connection."""

ChannelMessage: TypeAlias = Mapping[str, Any]
"""A message or an ASGI event: a dict with str keys, one of them ``type``."""

ChannelHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]
"""HTTP headers as in ASGI: pairs of a lower-case name and a value."""

ChannelCapacityPattern: TypeAlias = str | re.Pattern[str]
"""A pattern for the names of channels: a glob, or a compiled regular expression."""

# The keys are patterns as above. They are typed as Any because a Mapping is invariant
# in its keys: a plain dict[str, int] would be refused otherwise.
ChannelCapacityDict: TypeAlias = Mapping[Any, int]
"""Maximum number of messages waiting in each channel that matches a pattern."""

CompiledChannelCapacity: TypeAlias = tuple[re.Pattern[str], int]
"""One entry of a ``ChannelCapacityDict``, ready to match."""

CompiledChannelCapacities: TypeAlias = list[CompiledChannelCapacity]
"""A ``ChannelCapacityDict``, ready to match; the first match counts."""

ASGIReceiveCallable: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""A function that an application awaits to receive the next event from its server."""

ASGISendCallable: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
"""A function that an application awaits to send an event to its server."""

ASGI3Application: TypeAlias = Callable[
    [ChannelScope, ASGIReceiveCallable, ASGISendCallable], Awaitable[None]
]
"""An ASGI 3 application, which is called and awaited once for each connection."""

ASGIApplication: TypeAlias = ASGI3Application
"""Any application that fast_channels runs or wraps."""

ChannelApplication: TypeAlias = ASGI3Application
"""An application for scopes of type ``channel``, which a worker runs."""


class ASGIApplicationProtocol(Protocol):
    """The application that ``AsyncConsumer.as_asgi()`` returns."""

    @property
    def consumer_class(self) -> type[Any]:
        """The consumer class; every connection gets an instance of its own."""
        ...

    @property
    def consumer_initkwargs(self) -> Mapping[str, Any]:
        """Keyword arguments for the constructor of every instance."""
        ...

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Serve one connection."""
        ...


class MiddlewareProtocol(Protocol):
    """An application that wraps another one."""

    inner: ASGIApplication

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Serve one connection, usually by calling ``inner``."""
        ...


class ChannelLayerProtocol(Protocol):
    """The methods that an object needs to be registered as a layer.

    A layer with groups also has ``group_add``, ``group_discard`` and ``group_send``.
    Layers for Django Channels have all of them:
    https://channels.readthedocs.io/en/latest/channel_layer_spec.html
    """

    async def send(self, channel: str, message: Any, /) -> None:
        """Send a message to one channel."""
        ...

    async def receive(self, channel: str, /) -> Any:
        """Wait for the next message of a channel and return it."""
        ...

    async def new_channel(self) -> str:
        """Return the name of a new channel."""
        ...


class WebSocketConnectEvent(TypedDict):
    """A client wants to open a WebSocket."""

    type: Literal["websocket.connect"]


class WebSocketAcceptEvent(TypedDict):
    """The application accepts the WebSocket."""

    type: Literal["websocket.accept"]
    subprotocol: NotRequired[str | None]
    headers: NotRequired[ChannelHeaders]


class WebSocketReceiveEvent(TypedDict):
    """The client sent a frame; one of ``text`` and ``bytes`` is not None."""

    type: Literal["websocket.receive"]
    text: NotRequired[str | None]
    bytes: NotRequired[bytes | None]


class WebSocketSendEvent(TypedDict):
    """The application sends a frame; one of ``text`` and ``bytes`` is not None."""

    type: Literal["websocket.send"]
    text: NotRequired[str | None]
    bytes: NotRequired[bytes | None]


class WebSocketCloseEvent(TypedDict):
    """The application closes the WebSocket, or refuses it instead of accepting it."""

    type: Literal["websocket.close"]
    code: NotRequired[int]
    reason: NotRequired[str | None]


class WebSocketDisconnectEvent(TypedDict):
    """The WebSocket is closed; either side can have closed it."""

    type: Literal["websocket.disconnect"]
    code: NotRequired[int | None]
    reason: NotRequired[str | None]


class HttpRequestEvent(TypedDict):
    """A part of a request's body."""

    type: Literal["http.request"]
    body: NotRequired[bytes]
    more_body: NotRequired[bool]


class HttpResponseStartEvent(TypedDict):
    """The status and the headers of a response."""

    type: Literal["http.response.start"]
    status: int
    headers: NotRequired[ChannelHeaders]
    trailers: NotRequired[bool]


class HttpResponseBodyEvent(TypedDict):
    """A part of a response's body."""

    type: Literal["http.response.body"]
    body: NotRequired[bytes]
    more_body: NotRequired[bool]


class HttpDisconnectEvent(TypedDict):
    """The HTTP client went away, or the response is complete."""

    type: Literal["http.disconnect"]
