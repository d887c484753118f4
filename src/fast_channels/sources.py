"""Await sources, one message at a time.

A source is a function to await for each message, such as the ``receive()`` of a server.
Its pump, a task, awaits it again only when its last message has been dispatched: the
pump waits at a gate, a future, until the loop opens it. The pump is a task that lasts
as long as the loop runs, or the task that calls ``listen()``.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeAlias, cast

from .type_defs import ChannelMessage
from .waking import resolve, wake

__all__ = ["RUN", "Gate", "Source", "Sources"]

RUN = 64
"""Messages dispatched in a row before the event loop gets a turn."""

Source: TypeAlias = Callable[[], Awaitable[ChannelMessage]]
"""A function to await for messages, one for each call."""

Gate: TypeAlias = asyncio.Future[None]
"""What a pump waits at before it awaits its source again."""

_NO_EVENT: ChannelMessage = {}


class Eager(Protocol):
    """Can dispatch messages itself."""

    def offer(self, message: ChannelMessage) -> Gate | None:
        """Dispatch a message, or pass it to ``Sources.receive()``.

        Returns:
            The gate to wait at, or None if the message is handled.
        """


async def _hear_nothing() -> ChannelMessage:
    never: asyncio.Future[ChannelMessage] = asyncio.get_running_loop().create_future()
    return await never


class Sources:
    """The sources of one loop, and the messages that the loop has yet to dispatch."""

    __slots__ = (
        "_alone",
        "_deadline",
        "_drop",
        "_event",
        "_expired",
        "_gate",
        "_pumps",
        "_timer",
        "eager",
        "items",
        "listener",
        "sleeper",
    )

    def __init__(self) -> None:
        self.items: list[tuple[ChannelMessage, Gate] | BaseException] = []
        """Messages, each with the gate of its pump; and exceptions that ended a pump.

        At most one item for each source."""
        self.sleeper: asyncio.Future[None] | None = None
        """The future that the loop waits on while there is nothing to dispatch."""
        self.eager: Eager | None = None
        """Takes the messages of ``listen()``, if it is set."""
        # The tasks of start(); None before it and after end().
        self._pumps: tuple[asyncio.Task[None], ...] | None = None
        # The gate to open before the source is awaited again.
        self._gate: Gate | None = None
        self.listener: asyncio.Task[Any] | None = None
        """The task in ``listen()``, until the end of the worker interrupts it."""
        # The task that awaits the only source, while it does; see serve_alone().
        self._alone: asyncio.Task[Any] | None = None
        # Set by expect(): the type of messages to drop, the event to make up, the time
        # for that on the event loop's clock, and while the loop runs, its timer.
        self._drop: str | None = None
        self._event: ChannelMessage = _NO_EVENT
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # Whether the timer has cancelled the task in serve_alone().
        self._expired = False

    def wake(self) -> None:
        """Notify the loop of new work. Safe in any thread."""
        sleeper = self.sleeper
        if sleeper is not None and not sleeper.done():
            wake(sleeper)

    # While the loop runs

    async def serve_alone(
        self, source: Source, dispatch: Callable[[ChannelMessage], Awaitable[None]]
    ) -> None:
        """Dispatch the messages of a single source, which needs no pump.

        Returns after ``expect()``, from which on the source needs one.
        """
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        others = task.cancelling()
        run = 0
        try:
            while self._drop is None:
                self._alone = task
                message = await source()
                self._alone = None
                if self._drop is not None:
                    if _type_of(message) != self._drop:
                        self.receive(message)
                    return
                await dispatch(message)
                run += 1
                if run >= RUN:
                    run = 0
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not self._expired or task.cancelling() - 1 > others:
                raise
        finally:
            self._alone = None
            self._stop_timer()
            if self._expired:
                self._expired = False
                task.uncancel()

    def start(self, sources: Sequence[Source]) -> None:
        """Await the sources, and the one of ``listen()``. Set ``sleeper`` before."""
        self.open_gate()
        # Before the tasks: with an eager task factory, they begin at once.
        self._pumps = ()
        self._pumps = tuple(
            asyncio.create_task(self._pump_apart(each)) for each in sources
        )
        self._set_timer()

    async def end(self) -> None:
        """End the tasks of ``start()``."""
        pumps, self._pumps = self._pumps, None
        # A reference cycle.
        self.eager = None
        self._stop_timer()
        if pumps:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def take(self) -> ChannelMessage:
        """Return the first message in ``items``, or raise the exception.

        Call ``open_gate()`` when it has been dispatched.
        """
        item = self.items.pop(0)
        if isinstance(item, BaseException):
            raise item
        message, self._gate = item
        return message

    def open_gate(self) -> None:
        """Let the source of the message that was taken be awaited again."""
        gate, self._gate = self._gate, None
        if gate is not None:
            resolve(gate)

    # Waiting for one last event

    def expect(self, event: ChannelMessage, seconds: float, *, drop: str) -> None:
        """Drop messages of one type from now on, and wait for one of another type.

        Args:
            event: The event to make up if no message of its type comes in time.
            seconds: Seconds until it is made up.
            drop: The type of the messages to drop.
        """
        self._event, self._drop = event, drop
        self._deadline = asyncio.get_running_loop().time() + seconds
        for item in list(self.items):
            if not isinstance(item, BaseException) and _type_of(item[0]) == drop:
                self.items.remove(item)
                resolve(item[1])
        if self._pumps is not None or self._alone is not None:
            self._set_timer()

    def has_received(self, kind: str) -> bool:
        """Return whether a message of this type was received but not taken yet."""
        return any(
            not isinstance(item, BaseException) and _type_of(item[0]) == kind
            for item in self.items
        )

    def _set_timer(self) -> None:
        if self._drop is None or self.has_received(_type_of(self._event)):
            return
        self._stop_timer()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(self._deadline, self._make_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_up(self) -> None:
        """Make up the expected event."""
        self.receive(self._event)
        if self._alone is not None:
            self._expired = True
            self._alone.cancel()

    # In another task

    @property
    def listening(self) -> bool:
        """Whether ``listen()`` pumps a source."""
        return self.listener is not None

    async def listen(
        self,
        source: Source,
        work: Coroutine[Any, Any, None],
        context: contextvars.Context | None,
    ) -> None:
        """Pump a source in this task while another one, the worker, runs the loop.

        The source is first awaited when the loop runs. Cancelling this task cancels the
        worker; either way, the method ends only when the worker has ended. It returns
        or raises as the worker does.

        Args:
            source: A function to await for messages, one for each call.
            work: The coroutine of the worker.
            context: The context of the worker; None for a copy of the current one.
        """
        this = self.listener = cast("asyncio.Task[Any]", asyncio.current_task())
        others = this.cancelling()
        gate = self.close_gate()
        worker = asyncio.create_task(work, context=context)
        worker.add_done_callback(self._interrupt)
        cancelled = False
        while not worker.done():
            try:
                if cancelled:
                    # Yield, in case the source raises CancelledError at once each time.
                    await asyncio.sleep(0)
                await gate
                await self._pump(source)
            except asyncio.CancelledError:
                # Either the worker has ended, or it has to be cancelled.
                if not worker.done():
                    worker.cancel()
                    others += 1
                cancelled = True
                if gate.cancelled():
                    # The cancellation has hit the gate; the source still needs one.
                    gate = self._replace_gate(gate)
            except BaseException as exc:  # noqa: BLE001 # the loop raises it
                self._append(exc)
                # A source that has ended is not awaited again.
                source = _hear_nothing
        left = this.cancelling() if self.listener is this else this.uncancel()
        self.listener = None
        if left > others and not worker.cancelled() and worker.exception() is None:
            raise asyncio.CancelledError
        worker.result()

    def _interrupt(self, _: object) -> None:
        # None: the listener has already noticed that the worker has ended.
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.cancel()

    def _replace_gate(self, gate: Gate) -> Gate:
        """Return a gate in place of a cancelled one, open if that had been opened."""
        other: Gate = gate.get_loop().create_future()
        if self._gate is gate:
            self._gate = other
        else:
            other.set_result(None)
        return other

    # Pumps

    async def _pump_apart(self, source: Source) -> None:
        try:
            await self._pump(source, apart=True)
        except BaseException as exc:  # noqa: BLE001 # the loop raises it
            if self._pumps is not None:
                self._append(exc)

    async def _pump(self, source: Source, *, apart: bool = False) -> None:
        run = 0
        while True:
            message = await source()
            if apart and self._pumps is None:
                # The source returned despite being cancelled, as wait_for() can.
                return
            if self._drop is not None and _type_of(message) == self._drop:
                # Yield: the source may return many of them without ever waiting.
                await asyncio.sleep(0)
                continue
            eager = None if apart or self._drop is not None else self.eager
            gate = self.receive(message) if eager is None else eager.offer(message)
            if gate is not None:
                run = 0
                await gate
                continue
            run += 1
            if run >= RUN:
                run = 0
                await asyncio.sleep(0)

    def receive(self, message: ChannelMessage) -> Gate:
        """Pass a message to the loop; return the gate of its source."""
        if self._drop is not None and _type_of(message) == _type_of(self._event):
            self._stop_timer()
        gate: Gate = asyncio.get_running_loop().create_future()
        self._append((message, gate))
        return gate

    def close_gate(self) -> Gate:
        """Return a new gate, which ``open_gate()`` opens."""
        gate = self._gate = asyncio.get_running_loop().create_future()
        return gate

    def _append(self, item: tuple[ChannelMessage, Gate] | BaseException) -> None:
        self.items.append(item)
        if self.sleeper is not None:
            resolve(self.sleeper)


def _type_of(message: ChannelMessage) -> Any:
    return message.get("type")
