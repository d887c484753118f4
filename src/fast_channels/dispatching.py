"""Dispatch the messages of several sources in one task.

A consumer receives events of its client through ASGI's ``receive()``, and messages of
other processes and consumers through its channel. :class:`DispatchLoop` takes from
both and dispatches one message at a time::

    server                    layer
       |                        |  put(), then wake()
       v                        v
    source: receive()        mailbox
       |  awaited by a pump     |  take()
       +-----------+------------+
                   v
           DispatchLoop.run()     one message at a time
                   |
                   v
           dispatch(message)      finds the method for the message's type
                   |
                   v
           handler                websocket_receive(), chat_message(), ...

The rules:

1. Messages of one source are dispatched in the order they arrived; sources that have
   messages at the same time take turns.
2. Each source has a pump: a task that awaits the source again only when its last
   message has been dispatched. It lasts as long as the loop runs, or is the task that
   calls ``listen()``. Then the loop has its own task: waking a server's task resumes
   every coroutine of frameworks and middleware in it, for each message. A single source
   without a mailbox needs no pump; a layer without mailboxes is a source too.
3. A mailbox needs no pump. Its messages are taken right before they are dispatched,
   so that none is lost when the loop ends.
4. A mailbox calls ``wake()`` once for each new message, in any thread. The loop creates
   the future that it waits on before it looks for messages, so none is overlooked.
5. While the loop waits in its own task, messages of the mailbox are dispatched without
   waking that task, see ``eager``; it wakes only for handlers that wait.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import CoroutineType
from typing import Any, TypeAlias, cast

from .eager import RUN, Begun, FirstSteps, enter_task, leave_task
from .type_defs import ChannelMessage
from .waking import resolve, running_loop, wake

__all__ = ["DispatchLoop", "await_many_dispatch"]

_Source: TypeAlias = Callable[[], Awaitable[ChannelMessage]]
_Dispatch: TypeAlias = Callable[[Any], Awaitable[None]]

# Returned by the first step of a handler that ends without waiting.
_ENDED = object()

_Received: TypeAlias = list[tuple[ChannelMessage, asyncio.Future[None]] | BaseException]


async def _wait_for(awaitable: Awaitable[None]) -> None:
    await awaitable


def _take_nothing() -> None:
    return None


async def _hear_nothing() -> ChannelMessage:
    never: asyncio.Future[ChannelMessage] = asyncio.get_running_loop().create_future()
    return await never


class DispatchLoop:
    """Dispatches the messages of several sources, one at a time.

    Args:
        dispatch: Awaited with each message.
    """

    __slots__ = (
        "_begun",
        "_context",
        "_dispatch",
        "_ended",
        "_first_steps",
        "_gate",
        "_listener",
        "_new",
        "_received",
        "_sleeper",
        "_take",
        "_worker",
    )

    def __init__(self, dispatch: _Dispatch) -> None:
        self._dispatch = dispatch
        # Whether the pumps have been cancelled.
        self._ended = False
        # Received and not dispatched yet: messages, each with its gate, the future that
        # its pump waits on; and exceptions that ended a pump. At most one item for each
        # source.
        self._received: _Received = []
        # The future that the loop waits on while there is nothing to dispatch.
        self._sleeper: asyncio.Future[None] | None = None
        # The gate to open before the source is awaited again.
        self._gate: asyncio.Future[None] | None = None
        # The task in listen(), until the end of the worker interrupts it.
        self._listener: asyncio.Task[Any] | None = None
        # The worker: the loop's own task, if listen() has started one.
        self._worker: asyncio.Task[None] | None = None
        # The context of the worker, if step() can run handlers in it.
        self._context: contextvars.Context | None = None
        # Returns the next message of the mailbox, or None.
        self._take: Callable[[], ChannelMessage | None] = _take_nothing
        # Schedules calls of step() while the worker waits; None while it is awake.
        self._first_steps: FirstSteps | None = None
        # Calls of wake() since the last step(); if there are any, step() is scheduled.
        self._new = 0
        # The handler that the worker has to finish, or the exception that it raises.
        self._begun: Begun | BaseException | None = None

    def wake(self) -> None:
        """Notify the loop of one new message in the mailbox. Safe in any thread."""
        first_steps = self._first_steps
        if first_steps is not None and first_steps.loop is running_loop():
            if not self._new:
                first_steps.add(self)
            self._new += 1
            return
        sleeper = self._sleeper
        if sleeper is not None and not sleeper.done():
            wake(sleeper)

    def step(self) -> None:
        """Dispatch new messages; wake the worker for a handler that waits."""
        new, self._new = self._new, 0
        sleeper, first_steps = self._sleeper, self._first_steps
        if sleeper is None or sleeper.done() or first_steps is None:
            # The worker is awake, and takes the messages itself.
            return
        if new > RUN:
            # The worker yields to the event loop after every RUN messages.
            resolve(sleeper)
            return
        loop, worker, context = first_steps.loop, self._worker, self._context
        assert worker is not None
        assert context is not None
        take, dispatch = self._take, self._dispatch
        try:
            enter_task(loop, worker)
        except RuntimeError:
            # A task is running the event loop within one of its own steps.
            resolve(sleeper)
            return
        try:
            while (message := take()) is not None:
                awaitable = dispatch(message)
                handler = (
                    cast("Coroutine[Any, Any, None]", awaitable)
                    if type(awaitable) is CoroutineType
                    else _wait_for(awaitable)
                )
                # next() with a default is much faster than send() and StopIteration.
                waits_for = context.run(next, handler.__await__(), _ENDED)
                if waits_for is not _ENDED:
                    self._begun = Begun(handler, waits_for)
                    break
                new -= 1
                if not new or sleeper.done():
                    return
            else:
                return
        except BaseException as exc:  # noqa: BLE001 # the worker raises it
            self._begun = exc
        finally:
            leave_task(loop, worker)
        resolve(sleeper)

    async def run(
        self,
        sources: Sequence[_Source],
        take: Callable[[], ChannelMessage | None] | None = None,
    ) -> None:
        """Dispatch messages until a source or a handler raises, and raise that.

        Cancelling ends the loop and its pumps. Whenever the loop ends, at most one
        message of each source is lost: the one already received.

        Args:
            sources: Functions to await for messages, one for each call.
            take: Returns the next message of a mailbox, or None if the mailbox is
                empty; call ``wake()`` for each message that is added to it.
        """
        if take is None and len(sources) == 1 and self._context is None:
            await self._run_alone(sources[0])
        take = self._take = take or _take_nothing
        loop = asyncio.get_running_loop()
        ready, dispatch = self._received, self._dispatch
        run = 0
        sleeper = self._sleeper = loop.create_future()
        first_steps = None if self._context is None else FirstSteps.here()
        self._open_gate()
        pumps = [asyncio.create_task(self._pump_apart(source)) for source in sources]
        try:
            while True:
                if ready:
                    await self._dispatch_ready(ready.pop(0))
                message = take()
                if message is not None:
                    await dispatch(message)
                elif not ready:
                    # The future was created before take(): a message that was added
                    # since then has resolved it.
                    self._first_steps = first_steps
                    error: asyncio.CancelledError | None = None
                    try:
                        await sleeper
                    except asyncio.CancelledError as exc:
                        error = exc
                    self._first_steps = None
                    if error is not None or self._begun is not None:
                        await self._go_on(error)
                    sleeper = self._sleeper = loop.create_future()
                    run = 0
                    continue
                run += 1
                if run >= RUN:
                    run = 0
                    await asyncio.sleep(0)
        finally:
            await self._end(pumps)

    async def listen(self, source: _Source, work: Coroutine[Any, Any, None]) -> None:
        """Pump a source here while ``work`` runs in a task; return or raise as it does.

        The source is first awaited when the work runs this loop or calls
        ``receive()``. Cancelling this task cancels the work; either way, the method
        ends only when the work has ended.

        Args:
            source: A function to await for messages, one for each call.
            work: The coroutine for the other task, run in a copy of this context.
        """
        this = self._listener = cast("asyncio.Task[Any]", asyncio.current_task())
        others = this.cancelling()
        gate = self._gate = asyncio.get_running_loop().create_future()
        worker = self._worker = self._start(work)
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
                self._receive(exc)
                # A source that has ended is not awaited again.
                source = _hear_nothing
        left = this.cancelling() if self._listener is this else this.uncancel()
        self._listener = None
        if left > others and not worker.cancelled() and worker.exception() is None:
            raise asyncio.CancelledError
        worker.result()

    async def receive(self) -> Any:
        """Wait for the next message of the source that ``listen()`` pumps.

        After this message, the source is not awaited until the next call, or until the
        loop runs.
        """
        self._open_gate()
        loop = asyncio.get_running_loop()
        while not self._received:
            sleeper = self._sleeper = loop.create_future()
            await sleeper
        item = self._received.pop(0)
        if isinstance(item, BaseException):
            raise item
        message, self._gate = item
        return message

    def has_received(self, wanted: Callable[[ChannelMessage], bool]) -> bool:
        """Return whether a wanted message was received but not dispatched yet."""
        return any(
            not isinstance(item, BaseException) and wanted(item[0])
            for item in self._received
        )

    def drop(self, unwanted: Callable[[ChannelMessage], bool]) -> None:
        """Drop unwanted messages that were received but not dispatched yet."""
        for item in list(self._received):
            if not isinstance(item, BaseException) and unwanted(item[0]):
                self._received.remove(item)
                resolve(item[1])

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task for the work, and return it."""
        if asyncio.get_running_loop().get_task_factory() is not None:
            # A task factory can lack support for contexts, or make third-party tasks.
            return asyncio.create_task(work)
        self._context = contextvars.copy_context()
        return asyncio.create_task(work, context=self._context)

    def _interrupt(self, _: object) -> None:
        # None: the listener has already noticed that the worker has ended.
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()

    def _replace_gate(self, gate: asyncio.Future[None]) -> asyncio.Future[None]:
        """Return a gate in place of a cancelled one, open if that had been opened."""
        other: asyncio.Future[None] = gate.get_loop().create_future()
        if self._gate is gate:
            self._gate = other
        else:
            other.set_result(None)
        return other

    async def _end(self, pumps: Sequence[asyncio.Task[None]]) -> None:
        self._ended = True
        for pump in pumps:
            pump.cancel()
        if pumps:
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _go_on(self, error: BaseException | None) -> None:
        """Finish the handler that ``step()`` began, or raise the handler's exception.

        Args:
            error: The cancellation that woke the worker, if one did.
        """
        begun, self._begun = self._begun, None
        if isinstance(begun, Begun):
            await begun.go_on(error)
        else:
            try:
                raise cast("BaseException", error if begun is None else begun)
            finally:
                # Break reference cycles: the tracebacks refer to this frame.
                begun = error = None

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            resolve(gate)

    async def _run_alone(self, source: _Source) -> None:
        """Serve a single source, which needs no pump."""
        run = 0
        while True:
            await self._dispatch(await source())
            run += 1
            if run >= RUN:
                run = 0
                await asyncio.sleep(0)

    async def _dispatch_ready(
        self, item: tuple[ChannelMessage, asyncio.Future[None]] | BaseException
    ) -> None:
        if isinstance(item, BaseException):
            raise item
        message, self._gate = item
        await self._dispatch(message)
        self._open_gate()

    async def _pump_apart(self, source: _Source) -> None:
        try:
            await self._pump(source, apart=True)
        except BaseException as exc:  # noqa: BLE001 # the loop raises it
            if not self._ended:
                self._receive(exc)

    async def _pump(self, source: _Source, *, apart: bool = False) -> None:
        loop = asyncio.get_running_loop()
        while True:
            message = await source()
            if apart and self._ended:
                # The source returned despite being cancelled, as wait_for() can.
                return
            gate: asyncio.Future[None] = loop.create_future()
            self._receive((message, gate))
            await gate

    def _receive(
        self, item: tuple[ChannelMessage, asyncio.Future[None]] | BaseException
    ) -> None:
        self._received.append(item)
        # run() and receive() set the future before they let a pump await its source.
        assert self._sleeper is not None
        resolve(self._sleeper)


async def await_many_dispatch(
    consumer_callables: Sequence[_Source], dispatch: _Dispatch
) -> None:
    """Dispatch the messages of several callables, one at a time.

    Each callable is awaited again when its last message has been dispatched. The
    function runs until a callable or ``dispatch`` raises, or until it is cancelled.

    Args:
        consumer_callables: Functions to await for messages, one for each call.
        dispatch: Awaited with each message.
    """
    await DispatchLoop(dispatch).run(consumer_callables)
