"""The parts of a library that the measurements use, for either library.

Each interpreter has only one of the two, so all imports are by name.
"""

import functools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, TypeAlias

__all__ = ["Application", "Layer", "Library", "Message", "load"]

Message: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Dispatch: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Message, Receive, Send], Coroutine[Any, Any, None]]

_ALIAS = "benchmarks"
_LAYERS = {
    "memory": ("InMemoryChannelLayer", "channels.layers.InMemoryChannelLayer"),
    "pubsub": (
        "RedisPubSubChannelLayer",
        "channels_redis.pubsub.RedisPubSubChannelLayer",
    ),
    "queue": ("RedisChannelLayer", "channels_redis.core.RedisChannelLayer"),
}


class Layer(Protocol):
    """The interface of every channel layer."""

    async def new_channel(self) -> str: ...
    async def send(self, channel: str, message: Message) -> None: ...
    async def receive(self, channel: str) -> Message: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_discard(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: Message) -> None: ...


@dataclass(frozen=True)
class Library:
    """One of the two libraries, with layers of one kind."""

    consumer: Any
    """Its ``AsyncWebsocketConsumer``."""
    layer: Layer
    """The layer that consumers get."""
    new_layer: Callable[[], Layer]
    """Creates another layer of the kind."""
    close: Callable[[Layer], Awaitable[None]]
    """Closes a layer."""
    serve: Callable[[Receive, str, Dispatch], Coroutine[Any, Any, None]]
    """The loop of a consumer: it dispatches endlessly from ``receive`` and from
    a channel of ``layer``."""

    def application(self, handlers: type, *, with_layer: bool = False) -> Application:
        """Return the application of a consumer class with these methods."""
        # A consumer without an alias gets no layer here in either library.
        attributes = {"channel_layer_alias": _ALIAS} if with_layer else {}
        consumer: Any = type(handlers.__name__, (handlers, self.consumer), attributes)
        application: Application = consumer.as_asgi()
        return application


def load(name: str, kind: str, redis_url: str = "", prefix: str = "") -> Library:
    """Import a library: ``fast_channels`` or ``channels``.

    Its layers are in ``memory``, or a ``queue`` or ``pubsub`` on the server of the URL,
    or on the cluster that has the servers of several URLs, separated by commas.
    Their capacity there is larger than any measurement needs.
    """
    options: Message = {}
    if redis_url:
        urls = redis_url.split(",")
        servers = {"cluster" if len(urls) > 1 else "hosts": urls}
        options = {**servers, "prefix": prefix, "capacity": 1_000_000}
    libraries = {"fast_channels": _fast_channels, "channels": _channels}
    return libraries[name](kind, options)


def _fast_channels(kind: str, options: Message) -> Library:
    layers = import_module("fast_channels.layers")
    layer_class = getattr(layers, _LAYERS[kind][0])
    layer = layer_class(**options)
    layers.register_channel_layer(_ALIAS, layer)
    loop_class = import_module("fast_channels.dispatching").DispatchLoop

    async def serve(receive: Receive, channel: str, dispatch: Dispatch) -> None:
        loop = loop_class(dispatch)
        await loop.run([receive], layer.attach(channel, loop.wake).take)

    return Library(
        consumer=import_module("fast_channels.consumer").AsyncWebsocketConsumer,
        layer=layer,
        new_layer=functools.partial(layer_class, **options),
        close=layer_class.close,
        serve=serve,
    )


def _channels(kind: str, options: Message) -> Library:
    import_module("django.conf").settings.configure(
        CHANNEL_LAYERS={_ALIAS: {"BACKEND": _LAYERS[kind][1], "CONFIG": options}}
    )
    layer = import_module("channels.layers").get_channel_layer(_ALIAS)
    await_many_dispatch = import_module("channels.utils").await_many_dispatch

    async def serve(receive: Receive, channel: str, dispatch: Dispatch) -> None:
        channel_receive = functools.partial(layer.receive, channel)
        await await_many_dispatch([receive, channel_receive], dispatch)

    async def close(layer: Any) -> None:
        if kind == "queue":
            await layer.close_pools()
        elif kind == "pubsub":
            await layer.flush()

    return Library(
        consumer=import_module("channels.generic.websocket").AsyncWebsocketConsumer,
        layer=layer,
        new_layer=functools.partial(layer.__class__, **options),
        close=close,
        serve=serve,
    )
