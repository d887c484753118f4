"""The consumer: a class with a method for each type of message.

An instance is an ASGI application for one connection. All its handlers run in one
task, one after the other: the one that the server runs the application in, or, for a
WebSocket that has a layer, another one with a copy of its context.
"""

import asyncio
import contextlib
import functools
import inspect
import logging
import weakref
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast, overload

from fast_channels.exceptions import InvalidChannelLayerError, StopConsumer
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.foreign import as_layer
from fast_channels.layers.notices import Notice
from fast_channels.layers.registry import channel_layers
from fast_channels.loop import DispatchLoop
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelMessage,
    ChannelScope,
)

__all__ = [
    "AsyncConsumer",
    "ConsumerApplication",
    "LiveConsumer",
    "get_handler_name",
    "live_consumers",
]

_logger = logging.getLogger(__name__)

# The handlers that the base classes themselves have; what else they define is not
# for a message to call.
_EVENT_HANDLERS = frozenset(
    {
        "websocket_connect",
        "websocket_receive",
        "websocket_disconnect",
        "http_request",
        "http_disconnect",
    }
)
_PACKAGE = __name__.partition(".")[0]

# For how many seconds a layer may keep a cancelled connection from ending, each time
# that something is to be released.
_GRACE = 5.0

# Classes whose missing layer was logged.
_warned: "weakref.WeakSet[type[AsyncConsumer]]" = weakref.WeakSet()

_Result = TypeVar("_Result")

# Attributes of a class that become methods of its instances, beside callables.
_METHODS = (classmethod, functools.partialmethod, functools.singledispatchmethod)


class LiveConsumer:
    """A consumer that serves a connection now, for whoever has to end it."""

    __slots__ = ("__weakref__", "consumer", "ended", "task")

    def __init__(self, consumer: "AsyncConsumer") -> None:
        self.consumer: AsyncConsumer = consumer
        """The consumer."""
        self.task: asyncio.Task[Any] = cast("asyncio.Task[Any]", asyncio.current_task())
        """The task that serves the connection."""
        self.ended: asyncio.Event | None = None
        """Set when it has ended. Whoever makes it may cancel the task, and the server
        is not told of that."""
        live_consumers[id(self)] = self

    def absorb(self, cause: BaseException) -> bool:
        """Return whether the server is not to be told of what ended the consumer."""
        asked = self.ended is not None and isinstance(cause, asyncio.CancelledError)
        return asked and not self.task.uncancel()

    def end(self) -> None:
        """Note that it has ended."""
        live_consumers.pop(id(self), None)
        if self.ended is not None:
            self.ended.set()


live_consumers: "weakref.WeakValueDictionary[int, LiveConsumer]" = (
    weakref.WeakValueDictionary()
)
"""The consumers of this process that serve a connection now, in all event loops."""


