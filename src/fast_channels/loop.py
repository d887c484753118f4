"""How one task serves several sources of messages.

A consumer hears its client through ASGI's ``receive()`` and everybody else through
its channel. :class:`DispatchLoop` takes from both and dispatches one message at a
time, all in the task that runs it. The rules:

1. Messages of one source are dispatched in the order in which they arrived; sources
   that all have something take turns.
2. A source that is awaited has a pump: one task for as long as the loop runs, which
   awaits the source again only when its last message has been dispatched.
3. A mailbox needs no pump. Its messages are taken right before they are dispatched,
   so that none is lost when the loop ends.
4. Whoever has something new calls ``wake()``. The loop registers its sleeper first and
   looks for messages second, so that it may be called in any thread.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from .type_defs import ChannelMessage

__all__ = ["DispatchLoop", "Received", "await_many_dispatch", "wake"]

# After so many messages in a row others get their turn on the event loop, even if no
# handler ever waits for anything.
_RUN = 64

_Source: TypeAlias = Callable[[], Awaitable[ChannelMessage]]
_Dispatch: TypeAlias = Callable[[Any], Awaitable[None]]

Received: TypeAlias = list[tuple[ChannelMessage, asyncio.Future[None]] | BaseException]
"""What pumps have received: messages, each with the gate at which its pump waits, and
the exceptions that ended a pump. It has one item for each source at the most."""


def wake(sleeper: asyncio.Future[None]) -> bool:
    """Resolve the future that a task sleeps on. Safe in any thread.

    Returns:
        False if the task will not wake any more, since its event loop is closed.
    """
    loop = sleeper.get_loop()
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if loop is not running:
        try:
            loop.call_soon_threadsafe(_resolve, sleeper)
        except RuntimeError:
            return False
    elif not sleeper.done():
        sleeper.set_result(None)
    return True


def _resolve(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


def _take_nothing() -> None:
    return None


class DispatchLoop:
    """Dispatches the messages of several sources, one at a time.

    Args:
        dispatch: Awaited with each message.
    """

    __slots__ = ("_dispatch", "_ended", "_sleeper", "received")

    def __init__(self, dispatch: _Dispatch) -> None:
        self._dispatch = dispatch
        # Whether the pumps have been cancelled.
        self._ended = False
        self.received: Received = []
        """What was received and not dispatched yet."""
        # What the loop sleeps on while there is nothing to dispatch.
        self._sleeper: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Tell the loop that there may be something to take. Safe in any thread."""
        sleeper = self._sleeper
        if sleeper is not None and not sleeper.done():
            wake(sleeper)

    async def run(
        self,
        sources: Sequence[_Source],
        take: Callable[[], ChannelMessage | None] | None = None,
    ) -> None:
        """Dispatch until a source or a handler raises, and let that come out.

        Cancelling ends the loop and its pumps. What is lost then, as whenever the loop
        ends, is at most one message of each source that was already received.

        Args:
            sources: Awaited for one message after the other.
            take: Returns the next message of a mailbox, or None if it is empty;
                ``wake()`` has to be called when it no longer is.
        """
        if take is None and len(sources) == 1:
            await self._run_alone(sources[0])
        pumps = [asyncio.create_task(self._pump(source)) for source in sources]
        try:
            await self._run(take or _take_nothing)
        finally:
            self._ended = True
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _run_alone(self, source: _Source) -> None:
        """Serve a single source, which needs neither a pump nor a sleeper."""
        run = 0
        while True:
            await self._dispatch(await source())
            run += 1
            if run >= _RUN:
                run = 0
                await asyncio.sleep(0)

    async def _run(self, take: Callable[[], ChannelMessage | None]) -> None:
        loop = asyncio.get_running_loop()
        ready, dispatch = self.received, self._dispatch
        run = 0
        sleeper = self._sleeper = loop.create_future()
        while True:
            if ready:
                await self._dispatch_ready(ready.pop(0))
            message = take()
            if message is not None:
                await dispatch(message)
            elif not ready:
                # The sleeper is older than the look into the mailbox: whatever came
                # after that has resolved it.
                await sleeper
                sleeper = self._sleeper = loop.create_future()
                run = 0
                continue
            run += 1
            if run >= _RUN:
                run = 0
                await asyncio.sleep(0)

    async def _dispatch_ready(
        self, item: tuple[ChannelMessage, asyncio.Future[None]] | BaseException
    ) -> None:
        if isinstance(item, BaseException):
            raise item
        message, gate = item
        await self._dispatch(message)
        _resolve(gate)

    async def _pump(self, source: _Source) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                message = await source()
                if self._ended:
                    # It returned although it was cancelled, as asyncio.wait_for() may.
                    return
                gate: asyncio.Future[None] = loop.create_future()
                self.received.append((message, gate))
                self.wake()
                await gate
        except BaseException as exc:  # noqa: BLE001 # the loop raises it
            self.received.append(exc)
            self.wake()


async def await_many_dispatch(
    consumer_callables: Sequence[_Source], dispatch: _Dispatch
) -> None:
    """Dispatch whatever several callables return, one message at a time.

    Each callable is awaited again when its last message has been dispatched. It ends
    with the first exception, of a callable or of ``dispatch``, or when it is cancelled.

    Args:
        consumer_callables: Awaited for one message after the other.
        dispatch: Awaited with each message.
    """
    await DispatchLoop(dispatch).run(consumer_callables)
