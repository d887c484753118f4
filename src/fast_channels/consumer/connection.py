"""The life of a connection, from its first event to the release of its channel.

A consumer has the methods that users call and override. Its :class:`Connection` serves
it: :meth:`Connection.live` is that life, from top to bottom. Subclasses know what is
particular to a protocol: how a connection begins, and the steps of its end.
"""

import asyncio
import contextlib
import functools
import inspect
import logging
import weakref
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from fast_channels.dispatching import DispatchLoop
from fast_channels.exceptions import StopConsumer
from fast_channels.layers.foreign import as_layer
from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.notices import Notice
from fast_channels.sources import Source
from fast_channels.type_defs import ChannelMessage

from .closing import send_close
from .handlers import (
    awaitable,
    find_method,
    get_handler_name,
    names_of,
    require_reachable,
)
from .layer_lookup import layer_of, note_missing
from .signals import signal_in
from .timing import Timing

if TYPE_CHECKING:
    from .base import AsyncConsumer

__all__ = [
    "SERVICE_RESTART",
    "Connection",
    "Dispatch",
    "Step",
    "Take",
    "live_connections",
]

# The logger of the consumers.
_logger = logging.getLogger(f"{__package__}.base")

SERVICE_RESTART = 1012
"""The close code of a server that restarts, in the registry of the IANA:
https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number"""

_Consumer = TypeVar("_Consumer", bound="AsyncConsumer")

Take: TypeAlias = Callable[[], Any]
"""A function that returns the next message of a channel, or None."""

Dispatch: TypeAlias = Callable[[ChannelMessage], Awaitable[None]]
"""A function to await with each message."""

Step: TypeAlias = Callable[[], Awaitable[None]]
"""A step of the end of a connection."""

live_connections: "weakref.WeakValueDictionary[int, Connection[Any]]" = (
    weakref.WeakValueDictionary()
)
"""The connections that this process serves, in all event loops."""


