"""The consumer: a class with a method for each type of message.

An instance is an ASGI application for one connection. All its handlers run in one
task, one after the other: the task in which the server runs the application or, for a
WebSocket with a layer, another task with a copy of its context.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast, overload

from fast_channels.exceptions import InvalidChannelLayerError
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelMessage,
    ChannelScope,
)

from .connection import Connection
from .handlers import get_handler_name
from .layer_lookup import explain_missing, find_layer, layer_of
from .timing import Timing

__all__ = ["AsyncConsumer", "ConsumerApplication", "get_handler_name"]


class AsyncConsumer:
    """An ASGI application with a method for each type of message.

    A message of type ``chat.message`` is handled by the method ``chat_message``,
    whether it comes from the server or through the channel layer. Handlers of one
    consumer never overlap, and messages of one source are handled in the order of
    arrival. A handler ends the consumer by raising ``StopConsumer``; any other
    exception ends it too, and reaches the server.

    Pass :meth:`as_asgi` to a route. The constructor receives the keyword arguments of
    ``as_asgi()``, and needs no event loop.
    """

    channel_layer_alias: str | None = None
    """The alias of the layer to use; None for no layer."""

    scope: ChannelScope
    """The ASGI scope of the connection."""

    # Declared without None, since code that uses them has a layer.
    channel_layer: BaseChannelLayer = None  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    """The layer; None without a layer."""

    channel_name: str = None  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    """The name of the channel that reaches this consumer; None without a layer."""

    base_send: Callable[[ChannelMessage], Awaitable[None]]
    """The server's ``send``."""

    # Private names begin with _consumer_ or with two underscores, so that they cannot
    # clash with names in the subclasses of users.

    _consumer_timing: ClassVar[Timing] = Timing()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    # Made on first use, so that tests can call the methods of an instance directly.
    @functools.cached_property
    def _consumer_connection(self) -> Connection[Any]:
        return Connection(self, self._consumer_timing)

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> "ConsumerApplication":
        """Return an ASGI application that makes an instance for each connection.

        Pass it wherever an ASGI application is expected: to a route of a framework, or
        to a server.

        Args:
            **initkwargs: Keyword arguments for the constructor of every instance.
        """
        return ConsumerApplication(cls, initkwargs)

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Serve one connection until it ends.

        Cancelling ends the connection, after its channel and groups are released.

        Raises:
            RuntimeError: The instance has served a connection, or is serving one.
        """
        connection = self._consumer_connection
        if connection.used:
            name = connection.name
            raise RuntimeError(
                f"an instance of {name} serves one connection, and this one was called "
                f"for a second one: write {name}.as_asgi(), which makes an instance "
                "for each connection"
            )
        self.scope = scope
        self.base_send = cast("Callable[[ChannelMessage], Awaitable[None]]", send)
        connection.check()
        self.channel_layer = cast("BaseChannelLayer", find_layer(self))
        dispatch = self.dispatch
        overridden = getattr(dispatch, "__func__", None) is not AsyncConsumer.dispatch
        await connection.serve(receive, dispatch if overridden else connection.handle)

    async def dispatch(self, message: ChannelMessage) -> None:
        """Call the handler for a message.

        Args:
            message: The message. The handler is the method named after its ``type``,
                with dots replaced by underscores.

        Raises:
            ValueError: The message has no type, or there is no method for it.
        """
        await self._consumer_connection.handle(message)

    async def channel_receive(self) -> dict[str, Any]:
        """Wait for the next message of the channel.

        Use it in handlers that wait for messages themselves: a message that is received
        here is not dispatched. Cancelling loses no message.

        Raises:
            InvalidChannelLayerError: The consumer has no channel layer.
        """
        layer = layer_of(self)
        if layer is None:
            raise InvalidChannelLayerError(
                "{} has no channel to receive from: {}".format(*explain_missing(self))
            )
        return await layer.receive(self.channel_name)

    if TYPE_CHECKING:
        # Subclasses for a protocol have other parameters.
        async def send(self, *args: Any, **kwargs: Any) -> None:
            """Send an event to the server."""

    else:

        async def send(self, message: ChannelMessage) -> None:
            """Send an event to the server.

            Args:
                message: The event, as the specification of the protocol defines it.
            """
            await self.base_send(message)


class ConsumerApplication:
    """An ASGI application that makes one instance of a consumer for each connection.

    It has the name and the docstring of the class.
    """

    def __init__(
        self,
        consumer_class: type[AsyncConsumer],
        consumer_initkwargs: Mapping[str, Any],
    ) -> None:
        self.consumer_class = consumer_class
        """The consumer class; every connection gets an instance of its own."""
        self.consumer_initkwargs = consumer_initkwargs
        """Keyword arguments for the constructor of every instance."""
        self.__name__: str = consumer_class.__name__
        self.__qualname__ = consumer_class.__qualname__
        self.__module__ = consumer_class.__module__
        self.__doc__ = consumer_class.__doc__

    def __repr__(self) -> str:
        return f"<ConsumerApplication {self.__module__}.{self.__qualname__}>"

    @overload
    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None: ...
    @overload
    async def __call__(self, connection: Any, /) -> Any: ...
    async def __call__(  # type: ignore[misc] # pyright: ignore[reportInconsistentOverload] # the second is how Starlette types what add_websocket_route() and add_route() take; it calls applications with the first
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Serve one connection with an instance of its own."""
        consumer = self.consumer_class(**self.consumer_initkwargs)
        await consumer(scope, receive, send)
