"""The connection of a WebSocket consumer, and its states.

::

    CONNECTING --accept()--> OPEN
        |                     |  \
        |                     |   sending fails --> GONE
        |                     |                      |
        +-- deny(), close() --+-- disconnect, end ---+--> CLOSED

In ``CONNECTING`` and ``OPEN``, events are sent to the server. In ``GONE`` they are too,
but the error of the server ends the handler. In ``CLOSED``, nothing is sent.
"""

import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from typing_extensions import override

from fast_channels.dispatching import DispatchLoop
from fast_channels.eager import EagerDispatch
from fast_channels.exceptions import StopConsumer
from fast_channels.frames import Frame, Outlet, socket_outlet
from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.shared import SharedMessage
from fast_channels.sources import Source
from fast_channels.type_defs import ChannelMessage, WebSocketDisconnectEvent

from .broadcast import Renderer, renderers_of, shares_frames
from .closing import send_close
from .connection import SERVICE_RESTART, Dispatch, Step, Take
from .groups import GroupConnection
from .handlers import awaitable
from .layer_lookup import layer_of
from .signals import ClientGone
from .timing import Timing

if TYPE_CHECKING:
    from .websocket_consumer import AsyncWebsocketConsumer

__all__ = [
    "ABNORMAL",
    "CLOSED",
    "CONNECTING",
    "NORMAL",
    "State",
    "WebSocketConnection",
]

# Close codes, https://www.rfc-editor.org/rfc/rfc6455.html#section-7.4.1
NORMAL = 1000
"""The close code of a connection that has done its work."""
ABNORMAL = 1006
"""The close code of a connection whose client has vanished, or was refused."""
_NO_CODE = 1005
_INTERNAL_ERROR = 1011

_DISCONNECT = "websocket.disconnect"

# The exceptions that frameworks raise when the client is gone, and for which they close
# the connection with the exception's code. No framework is imported to compare them.
_DISCONNECTED = "WebSocketDisconnect"
_CLOSES = "WebSocketException"


class State(enum.Enum):
    """What can be sent to the client."""

    CONNECTING = enum.auto()
    OPEN = enum.auto()
    GONE = enum.auto()
    CLOSED = enum.auto()


# Names of their own: access through the class costs as much as a call.
CONNECTING, OPEN, GONE, CLOSED = State


