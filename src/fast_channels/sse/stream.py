"""Send the events of an asynchronous iterator as the response to a request.

One task sends the events, one sends heartbeats, and one waits for the client to go
away. The response ends with the first of the tasks, or when the application shuts down.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any, TypeAlias

from fast_channels.endings import Waiter
from fast_channels.type_defs import ASGIReceiveCallable, ChannelMessage

from .events import HEARTBEAT, ServerSentEvent

__all__ = ["EventStream"]

_Send: TypeAlias = Callable[[Any], Awaitable[None]]

# Seconds for the iterator to end by itself when the application shuts down, and then
# for the client to receive the end.
_FAREWELL = 0.2


# Seconds after a part of the request.
_PAUSE = 0.01


class _ClientGone(Exception):
    """Signal: the client is gone."""


class EventStream:
    """The response to one request.

    Args:
        events: The events. Anything but a ``ServerSentEvent`` is the data of one.
        heartbeat: Seconds without an event after which a comment is sent; None for no
            comments.
    """

    def __init__(self, events: AsyncIterable[Any], heartbeat: float | None) -> None:
        self._events = events
        self._heartbeat = heartbeat
        # One part at a time, since two tasks send.
        self._sending = asyncio.Lock()
        # The time of the last part, on the event loop's clock.
        self._sent_at = 0.0
        self._send: _Send

    async def run(
        self, start: ChannelMessage, receive: ASGIReceiveCallable, send: _Send
    ) -> None:
        """Send the response until it is complete or the client is gone.

        Args:
            start: The event that begins the response.
            receive: The server's.
            send: The server's.

        Raises:
            Exception: What the iterator raises.
        """
        self._send = send
        waiter = Waiter()
        producer = asyncio.create_task(self._produce(start))
        tasks = [producer, asyncio.create_task(_until_gone(receive))]
        if self._heartbeat is not None:
            tasks.append(asyncio.create_task(self._beat(self._heartbeat)))
        for task in tasks:
            task.add_done_callback(lambda _: waiter.wake())
        try:
            while not (waiter.over or any(task.done() for task in tasks)):
                await waiter.sleeper()
            if waiter.over:
                await asyncio.wait([producer], timeout=_FAREWELL)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        errors = [task.exception() for task in tasks if not task.cancelled()]
        for error in errors:
            if error is not None and not isinstance(error, _ClientGone):
                raise error
        if not any(errors):
            with contextlib.suppress(_ClientGone, TimeoutError):
                async with asyncio.timeout(_FAREWELL if waiter.over else None):
                    await self._put(b"", more_body=False)

    async def _produce(self, start: ChannelMessage) -> None:
        """Send the events."""
        try:
            await self._send(start)
            # Servers can hold the headers back until the first part.
            await self._put(HEARTBEAT)
            async for event in self._events:
                each = (
                    event
                    if isinstance(event, ServerSentEvent)
                    else ServerSentEvent(event)
                )
                await self._put(each.encode())
        finally:
            # An asynchronous generator that waits to be continued.
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()

    async def _beat(self, heartbeat: float) -> None:
        """Send a comment whenever nothing else was sent for some time."""
        now = asyncio.get_running_loop().time
        while True:
            idle = now() - self._sent_at
            if self._sending.locked() or idle < heartbeat:
                await asyncio.sleep(max(heartbeat - idle, heartbeat / 10))
            else:
                await self._put(HEARTBEAT)

    async def _put(self, part: bytes, *, more_body: bool = True) -> None:
        """Send a part of the body.

        Raises:
            _ClientGone: The client is gone.
        """
        async with self._sending:
            try:
                await self._send(
                    {"type": "http.response.body", "body": part, "more_body": more_body}
                )
            except OSError as exc:
                # https://asgi.readthedocs.io/en/latest/specs/www.html#disconnected-client-send-exception
                raise _ClientGone from exc
            self._sent_at = asyncio.get_running_loop().time()


async def _until_gone(receive: ASGIReceiveCallable) -> None:
    while True:
        if (await receive())["type"] == "http.disconnect":
            raise _ClientGone
        # The body of the request. Middleware can replay it, forever, without waiting.
        await asyncio.sleep(_PAUSE)