class AsyncConsumer:
    """An ASGI application in which each type of message has a method.

    A message of type ``chat.message`` is given to the method ``chat_message``, whether
    it comes from the server or through the channel layer. Handlers of one consumer
    never overlap, and messages of one source are handled in the order of arrival. A
    handler ends the consumer by raising ``StopConsumer``; any other exception ends it
    too, and reaches the server.

    Routes take :meth:`as_asgi`. The constructor takes whatever it is given there, and
    needs no event loop.
    """

    channel_layer_alias: str | None = None
    """The alias of the layer to use; None for no layer."""

    scope: ChannelScope
    """What the server says of the connection."""

    # Declared without None, since code that uses them has a layer.
    channel_layer: BaseChannelLayer = None  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    """The layer; None without a layer."""

    channel_name: str = None  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    """The name of the channel that reaches this consumer; None without a layer."""

    base_send: Callable[[ChannelMessage], Awaitable[None]]
    """The server's ``send``."""

    # Private names begin with _consumer_ or with two underscores: subclasses are other
    # people's, and have names of their own.

    # Whether a connection was served, or is now.
    __used = False

    # Whether the channel is read by attach(). The layer leaves all groups of such a
    # channel in delete_channel().
    _consumer_attached = False

    # The names of the class's handlers, by type of message.
    _consumer_handlers: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._consumer_handlers = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> "ConsumerApplication":
        """Return an ASGI application that makes an instance for each connection.

        It goes wherever an ASGI application goes: into a route of a framework, or to
        a server.

        Args:
            **initkwargs: The keyword arguments of every instance.
        """
        return ConsumerApplication(cls, initkwargs)

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Serve one connection until it ends.

        Cancelling ends the connection; what has to be released is released first.

        Raises:
            RuntimeError: The instance has served a connection, or does so now.
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
        """Give a message to the method for its type.

        Args:
            message: The message; its ``type`` names the method, with an underscore
                for each dot.

        Raises:
            ValueError: The message has no type, or there is no method for it.
        """
        await self.__handle(message)

    async def channel_receive(self) -> dict[str, Any]:
        """Wait for the next message of the channel.

        It is for handlers that wait for messages themselves: those that are received
        here are not dispatched. Cancelling it loses none.

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
        # Subclasses for a protocol, and theirs, have arguments of their own.
        async def send(self, *args: Any, **kwargs: Any) -> None:
            """Send an event to the server."""

    else:

        async def send(self, message: ChannelMessage) -> None:
            """Send an event to the server.

            Args:
                message: The event, as the specification of the protocol has it.
            """
            await self.base_send(message)

    def _consumer_prepare(self) -> None:
        """Check what the connection is; there is nothing to release yet."""

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
            loop: What dispatches.
            receive: Waits for the next event of the server.
            sources: What the loop waits for, beside the channel.
        """
        live = LiveConsumer(self)
        cause: BaseException | None = None
        try:
            try:
                # What awaits the next message is gone through with each of them: it is
                # as little as possible.
                await loop.run(*await self._consumer_start(loop, receive, sources))
            except (StopConsumer, ExceptionGroup) as exc:
                signal = signal_in(exc, StopConsumer)
                if signal is not None:
                    await self._consumer_stopped(
                        signal, receive if sources else loop.receive
                    )
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
        """Do what comes before the loop; return what that is to run with."""
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
        self, signal: Exception, receive: ASGIReceiveCallable
    ) -> None:
        """Do what is still to be dispatched when the consumer has been stopped."""

    def _consumer_restart(self) -> bool:
        """Take note that the server restarts; return whether to cancel it at once."""
        return False

    def _consumer_dispatcher(self) -> Callable[[ChannelMessage], Awaitable[None]]:
        """Return what is awaited with each message: dispatch(), or more around it."""
        dispatch = self.dispatch
        overridden = getattr(dispatch, "__func__", None) is not AsyncConsumer.dispatch
        return dispatch if overridden else self.__handle

    async def _consumer_begin(self, receive: ASGIReceiveCallable) -> None:
        """Do what comes before the first message; subclasses may dispatch one."""

    async def _consumer_end(self, cause: BaseException | None) -> None:
        """Release what the connection held, whatever ended it.

        It raises nothing but a cancellation, so that the cause reaches the server.

        Args:
            cause: What ended the connection.
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
        """Make one step of the ending; log what goes wrong with it.

        When it is cancelled half-way it is made again, out of reach of cancellations
        and within a bounded time: each step may be made twice.
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
        """Log what goes wrong in a step of the ending, so that the next one follows."""
        try:
            yield
        except Exception as exc:
            if signal_in(exc, StopConsumer) is None:
                self.__note_missing_layer(exc)
                _logger.exception("%s could not %s", type(self).__qualname__, what)

    def _consumer_layer(self) -> BaseChannelLayer | None:
        """Return the layer, or None without one: what ``channel_layer`` really is."""
        return self.channel_layer

    def _consumer_has_channel(self) -> bool:
        """Return whether the layer has given the consumer a channel."""
        channel = cast("str | None", self.channel_name)
        return self._consumer_layer() is not None and channel is not None

    def __handle(self, message: ChannelMessage) -> Awaitable[None]:
        """Do as ``dispatch()`` does, with a coroutine less."""
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
        """Handle a message of a type that is not known to have a coroutine function."""
        name = get_handler_name(message)
        message_type = cast("str", message["type"])
        _require_reachable(type(self), name, message_type)
        handler = _method(self, name)
        if handler is None:
            if isinstance(message, Notice):
                return _ignore()
            raise ValueError(
                f"no handler for message type {message_type!r}: "
                f"{type(self).__qualname__} has no method {name!r}"
            )
        if inspect.iscoroutinefunction(handler) and hasattr(type(self), name):
            # Other types are not remembered: clients may be able to make them up.
            self._consumer_handlers[message_type] = name
        return awaitable(handler(message), self, name)

    def __note_missing_layer(self, error: BaseException) -> None:
        """Add a note to each error that follows from ``channel_layer`` being None."""
        if self._consumer_layer() is not None:
            return
        for each in _leaves(error):
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
    """The ASGI application of a consumer class: one instance for each connection.

    It has the name and the docstring of the class.
    """

    def __init__(
        self,
        consumer_class: type[AsyncConsumer],
        consumer_initkwargs: Mapping[str, Any],
    ) -> None:
        self.consumer_class = consumer_class
        """The class of which every connection gets an instance."""
        self.consumer_initkwargs = consumer_initkwargs
        """The keyword arguments of every instance."""
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
    """Handle a message that needs no handler."""


