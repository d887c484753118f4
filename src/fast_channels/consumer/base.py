"""The consumer: a class with a method for each type of message.

An instance is an ASGI application for one connection. All its handlers run in one
task, one after the other: the task in which the server runs the application or, for a
WebSocket with a layer, another task with a copy of its context.
"""

import asyncio
import contextlib
import functools
import inspect
import logging
import weakref
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast, overload

from fast_channels.dispatching import DispatchLoop
from fast_channels.exceptions import InvalidChannelLayerError, StopConsumer
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.foreign import as_layer
from fast_channels.layers.notices import Notice
from fast_channels.layers.registry import channel_layers
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelMessage,
    ChannelScope,
)

from .handlers import awaitable, find_method, get_handler_name, require_reachable
from .live import LiveConsumer
from .signals import leaves, signal_in

__all__ = ["AsyncConsumer", "ConsumerApplication", "get_handler_name"]

_logger = logging.getLogger(__name__)

# Seconds that the layer has for each step of the ending of a cancelled connection.
_GRACE = 5.0

# Classes whose missing layer has been logged.
_warned: "weakref.WeakSet[type[AsyncConsumer]]" = weakref.WeakSet()


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

    # Whether the instance has begun to serve a connection.
    __used = False

    # Whether the channel is read through attach(). The delete_channel() of such a layer
    # also removes the channel from all its groups.
    _consumer_attached = False

    # The names of the class's handlers by message type.
    _consumer_handlers: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._consumer_handlers = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

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
        if self.__used:
            name = type(self).__qualname__
            raise RuntimeError(
                f"an instance of {name} serves one connection, and this one was called "
                f"for a second one: write {name}.as_asgi(), which makes an instance "
                "for each connection"
            )
        self.scope = scope
        self.base_send = cast("Callable[[ChannelMessage], Awaitable[None]]", send)
        self._consumer_prepare()
        self.__used = True
        self.channel_layer = cast("BaseChannelLayer", self.__find_layer())
        loop = DispatchLoop(self._consumer_dispatcher())
        await self._consumer_attend(loop, receive)

    async def dispatch(self, message: ChannelMessage) -> None:
        """Call the handler for a message.

        Args:
            message: The message. The handler is the method named after its ``type``,
                with dots replaced by underscores.

        Raises:
            ValueError: The message has no type, or there is no method for it.
        """
        await self.__handle(message)

    async def channel_receive(self) -> dict[str, Any]:
        """Wait for the next message of the channel.

        Use it in handlers that wait for messages themselves: a message that is received
        here is not dispatched. Cancelling loses no message.

        Raises:
            InvalidChannelLayerError: The consumer has no channel layer.
        """
        layer = self._consumer_layer()
        if layer is None:
            raise InvalidChannelLayerError(
                "{} has no channel to receive from: {}".format(
                    *self._consumer_explain()
                )
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

    def _consumer_prepare(self) -> None:
        """Check the scope, before there is anything to release."""

    async def _consumer_attend(
        self, loop: DispatchLoop, receive: ASGIReceiveCallable
    ) -> None:
        """Serve the connection, in this task or in another one."""
        await self._consumer_serve(loop, receive, [receive])

    async def _consumer_serve(
        self,
        loop: DispatchLoop,
        receive: ASGIReceiveCallable,
        sources: Sequence[ASGIReceiveCallable],
    ) -> None:
        """Serve the connection in this task.

        Args:
            loop: The loop that dispatches the messages.
            receive: A function that waits for the next event of the server.
            sources: The sources of the loop, besides the channel.
        """
        live = LiveConsumer(self)
        cause: BaseException | None = None
        try:
            try:
                # Each message resumes every coroutine on this stack: keep it short.
                await loop.run(*await self._consumer_start(loop, receive, sources))
            except (StopConsumer, ExceptionGroup) as exc:
                signal = signal_in(exc, StopConsumer)
                if signal is not None:
                    await self._consumer_stopped(signal, loop, sources)
                raise
        except BaseException as exc:
            cause = signal_in(exc, StopConsumer) or exc
            self.__note_missing_layer(exc)
            if not (isinstance(cause, StopConsumer) or live.absorb(exc)):
                raise
        finally:
            try:
                await self._consumer_end(cause)
            finally:
                live.end()

    async def _consumer_start(
        self,
        loop: DispatchLoop,
        receive: ASGIReceiveCallable,
        sources: Sequence[ASGIReceiveCallable],
    ) -> tuple[
        Sequence[ASGIReceiveCallable], Callable[[], ChannelMessage | None] | None
    ]:
        """Prepare the connection; return the arguments for the loop's ``run()``."""
        layer = self._consumer_layer()
        if layer is None:
            await self._consumer_begin(receive)
            return sources, None
        self.channel_name = await layer.new_channel()
        mailbox = as_layer(layer).attach(self.channel_name, loop.wake)
        self._consumer_attached = mailbox is not None
        await self._consumer_begin(receive)
        if mailbox is None:
            return [*sources, self.channel_receive], None
        return sources, mailbox.take

    async def _consumer_stopped(
        self,
        signal: Exception,
        loop: DispatchLoop,
        sources: Sequence[ASGIReceiveCallable],
    ) -> None:
        """Dispatch what remains when a handler has stopped the consumer."""

    def _consumer_restart(self) -> bool:
        """Note that the server restarts; return whether to cancel the task at once."""
        return False

    def _consumer_dispatcher(self) -> Callable[[ChannelMessage], Awaitable[None]]:
        """Return the function to await with each message, which calls the handler."""
        dispatch = self.dispatch
        overridden = getattr(dispatch, "__func__", None) is not AsyncConsumer.dispatch
        return dispatch if overridden else self.__handle

    async def _consumer_begin(self, receive: ASGIReceiveCallable) -> None:
        """Run before the loop starts; subclasses can dispatch an event here."""

    async def _consumer_end(self, cause: BaseException | None) -> None:
        """Release what the connection holds, whatever ended it.

        It raises nothing but CancelledError, so that the cause reaches the server.

        Args:
            cause: The exception that ended the connection.
        """
        if self._consumer_has_channel():
            await self._consumer_release(
                functools.partial(
                    as_layer(self.channel_layer).delete_channel, self.channel_name
                ),
                "release its channel",
            )

    async def _consumer_release(
        self, step: Callable[[], Awaitable[None]], what: str
    ) -> None:
        """Run one step of the ending; log its errors.

        A step that is cancelled runs again, shielded from cancellation and for a
        bounded time, so every step must tolerate running twice.
        """
        with self._consumer_logged(what):
            try:
                await step()
            except asyncio.CancelledError:
                again = asyncio.ensure_future(asyncio.wait_for(step(), _GRACE))
                while not again.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([again])
                with self._consumer_logged(what):
                    again.result()
                raise

    @contextlib.contextmanager
    def _consumer_logged(self, what: str) -> Generator[None]:
        """Log the errors of a step of the ending, so that the next step still runs."""
        try:
            yield
        except Exception as exc:
            if signal_in(exc, StopConsumer) is None:
                self.__note_missing_layer(exc)
                _logger.exception("%s could not %s", type(self).__qualname__, what)

    def _consumer_layer(self) -> BaseChannelLayer | None:
        """Return ``channel_layer`` with its true type, which includes None."""
        return self.channel_layer

    def _consumer_has_channel(self) -> bool:
        """Return whether the consumer has a layer and a channel."""
        channel = cast("str | None", self.channel_name)
        return self._consumer_layer() is not None and channel is not None

    def __handle(self, message: ChannelMessage) -> Awaitable[None]:
        """Call the handler for a message, with one coroutine less than dispatch()."""
        try:
            name = self._consumer_handlers[message["type"]]
        except (KeyError, TypeError):
            # It is new, or there is none, or it has no hash.
            pass
        else:
            handler: Callable[[ChannelMessage], Awaitable[None]] = getattr(self, name)
            return handler(message)
        # Not above: errors would show a KeyError first, which says nothing.
        return self.__handle_new(message)

    def __handle_new(self, message: ChannelMessage) -> Awaitable[None]:
        """Call the handler for a message whose type is not among the known ones."""
        name = get_handler_name(message)
        message_type = cast("str", message["type"])
        require_reachable(type(self), name, message_type)
        handler = find_method(self, name)
        if handler is None:
            if isinstance(message, Notice):
                return _ignore()
            raise ValueError(
                f"no handler for message type {message_type!r}: "
                f"{type(self).__qualname__} has no method {name!r}"
            )
        if inspect.iscoroutinefunction(handler) and hasattr(type(self), name):
            # Other types are not remembered: clients could make up any number of them.
            self._consumer_handlers[message_type] = name
        return awaitable(handler(message), self, name)

    def __note_missing_layer(self, error: BaseException) -> None:
        """Add a note to each error caused by a ``channel_layer`` of None."""
        if self._consumer_layer() is not None:
            return
        for each in leaves(error):
            if (
                isinstance(each, AttributeError)
                and each.obj is None
                and hasattr(BaseChannelLayer, each.name or "")
            ):
                name, reason = self._consumer_explain()
                advice = (
                    "set it to the alias of a registered layer"
                    if self.channel_layer_alias is None
                    else f"call register_channel_layer({self.channel_layer_alias!r}, "
                    "...) before connections are served"
                )
                each.add_note(f"{name}.channel_layer is None, since {reason}: {advice}")

    def __find_layer(self) -> BaseChannelLayer | None:
        alias = self.channel_layer_alias
        layer = channel_layers.get(alias)
        if layer is None and alias is not None and type(self) not in _warned:
            _warned.add(type(self))
            _logger.warning("%s has no channel layer: %s", *self._consumer_explain())
        return layer

    def _consumer_explain(self) -> tuple[str, str]:
        name = type(self).__qualname__
        if self.channel_layer_alias is None:
            return name, "its channel_layer_alias is None"
        registered = ", ".join(map(repr, channel_layers)) or "none"
        return name, (
            f"no layer is registered for its channel_layer_alias "
            f"{self.channel_layer_alias!r} (registered: {registered})"
        )


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


async def _ignore() -> None:
    """Ignore a message that needs no handler."""
