"""Handlers that are called once for all members of a group."""

import contextlib
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast, overload

from fast_channels.frames import Frame
from fast_channels.type_defs import ChannelMessage

from .handlers import require_reachable

if TYPE_CHECKING:
    from .websocket_consumer import AsyncWebsocketConsumer

__all__ = ["Renderer", "broadcast", "renderers_of", "shares_frames"]

_logger = logging.getLogger(__name__)
_PACKAGE = __name__.rpartition(".")[0]

_E_contra = TypeVar("_E_contra", contravariant=True)
_C_co = TypeVar("_C_co", covariant=True)
_Method: TypeAlias = Callable[[Any, _E_contra], _C_co]

# The attribute of a class that holds its renderers. Not a WeakKeyDictionary: renderers
# refer to the class.
_RENDERERS = "_consumer_renderers"


class broadcast(Generic[_E_contra, _C_co]):  # noqa: N801 # a decorator
    """Decorator for a handler that sends the same to every member of a group.

    The method takes the class and the message, and returns the content: for an
    :class:`AsyncJsonWebsocketConsumer` anything that can be encoded as JSON, else a str
    or bytes; None to send nothing:

    .. not run: a class in this module counts as one of the library

    .. code-block:: text

        class Chat(AsyncJsonWebsocketConsumer):
            groups = ["chat"]

            @broadcast
            def chat_message(cls, event):
                return {"text": event["text"]}

    It is called once for each message in each process, however many members the group
    has there. The content is encoded once, and sent without waking the consumers, as
    far as their clients can take it. A consumer that is busy sends it when the messages
    before it are handled.

    An exception of the method is logged once; then the message is not sent, and no
    connection ends.

    Raises:
        TypeError: The method is a coroutine function.
    """

    def __init__(
        self,
        method: "_Method[_E_contra, _C_co] | classmethod[Any, [_E_contra], _C_co]",
    ) -> None:
        function: Any = getattr(method, "__func__", method)
        if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
            raise TypeError(
                "@broadcast needs a plain function of the class and the event, which "
                f"returns what to send, not {method!r}"
            )
        self._function = cast("_Method[_E_contra, _C_co]", function)
        self.__name__: str = function.__name__
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type[Any], name: str) -> None:
        require_reachable(owner, name, name)

    @overload
    def __get__(
        self, instance: None, owner: type[Any]
    ) -> Callable[[_E_contra], _C_co]: ...
    @overload
    def __get__(
        self, instance: object, owner: type[Any]
    ) -> Callable[[ChannelMessage], Coroutine[Any, Any, None]]: ...
    def __get__(self, instance: Any, owner: type[Any]) -> Callable[..., Any]:
        if instance is None:
            return functools.partial(self._function, owner)
        return functools.partial(_send, instance, self.__name__)

    def __call__(self, consumer_class: type[Any], message: _E_contra) -> _C_co:
        """Return the content for the members with a consumer of this class."""
        return self._function(consumer_class, message)


async def _send(
    consumer: "AsyncWebsocketConsumer", name: str, message: ChannelMessage
) -> None:
    """Send the content for a message to one client."""
    renderer = renderers_of(type(consumer))[name]
    if shares_frames(consumer):
        frame = renderer.frame(message)
        content = None if frame is None else frame.content
    else:
        content = renderer.content(message)
        send_json: Callable[[Any], Awaitable[None]] | None
        send_json = getattr(consumer, "send_json", None)
        if send_json is not None and content is not None:
            await send_json(content)
            return
    if isinstance(content, str):
        await consumer.send(content)
    elif content is not None:
        await consumer.send(bytes_data=content)


class Renderer:
    """Makes frames for all connections with consumers of a class.

    Args:
        consumer_class: The class.
        method: Its method.
    """

    def __init__(
        self,
        consumer_class: "type[AsyncWebsocketConsumer]",
        method: broadcast[Any, Any],
    ) -> None:
        self._class = consumer_class
        self._method = method

    def content(self, message: ChannelMessage) -> Any:
        """Return the content for a message; log an exception and return None."""
        with self._logged(message):
            return self._method(self._class, message)
        return None

    def frame(self, message: ChannelMessage) -> Frame | None:
        """Return the frame for a message, or None for nothing."""
        content = self.content(message)
        if content is None:
            return None
        with self._logged(message):
            frame = Frame(self._class._consumer_encode(content))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # named so as not to clash with a user's
            # Encoded now, as not every str can be.
            frame.encode()
            return frame
        return None

    @contextlib.contextmanager
    def _logged(self, message: ChannelMessage) -> Generator[None]:
        try:
            yield
        except Exception:
            _logger.exception(
                "%s.%s() failed, so a message of type %r was sent to no client",
                self._class.__qualname__,
                self._method.__name__,
                message.get("type"),
            )


def renderers_of(
    consumer_class: "type[AsyncWebsocketConsumer]",
) -> Mapping[str, Renderer]:
    """Return the renderers of a class, by the name of the method."""
    known: dict[str, Renderer] | None = vars(consumer_class).get(_RENDERERS)
    if known is None:
        known = {}
        for name in dir(consumer_class):
            method = inspect.getattr_static(consumer_class, name)
            if isinstance(method, broadcast) and not name.startswith("_"):
                known[name] = Renderer(consumer_class, method)  # pyright: ignore[reportUnknownArgumentType] # a name alone does not tell its types
        setattr(consumer_class, _RENDERERS, known)
    return known


def shares_frames(consumer: "AsyncWebsocketConsumer") -> bool:
    """Return whether a frame does the same for a consumer as its own methods."""
    return all(
        getattr(getattr(consumer, name), "__module__", "").startswith(_PACKAGE)
        for name in ("dispatch", "send", "send_json")
        if hasattr(consumer, name)
    )