class WebSocketConnection(GroupConnection["AsyncWebsocketConsumer"]):
    """The connection of one WebSocket."""

    __slots__ = (
        "_closed_here",
        "_code",
        "_connected",
        "_mailbox",
        "_renderers",
        "_restarts",
        "accepted",
        "state",
    )

    def __init__(self, consumer: "AsyncWebsocketConsumer", timing: Timing) -> None:
        super().__init__(consumer, timing)
        self.state: State = CONNECTING
        """What can be sent to the client."""
        self.accepted: bool = False
        """Whether ``accept()`` was called."""
        # Whether websocket.connect was received and disconnect() has yet to be called.
        self._connected = False
        # Whether close() has closed an open connection.
        self._closed_here = False
        # Whether the connection ends because the server restarts.
        self._restarts = False
        # The renderers of the consumer's class, if it has any and frames can be shared.
        self._renderers: Mapping[str, Renderer] | None = None
        # The mailbox of its channel, if it has renderers.
        self._mailbox: Mailbox | None = None
        # The code for disconnect() when the server reports none.
        self._code = NORMAL

    # The life of a connection

    @override
    def check(self) -> None:
        kind = self.consumer.scope.get("type", "websocket")
        if kind != "websocket":
            raise ValueError(
                f"{self.name} serves WebSockets, but was called for a scope of type "
                f"{kind!r}; give it a WebSocket route"
            )
        super().check()

    @override
    async def serve(self, receive: Source, dispatch: Dispatch) -> None:
        consumer = self.consumer
        renderers = renderers_of(type(consumer))
        if renderers and shares_frames(consumer):
            self._renderers = renderers
            dispatch = self._handle_or_show
        loop = self.new_loop(dispatch)
        if layer_of(self.consumer) is None:
            await self.live(loop, receive, [receive])
        else:
            # A layer wakes a consumer more often than the client does.
            await loop.listen(receive, self.live(loop, receive, ()))

    @override
    async def begin(self, receive: Source) -> None:
        event = await receive()
        self._connected = event.get("type") == "websocket.connect"
        await self.consumer.dispatch(event)
        # After connect(), which may have replaced base_send.
        self._open_outlet()

    @override
    async def finish(
        self, signal: Exception, loop: DispatchLoop, sources: Sequence[Source]
    ) -> None:
        if isinstance(signal, ClientGone):
            # Until the disconnect, which is all that remains.
            await loop.run(sources)

    @override
    def steps(self, cause: BaseException | None) -> list[Step]:
        async def close() -> None:
            await self._close_after(cause)

        async def disconnect() -> None:
            with self.logged("disconnect"):
                await self.disconnect_once(self._code_for(cause))

        return [close, self.leave_groups, disconnect, *super().steps(cause)]

    @override
    async def restart(self) -> None:
        self._restarts = True
        self.close(SERVICE_RESTART)
        await super().restart()

    # Broadcasts

    @override
    def take_from(self, mailbox: Mailbox) -> Take:
        if self._renderers is None:
            return super().take_from(mailbox)
        self._mailbox = mailbox
        return mailbox.take_shared

    def _handle_or_show(
        self, message: ChannelMessage | SharedMessage
    ) -> Awaitable[None]:
        """Call the handler for a message, or send the frame that it has become."""
        if type(message) is not SharedMessage:
            return self.handle(cast("ChannelMessage", message))
        assert self._renderers is not None
        renderer = self._renderers.get(message.handler)
        if renderer is None:
            return self.handle(message.copies())
        return self.show(message.frame(renderer))

    async def show(self, frame: Frame | None) -> None:
        """Send a frame, as an event, to the client."""
        if frame is None or self.state is CLOSED:
            return
        try:
            await self.consumer.base_send(frame.event())
        except Exception as exc:
            self.raise_if_gone(exc)
            raise

    def _open_outlet(self) -> None:
        """Let broadcasts go past the mailbox while the consumer waits."""
        mailbox, loop = self._mailbox, self.loop
        assert loop is not None
        if mailbox is None or loop.eager is None:
            return
        assert self._renderers is not None
        outlet: Outlet | None = socket_outlet(
            self.consumer.scope, self.consumer.base_send
        )
        if outlet is None:
            outlet = _ConsumerOutlet(self, loop.eager)
        outlet.loop = asyncio.get_running_loop()
        outlet.renderers = self._renderers
        loop.eager.bypass(mailbox, outlet)

    # Sending

    def accept(self) -> None:
        """Note that the consumer accepts the connection."""
        self.accepted = True
        if self.state is CONNECTING:
            self.state = OPEN

    async def transmit(self, event: ChannelMessage) -> None:
        """Send an event to the server.

        Raises:
            ClientGone: The server has raised because the client is gone.
        """
        send = self.consumer.base_send
        try:
            if event["type"] == "websocket.close":
                await send_close(send, event, self.timing.close)
            else:
                await send(event)
        except Exception as exc:
            self.raise_if_gone(exc)
            raise

    def raise_if_gone(self, exc: Exception) -> None:
        """Look at an exception of the server's ``send()``.

        Raises:
            ClientGone: The server has raised it because the client is gone.
        """
        # Servers raise an OSError then, see
        # https://asgi.readthedocs.io/en/latest/specs/www.html#send-event, which
        # frameworks turn into a WebSocketDisconnect. After that exception, or after
        # they have reported the disconnect, they can raise any other one.
        if self.state is not GONE:
            if not self.used or not (
                isinstance(exc, OSError)
                or _is_named(exc, _DISCONNECTED)
                or (self.loop is not None and self.loop.has_received(_DISCONNECT))
            ):
                return
            if self.state is not CLOSED:
                self.state = GONE
            self._expect_disconnect(ABNORMAL, self.timing.disconnect)
        raise ClientGone from exc

    # Closing

    def close(self, code: int) -> None:
        """Send nothing more to the client, and drop its frames.

        Args:
            code: The code for disconnect() if the server reports none.
        """
        if self.state is not GONE:
            self.state, self._code = CLOSED, code
            self._expect_disconnect(code, self.timing.answer)

    def note_sent_close(self) -> None:
        """Note that the close of an open connection was sent."""
        self._closed_here = self.accepted

    def leave(self, event: WebSocketDisconnectEvent) -> int:
        """Note that the client has left; return the code for ``disconnect()``."""
        code = event.get("code")
        # hypercorn reports 1000 after any close().
        if code is None or code == _NO_CODE or (code == NORMAL and self._closed_here):
            code = self._code if self.state is CLOSED else _NO_CODE
        self.state = CLOSED
        return SERVICE_RESTART if self._restarts else code

    async def disconnect_once(self, code: int) -> None:
        """Call ``disconnect()``, unless that was done, or there was no connection."""
        if self._connected:
            self._connected = False
            consumer = self.consumer
            await awaitable(consumer.disconnect(code), consumer, "disconnect")

    def _expect_disconnect(self, code: int, seconds: float) -> None:
        """Drop frames; make up a disconnect if the server reports none in time.

        Servers report it in different ways: hypercorn goes on returning the frames of a
        client that ignores the close, and others wait a long time for that client.
        """
        if self.loop is not None:
            event = {"type": _DISCONNECT, "code": code}
            self.loop.expect(event, seconds, drop="websocket.receive")

    async def _close_after(self, cause: BaseException | None) -> None:
        """Close the connection; if it is open, after an exception, with code 1011."""
        state, self.state = self.state, CLOSED
        if (
            state is OPEN
            and isinstance(cause, Exception)
            and not isinstance(cause, StopConsumer)
            and not _is_named(cause, _CLOSES)
        ):
            event = {"type": "websocket.close", "code": _INTERNAL_ERROR}
            with contextlib.suppress(Exception):
                await send_close(self.consumer.base_send, event, self.timing.close)

    def _code_for(self, cause: BaseException | None) -> int:
        if isinstance(cause, StopConsumer):
            return self._code
        return _INTERNAL_ERROR if isinstance(cause, Exception) else SERVICE_RESTART


class _ConsumerOutlet(Outlet):
    """Sends frames to a client in the task of its consumer.

    Args:
        connection: The connection of the consumer.
        eager: Begins to send while that task waits.
    """

    __slots__ = ("_connection", "_eager")

    def __init__(self, connection: WebSocketConnection, eager: EagerDispatch) -> None:
        super().__init__()
        self._connection = connection
        self._eager = eager
        self.open = True

    @override
    def send(self, frame: Frame) -> None:
        self._eager.begin(frame, self._connection.show, asyncio.current_task())


def _is_named(error: BaseException, name: str) -> bool:
    """Return whether the class of an error, or one of its bases, has this name."""
    return any(each.__name__ == name for each in type(error).__mro__)