class Connection(Generic[_Consumer]):
    """The connection that a consumer serves.

    Args:
        consumer: The consumer.
        timing: How long to wait.
    """

    __slots__ = (
        "__weakref__",
        "_names",
        "attached",
        "consumer",
        "ended",
        "loop",
        "name",
        "task",
        "timing",
    )

    def __init__(self, consumer: _Consumer, timing: Timing) -> None:
        self.consumer: _Consumer = consumer
        """The consumer. Deleted at the end, as it refers to its connection."""
        self.loop: DispatchLoop | None = None
        """Dispatches the messages; None before the connection is served."""
        self.name: str = type(consumer).__qualname__
        """The name of the consumer's class."""
        self.timing: Timing = timing
        """How long it waits."""
        self.task: asyncio.Task[Any]
        """The task that runs the handlers, once it does."""
        self.ended: asyncio.Event | None = None
        """Set when the connection has ended. Its creator may cancel the task; that
        cancellation is hidden from the server."""
        self.attached: bool = False
        """Whether the channel is read through ``attach()``. The ``delete_channel()`` of
        such a layer also removes the channel from all its groups."""
        # The names of the handlers of the consumer's class by message type.
        self._names = names_of(type(consumer))

    @property
    def used(self) -> bool:
        """Whether the connection is or was served."""
        return self.loop is not None or self.over

    @property
    def over(self) -> bool:
        """Whether the connection has ended."""
        return not hasattr(self, "consumer")

    # The life of a connection

    def check(self) -> None:
        """Check the scope, before there is anything to release."""

    async def serve(self, receive: Source, dispatch: Dispatch) -> None:
        """Serve the connection until it ends, in this task or in another one.

        Args:
            receive: A function that waits for the next event of the server.
            dispatch: Awaited with each message, to call its handler.
        """
        await self.live(self.new_loop(dispatch), receive, [receive])

    def new_loop(self, dispatch: Dispatch) -> DispatchLoop:
        """Return the loop that dispatches the messages of this connection."""
        loop = self.loop = DispatchLoop(dispatch)
        return loop

    async def live(
        self, loop: DispatchLoop, receive: Source, sources: Sequence[Source]
    ) -> None:
        """Serve the connection in this task.

        Args:
            loop: The loop that dispatches the messages.
            receive: A function that waits for the next event of the server.
            sources: The sources of the loop, besides the channel.
        """
        self.task = cast("asyncio.Task[Any]", asyncio.current_task())
        live_connections[id(self)] = self
        cause: BaseException | None = None
        try:
            try:
                sources, take = await self._open_channel(loop, sources)
                await self.begin(receive)
                # Each message resumes every coroutine on this stack: keep it short.
                await loop.run(sources, take)
            except (StopConsumer, ExceptionGroup) as exc:
                signal = signal_in(exc, StopConsumer)
                if signal is not None:
                    await self.finish(signal, loop, sources)
                raise
        except BaseException as exc:
            cause = signal_in(exc, StopConsumer) or exc
            note_missing(self.consumer, exc)
            if not (isinstance(cause, StopConsumer) or self._absorb(exc)):
                raise
        finally:
            try:
                await self._end(cause)
            finally:
                del live_connections[id(self)], self.consumer
                self.loop = None
                if self.ended is not None:
                    self.ended.set()

    async def begin(self, receive: Source) -> None:
        """Dispatch the first event, if the protocol has one, before the channel's."""

    async def finish(
        self, signal: Exception, loop: DispatchLoop, sources: Sequence[Source]
    ) -> None:
        """Dispatch what remains when a handler has stopped the consumer."""

    def steps(self, cause: BaseException | None) -> list[Step]:
        """Return the steps of the end, in order.

        They raise nothing but CancelledError, so that the cause reaches the server.

        Args:
            cause: The exception that ended the connection.
        """
        return [self._close_channel]

    async def restart(self) -> None:
        """End the connection because the server restarts; do not wait for the end.

        If it is a WebSocket, it is closed with code 1012.
        """
        consumer = self.consumer
        if consumer.scope.get("type") == "websocket":
            send, consumer.base_send = consumer.base_send, _send_nothing
            # Servers can raise any exception if the connection is closed already.
            with contextlib.suppress(Exception):
                event = {"type": "websocket.close", "code": SERVICE_RESTART}
                await send_close(send, event, self.timing.close)

    # Dispatching

    def handle(self, message: ChannelMessage) -> Awaitable[None]:
        """Call the handler for a message, with one coroutine less than dispatch()."""
        try:
            name = self._names[message["type"]]
        except (KeyError, TypeError):
            # It is new, or there is none, or it has no hash.
            pass
        else:
            handler: Callable[[ChannelMessage], Awaitable[None]] = getattr(
                self.consumer, name
            )
            return handler(message)
        # Not above: errors would show a KeyError first, which says nothing.
        return self._handle_new(message)

    def _handle_new(self, message: ChannelMessage) -> Awaitable[None]:
        """Call the handler for a message whose type is not among the known ones."""
        consumer = self.consumer
        name = get_handler_name(message)
        message_type = cast("str", message["type"])
        require_reachable(type(consumer), name, message_type)
        handler = find_method(consumer, name)
        if handler is None:
            if isinstance(message, Notice):
                return _ignore()
            raise ValueError(
                f"no handler for message type {message_type!r}: "
                f"{self.name} has no method {name!r}"
            )
        if inspect.iscoroutinefunction(handler) and hasattr(type(consumer), name):
            # Other types are not remembered: clients could make up any number of them.
            self._names[message_type] = name
        return awaitable(handler(message), consumer, name)

    # The channel

    async def _open_channel(
        self, loop: DispatchLoop, sources: Sequence[Source]
    ) -> tuple[Sequence[Source], Take | None]:
        """Return the arguments for the loop's ``run()``, the channel included."""
        consumer = self.consumer
        layer = layer_of(consumer)
        if layer is None:
            return sources, None
        consumer.channel_name = await layer.new_channel()
        mailbox = as_layer(layer).attach(consumer.channel_name, loop.wake)
        if mailbox is None:
            return [*sources, consumer.channel_receive], None
        self.attached = True
        return sources, self.take_from(mailbox)

    def take_from(self, mailbox: Mailbox) -> Take:
        """Return the function that takes the messages of the consumer's mailbox."""
        return mailbox.take

    async def _close_channel(self) -> None:
        if self.has_channel():
            consumer = self.consumer
            await self.release(
                functools.partial(
                    as_layer(consumer.channel_layer).delete_channel,
                    consumer.channel_name,
                ),
                "release its channel",
            )

    def has_channel(self) -> bool:
        """Return whether the consumer has a layer and a channel."""
        channel = cast("str | None", self.consumer.channel_name)
        return layer_of(self.consumer) is not None and channel is not None

    # The end

    def _absorb(self, cause: BaseException) -> bool:
        """Return whether to hide the cause of the end from the server."""
        asked = self.ended is not None and isinstance(cause, asyncio.CancelledError)
        return asked and not self.task.uncancel()

    async def _end(self, cause: BaseException | None) -> None:
        """Take the steps of the end; if one is cancelled, the others still run."""
        error: BaseException | None = None
        for step in self.steps(cause):
            try:
                await step()
            except BaseException as exc:  # noqa: BLE001 # raised below
                error = exc
        if error is not None:
            try:
                raise error
            finally:
                # Break the reference cycle of the exception and this frame.
                del error

    async def release(self, step: Step, what: str) -> None:
        """Run a step that needs the layer; log its errors.

        A step that is cancelled runs again, shielded from cancellation and for a
        bounded time, so every step must tolerate running twice.
        """
        with self.logged(what):
            try:
                await step()
            except asyncio.CancelledError:
                again = asyncio.ensure_future(
                    asyncio.wait_for(step(), self.timing.release)
                )
                while not again.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([again])
                with self.logged(what):
                    again.result()
                raise

    @contextlib.contextmanager
    def logged(self, what: str) -> Generator[None]:
        """Log the errors of a step, so that the next step still runs."""
        try:
            yield
        except Exception as exc:
            if signal_in(exc, StopConsumer) is None:
                note_missing(self.consumer, exc)
                _logger.exception("%s could not %s", self.name, what)


async def _ignore() -> None:
    """Ignore a message that needs no handler."""


async def _send_nothing(event: ChannelMessage) -> None:
    """Drop an event for a connection that is closed."""
