"""The types that ASGI and the channel layers speak.

Events are the ASGI ones, each a ``TypedDict`` with the keys that the specification
requires and ``NotRequired`` for those that may be left out:
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
"""What a connection is: the ASGI scope."""

ChannelMessage: TypeAlias = Mapping[str, Any]
"""A message or an ASGI event: a dict with str keys, one of them ``type``."""

ChannelHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]
"""HTTP headers as ASGI has them: pairs of a lower-case name and a value."""

ChannelCapacityPattern: TypeAlias = str | re.Pattern[str]
"""Which channels a capacity is for: a glob, or a compiled regular expression."""

# The keys are patterns as above; but a Mapping is invariant in its keys, so that with
# them named a plain dict[str, int] would be refused.
ChannelCapacityDict: TypeAlias = Mapping[Any, int]
"""How many messages wait at the most in the channels that match each pattern."""

CompiledChannelCapacity: TypeAlias = tuple[re.Pattern[str], int]
"""One entry of a ``ChannelCapacityDict``, ready to match."""

CompiledChannelCapacities: TypeAlias = list[CompiledChannelCapacity]
"""A ``ChannelCapacityDict``, ready to match; the first match counts."""

ASGIReceiveCallable: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""What an application awaits to get the next event from its server."""

ASGISendCallable: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
"""What an application awaits to give an event to its server."""

ASGI3Application: TypeAlias = Callable[
    [ChannelScope, ASGIReceiveCallable, ASGISendCallable], Awaitable[None]
]
"""An ASGI 3 application: one awaitable call for one connection."""

ASGIApplication: TypeAlias = ASGI3Application
"""Any application that fast_channels runs or wraps."""

ChannelApplication: TypeAlias = ASGI3Application
"""An application whose scope is of type ``channel``: what a worker runs."""


class ASGIApplicationProtocol(Protocol):
    """What ``AsyncConsumer.as_asgi()`` returns: it says which consumer it runs."""

    @property
    def consumer_class(self) -> type[Any]:
        """The consumer class of which every connection gets an instance."""
        ...

    @property
    def consumer_initkwargs(self) -> Mapping[str, Any]:
        """The keyword arguments that every instance is made with."""
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
        """Serve one connection, most often by calling ``inner``."""
        ...


class ChannelLayerProtocol(Protocol):
    """What an object needs to be registered as a layer.

    For groups, it also has ``group_add``, ``group_discard`` and ``group_send``. Layers
    that were written for Django Channels have all of them:
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
    """The application closes the WebSocket, or refuses it before it was accepted."""

    type: Literal["websocket.close"]
    code: NotRequired[int]
    reason: NotRequired[str | None]


class WebSocketDisconnectEvent(TypedDict):
    """The WebSocket is closed, whoever closed it."""

    type: Literal["websocket.disconnect"]
    code: NotRequired[int | None]
    reason: NotRequired[str | None]


class HttpRequestEvent(TypedDict):
    """A part of a request's body."""

    type: Literal["http.request"]
    body: NotRequired[bytes]
    more_body: NotRequired[bool]


class HttpResponseStartEvent(TypedDict):
    """Status and headers of a response."""

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