def signal_in(error: BaseException, *signals: type[Exception]) -> Exception | None:
    """Return the signal that an error is, or that is all there is in a group of errors.

    Tasks of an ``asyncio.TaskGroup`` raise their signals in a group.

    Args:
        error: What was raised.
        *signals: The signals to look for; of several, the first one here counts.
    """
    found = [leaf for leaf in _leaves(error) if isinstance(leaf, signals)]
    if not found or len(found) < len(list(_leaves(error))):
        return None
    # A subclass of a signal says more than the signal.
    return min(
        found,
        key=lambda leaf: next(
            (place, type(leaf) is signal)
            for place, signal in enumerate(signals)
            if isinstance(leaf, signal)
        ),
    )


def _leaves(error: BaseException) -> Generator[BaseException]:
    """Yield the errors in a group of errors, or the error if it is none."""
    if isinstance(error, BaseExceptionGroup):
        for each in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(each)
    else:
        yield error


def awaitable(
    result: Awaitable[_Result], consumer: AsyncConsumer, method: str
) -> Awaitable[_Result]:
    """Return what a method of a consumer has returned, if it can be awaited.

    Raises:
        TypeError: It cannot.
    """
    # The first is what most are, and quick.
    if type(result) is not CoroutineType and not inspect.isawaitable(result):
        raise TypeError(
            f"{type(consumer).__qualname__}.{method}() must be a coroutine function: "
            f"write 'async def {method}'; it returned {result!r}, which cannot be "
            "awaited"
        )
    return result  # pyright: ignore[reportUnknownVariableType] # narrowed by its type


def _method(consumer: AsyncConsumer, name: str) -> Callable[..., Any] | None:
    """Return a method of a consumer, without evaluating properties; None for others."""
    missing = object()
    static = inspect.getattr_static(consumer, name, missing)
    if (
        static is not missing
        and not isinstance(static, _METHODS)
        and (isinstance(static, type) or not callable(static))
    ):
        return None
    method: object = getattr(consumer, name, None)
    return method if callable(method) else None


def get_handler_name(message: ChannelMessage) -> str:
    """Return the name of the method for a message: its type, with ``_`` for ``.``.

    Raises:
        ValueError: The message has no type, or one that names no method.
    """
    message_type = message.get("type")
    if not isinstance(message_type, str):
        raise ValueError(  # noqa: TRY004 # as for any message without a handler
            "a message needs a 'type', a str that names its handler; "
            f"this one has {message_type!r}: {message!r}"
        )
    name = message_type.replace(".", "_")
    if not name or name.startswith("_"):
        raise ValueError(
            f"malformed message type {message_type!r}: "
            "it must not be empty nor start with '.' or '_'"
        )
    return name


def _require_reachable(
    consumer_class: type[AsyncConsumer], name: str, message_type: str
) -> None:
    """Return if messages of a type may reach the method of a name.

    Raises:
        ValueError: It is a method that every consumer has.
    """
    if name not in _EVENT_HANDLERS and any(
        name in vars(base) or name in inspect.get_annotations(base)
        for base in consumer_class.__mro__
        if base.__module__.partition(".")[0] == _PACKAGE
    ):
        raise ValueError(
            f"no handler for message type {message_type!r}: {name!r} is a method or "
            "attribute that every consumer has, which no message may reach"
        )
