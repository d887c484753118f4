"""How one task serves several sources of messages.

A consumer hears its client through ASGI's ``receive()`` and everybody else through
its channel. :class:`DispatchLoop` takes from both and dispatches one message at a
time, all in the task that runs it. The rules:

1. Messages of one source are dispatched in the order in which they arrived; sources
   that all have something take turns.
2. A source that is awaited has a pump: a task that awaits the source again only when
   its last message has been dispatched. It is made for as long as the loop runs, or is
   the one that calls ``listen()``: then the loop runs in a task of its own, since
   waking a server's task means to go through all that frameworks and middleware
   await, with each message.
3. A mailbox needs no pump. Its messages are taken right before they are dispatched,
   so that none is lost when the loop ends.
4. Whoever has something new calls ``wake()``, once for each message. The loop registers
   its sleeper first and looks for messages second, so that it may be called in any
   thread.
5. While the loop sleeps in a task of its own, messages of the mailbox are dispatched
   without waking it, see ``eager``; it wakes for what has to be awaited.
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

# What the first step of a handler returns if that was all of it.
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
        # What pumps have received and was not dispatched yet: messages, each with the
        # gate at which its pump waits, and the exceptions that ended a pump. It has one
        # item for each source at the most.
        self._received: _Received = []
        # What the loop sleeps on while there is nothing to dispatch.
        self._sleeper: asyncio.Future[None] | None = None
        # At which a pump waits whose message was received by receive().
        self._gate: asyncio.Future[None] | None = None
        # The task that listens, until it is told that the worker has ended: the task of
        # its own that runs the loop.
        self._listener: asyncio.Task[Any] | None = None
        self._worker: asyncio.Task[None] | None = None
        # The context of the worker, if others may make its first steps.
        self._context: contextvars.Context | None = None
        # What they take, and where; None while the worker is awake.
        self._take: Callable[[], ChannelMessage | None] = _take_nothing
        self._first_steps: FirstSteps | None = None
        # How many messages came for the next step, which is to be made soon.
        self._new = 0
        # What the worker is to go on with, or to raise.
        self._begun: Begun | BaseException | None = None

    def wake(self) -> None:
        """Tell the loop that there is one message more to take. Safe in any thread."""
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
        """Dispatch what is new; wake the worker for what it has to await."""
        new, self._new = self._new, 0
        sleeper, first_steps = self._sleeper, self._first_steps
        if sleeper is None or sleeper.done() or first_steps is None:
            # The worker is awake, and looks itself.
            return
        if new > RUN:
            # It lets others have their turn.
            resolve(sleeper)
            return
        loop, worker, context = first_steps.loop, self._worker, self._context
        assert worker is not None
        assert context is not None
        take, dispatch = self._take, self._dispatch
        try:
            enter_task(loop, worker)
        except RuntimeError:
            # A task runs the event loop inside of one of its steps.
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
                # send() would raise StopIteration, which takes longer than all this.
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
        """Dispatch until a source or a handler raises, and let that come out.

        Cancelling ends the loop and its pumps. What is lost then, as whenever the loop
        ends, is at most one message of each source that was already received.

        Args:
            sources: Awaited for one message after the other.
            take: Returns the next message of a mailbox, or None if it is empty;
                ``wake()`` has to be called when it no longer is.
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
                    # The sleeper is older than the look into the mailbox: whatever came
                    # after that has resolved it.
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
        """Be the pump of a source, while another task does the work; end as that does.

        The source is first awaited when the work runs this loop, or calls
        ``receive()``. The work is cancelled whenever this task is, and has to end for
        this to end.

        Args:
            source: Awaited for one message after the other.
            work: What the other task runs, in a copy of this one's context.
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
                    # A source that ends so at once lets others have their turn, too.
                    await asyncio.sleep(0)
                await gate
                await self._pump(source)
            except asyncio.CancelledError:
                # Either the worker has ended, or it is to end.
                if not worker.done():
                    worker.cancel()
                    others += 1
                cancelled = True
                if gate.cancelled():
                    # It is not what was to be cancelled.
                    gate = self._replace_gate(gate)
            except BaseException as exc:  # noqa: BLE001 # the loop raises it
                self._receive(exc)
                # There is nothing more to hear.
                source = _hear_nothing
        left = this.cancelling() if self._listener is this else this.uncancel()
        self._listener = None
        if left > others and not worker.cancelled() and worker.exception() is None:
            raise asyncio.CancelledError
        worker.result()

    async def receive(self) -> Any:
        """Wait for the next message of the source that is listened to.

        The source is awaited again when the one after that is asked for, or when the
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
        """Return whether a message was received that is still to be dispatched."""
        return any(
            not isinstance(item, BaseException) and wanted(item[0])
            for item in self._received
        )

    def drop(self, unwanted: Callable[[ChannelMessage], bool]) -> None:
        """Drop messages that were received and not dispatched yet."""
        for item in list(self._received):
            if not isinstance(item, BaseException) and unwanted(item[0]):
                self._received.remove(item)
                resolve(item[1])

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Return a task for the work."""
        if asyncio.get_running_loop().get_task_factory() is not None:
            # Factories need not know contexts, and their tasks may be of another make.
            return asyncio.create_task(work)
        self._context = contextvars.copy_context()
        return asyncio.create_task(work, context=self._context)

    def _interrupt(self, _: object) -> None:
        # It may have noticed already that the worker has ended, and gone on.
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()

    def _replace_gate(self, gate: asyncio.Future[None]) -> asyncio.Future[None]:
        """Return another gate, open if that one was to be open."""
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
        """Go on with what was begun while the worker slept.

        Args:
            error: What the worker was woken with, if not just so.
        """
        begun, self._begun = self._begun, None
        if isinstance(begun, Begun):
            await begun.go_on(error)
        else:
            try:
                raise cast("BaseException", error if begun is None else begun)
            finally:
                # They refer to this frame.
                begun = error = None

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            resolve(gate)

    async def _run_alone(self, source: _Source) -> None:
        """Serve a single source, which needs neither a pump nor a sleeper."""
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
                # It returned although it was cancelled, as asyncio.wait_for() may.
                return
            gate: asyncio.Future[None] = loop.create_future()
            self._receive((message, gate))
            await gate

    def _receive(
        self, item: tuple[ChannelMessage, asyncio.Future[None]] | BaseException
    ) -> None:
        self._received.append(item)
        # Nothing is heard before somebody asks for it.
        assert self._sleeper is not None
        resolve(self._sleeper)


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
