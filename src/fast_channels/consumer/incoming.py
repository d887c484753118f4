"""Receive the events of a WebSocket's client until it has disconnected.

Once the connection is closed, only the disconnect event counts. Servers report it in
different ways: hypercorn goes on returning the frames of a client that ignores the
close, and others wait a long time for that client. So frames are dropped after the
close, and a disconnect event is made up if none comes in time.
"""

import asyncio
from collections.abc import MutableMapping
from typing import Any, cast

from fast_channels.dispatching import DispatchLoop
from fast_channels.type_defs import ASGIReceiveCallable, ChannelMessage

__all__ = ["Incoming"]


def _is_disconnect(event: ChannelMessage) -> bool:
    """Return whether an event is the disconnect of the client."""
    return event.get("type") == "websocket.disconnect"


class Incoming:
    """The events of one client.

    Args:
        receive: The ``receive()`` of the server.
        loop: The loop that dispatches the events.
    """

    __slots__ = (
        "_code",
        "_deadline",
        "_expired",
        "_loop",
        "_receive",
        "_timer",
        "_waiting",
    )

    def __init__(self, receive: ASGIReceiveCallable, loop: DispatchLoop) -> None:
        self._receive = receive
        self._loop = loop
        # The time to make up a disconnect, on the clock of the event loop; None while
        # the connection is open.
        self._deadline: float | None = None
        # The close code of a disconnect that is made up.
        self._code: int | None = None
        # The task that waits for the server.
        self._waiting: asyncio.Task[Any] | None = None
        # Cancels that task at the deadline.
        self._timer: asyncio.Handle | None = None
        # Whether the timer has cancelled it.
        self._expired = False

    def close(self, code: int, patience: float) -> None:
        """Dispatch nothing but the disconnect from now on.

        Args:
            code: The close code of the disconnect if the server sends none in time.
            patience: Seconds to wait for the server.
        """
        self._code = code
        self._deadline = asyncio.get_running_loop().time() + patience
        if self._waiting is not None and not self._expired:
            self._set_timer(self._deadline)
        self._loop.drop(lambda event: not _is_disconnect(event))

    def has_left(self) -> bool:
        """Return whether the disconnect was received but not dispatched yet."""
        return self._loop.has_received(_is_disconnect)

    async def receive(self) -> MutableMapping[str, Any]:
        """Wait for the next event. Cancelling loses no event."""
        # In effect asyncio.timeout_at(self._deadline), which would make receiving and
        # handling a frame half as slow again.
        task = self._waiting = cast("asyncio.Task[Any]", asyncio.current_task())
        others = task.cancelling()
        if self._deadline is not None:
            self._set_timer(self._deadline)
        try:
            while True:
                event = await self._receive()
                if self._deadline is None or _is_disconnect(event):
                    return event
                # Yield: the server can return many frames without ever waiting.
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not self._expired or task.cancelling() - 1 > others:
                raise
            return {"type": "websocket.disconnect", "code": self._code}
        finally:
            self._waiting = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
                if self._expired:
                    self._expired = False
                    task.uncancel()

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = (
            loop.call_at(deadline, self._expire)
            if deadline > loop.time()
            else loop.call_soon(self._expire)
        )

    def _expire(self) -> None:
        assert self._waiting is not None
        self._expired = True
        self._waiting.cancel()
