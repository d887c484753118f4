"""Start handlers without waking the tasks that they belong to.

Most handlers never wait: they send to a client whose socket has room. Waking a task
for such a handler costs more than the handler itself, most of all in a group of
thousands, where every task has left the processor's caches since the last message. So
one callback of the event loop runs the first step of handlers for many tasks in a row,
and a task wakes only to finish a handler that waits.

The functions that set the current task for such a step are those that asyncio provides
for third-party tasks: https://docs.python.org/3/library/asyncio-extending.html
"""

import asyncio
import contextlib
import contextvars
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from .frames import Outlet
from .sources import RUN, Gate, Sources
from .type_defs import ChannelMessage
from .waking import resolve, running_loop

__all__ = ["Bypassed", "EagerDispatch", "FirstSteps"]

_Message = TypeVar("_Message")

_Switch: TypeAlias = Callable[[asyncio.AbstractEventLoop, "asyncio.Task[Any]"], None]

# Makes a task the current one; takes its event loop and the task.
_enter_task: _Switch = asyncio.tasks._enter_task  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # documented for this
# Undoes that; takes the same arguments.
_leave_task: _Switch = asyncio.tasks._leave_task  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # as above


class Bypassed(Protocol):
    """A mailbox that broadcasts can go past."""

    direct: Outlet | None


# Returned by the first step of a handler that ends without waiting.
_ENDED = object()


class EagerDispatch:
    """Dispatches the messages of a mailbox while the loop's task waits.

    Args:
        sources: The sources of the loop, whose future wakes it.
        context: The context of the loop's task.
    """

    __slots__ = (
        "_begun",
        "_context",
        "_dispatch",
        "_here",
        "_loop",
        "_mailbox",
        "_new",
        "_outlet",
        "_sources",
        "_steps",
        "_take",
        "_worker",
    )

    def __init__(self, sources: Sources, context: contextvars.Context) -> None:
        self._sources = sources
        self._context = context
        # Schedules calls of step() while the task waits; None while it is awake.
        self._steps: FirstSteps | None = None
        # Calls of wake() since the last step(); if there are any, step() is scheduled.
        self._new = 0
        # The handler that the task has to finish, or the exception that it raises.
        self._begun: _Begun | BaseException | None = None
        # Set by bypass().
        self._mailbox: Bypassed | None = None
        self._outlet: Outlet | None = None

    def prepare(
        self,
        take: Callable[[], ChannelMessage | None],
        dispatch: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Prepare for ``sleep()``, in the same task."""
        self._worker = cast("asyncio.Task[Any]", asyncio.current_task())
        self._here = FirstSteps.here()
        self._loop = self._here.loop
        self._take, self._dispatch = take, dispatch
        self._sources.eager = self

    def bypass(self, mailbox: "Bypassed", outlet: Outlet) -> None:
        """Let broadcasts go past the mailbox while the task waits and runs no handler.

        Args:
            mailbox: The mailbox.
            outlet: Where they go.
        """
        self._mailbox, self._outlet = mailbox, outlet

    def wake(self) -> None:
        """Notify the loop of one new message in the mailbox. Safe in any thread."""
        steps = self._steps
        if steps is not None and steps.loop is running_loop():
            if not self._new:
                steps.add(self)
            self._new += 1
        else:
            self._sources.wake()

    async def sleep(self, sleeper: asyncio.Future[None]) -> None:
        """Wait for the future; dispatch new messages of the mailbox until then."""
        self._steps = self._here
        mailbox = self._mailbox
        if mailbox is not None:
            mailbox.direct = self._outlet
        error: asyncio.CancelledError | None = None
        try:
            await sleeper
        except asyncio.CancelledError as exc:
            error = exc
        self._steps = None
        if mailbox is not None:
            mailbox.direct = None
        if error is not None or self._begun is not None:
            await self._go_on(error)

    def step(self) -> None:
        """Dispatch new messages; wake the task for a handler that waits."""
        new, self._new = self._new, 0
        sleeper, steps = self._sources.sleeper, self._steps
        if sleeper is None or sleeper.done() or steps is None:
            # The task is awake, and takes the messages itself.
            return
        if new > RUN:
            # The task yields to the event loop after every RUN messages.
            resolve(sleeper)
            return
        loop, worker, context = steps.loop, self._worker, self._context
        take, dispatch = self._take, self._dispatch
        try:
            _enter_task(loop, worker)
        except RuntimeError:
            # A task is running the event loop within one of its own steps.
            resolve(sleeper)
            return
        mailbox = self._mailbox
        if mailbox is not None:
            mailbox.direct = None
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
                    self._begun = _Begun(handler, waits_for)
                    break
                new -= 1
                if not new or sleeper.done():
                    return
            else:
                return
        except BaseException as exc:  # noqa: BLE001 # the task raises it
            self._begun = exc
        finally:
            _leave_task(loop, worker)
            if mailbox is not None and self._begun is None:
                mailbox.direct = self._outlet
        resolve(sleeper)

    def offer(self, message: ChannelMessage) -> Gate | None:
        """Dispatch a message of the client if the task waits, else leave it to that.

        Returns:
            The gate to wait at, or None if the handler has ended.
        """
        sources = self._sources
        sleeper = sources.sleeper
        if sleeper is None or sleeper.done() or self._steps is None:
            return sources.receive(message)
        self.begin(message, self._dispatch, sources.listener)
        return None if self._begun is None else sources.close_gate()

    def begin(
        self,
        message: _Message,
        dispatch: Callable[[_Message], Awaitable[None]],
        this: asyncio.Task[Any] | None,
    ) -> None:
        """Make the first step of a handler while the task waits, possibly in another.

        Args:
            message: The argument of the handler.
            dispatch: Calls the handler.
            this: The current task.
        """
        worker, loop = self._worker, self._loop
        mailbox = self._mailbox
        if mailbox is not None:
            mailbox.direct = None
        if this is not None:
            _leave_task(loop, this)
        _enter_task(loop, worker)
        try:
            awaitable = dispatch(message)
            handler = (
                cast("Coroutine[Any, Any, None]", awaitable)
                if type(awaitable) is CoroutineType
                else _wait_for(awaitable)
            )
            waits_for = self._context.run(next, handler.__await__(), _ENDED)
            if waits_for is not _ENDED:
                self._begun = _Begun(handler, waits_for)
        except BaseException as exc:  # noqa: BLE001 # the task raises it
            self._begun = exc
        finally:
            _leave_task(loop, worker)
            if this is not None:
                _enter_task(loop, this)
        if self._begun is None:
            if mailbox is not None:
                mailbox.direct = self._outlet
        else:
            sleeper = self._sources.sleeper
            assert sleeper is not None
            resolve(sleeper)

    async def _go_on(self, error: BaseException | None) -> None:
        """Finish the handler that ``step()`` began, or raise the handler's exception.

        Args:
            error: The cancellation that woke the task, if one did.
        """
        begun, self._begun = self._begun, None
        if isinstance(begun, _Begun):
            await begun.go_on(error)
        else:
            try:
                raise cast("BaseException", error if begun is None else begun)
            finally:
                # Break reference cycles: the tracebacks refer to this frame.
                begun = error = None


class FirstSteps:
    """The steps that are due in one event loop; one callback makes them all."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        """The event loop."""
        self._next: list[EagerDispatch] = []

    @classmethod
    def here(cls) -> "FirstSteps":
        """Return the instance for the running event loop."""
        loop = asyncio.get_running_loop()
        steps = _by_loop.get(id(loop))
        if steps is None:
            steps = _by_loop[id(loop)] = cls(loop)
        return steps

    def add(self, dispatch: EagerDispatch) -> None:
        """Schedule a call of ``step()``. Only for the event loop's own thread."""
        if not self._next:
            self.loop.call_soon(self._run)
        self._next.append(dispatch)

    def _run(self) -> None:
        now = self._next[:RUN]
        del self._next[:RUN]
        if self._next:
            self.loop.call_soon(self._run)
        for dispatch in now:
            dispatch.step()


# Instances by the ID of their event loop, which they keep alive.
_by_loop: "weakref.WeakValueDictionary[int, FirstSteps]" = weakref.WeakValueDictionary()


class _Begun:
    """A handler that has made its first step."""

    __slots__ = ("_handler", "_waits_for")

    def __init__(self, handler: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._handler = handler
        self._waits_for = waits_for

    @types.coroutine
    def go_on(self, error: BaseException | None) -> Generator[Any, Any, None]:
        """Run the handler to its end.

        Args:
            error: The cancellation that woke the handler's task, if one did.
        """
        handler, waits_for = self._handler, self._waits_for
        with contextlib.suppress(StopIteration):
            # Like Task.cancel(): cancel the awaited future, else raise in the handler.
            if error is not None and not (
                asyncio.isfuture(waits_for) and waits_for.cancel()
            ):
                waits_for = handler.throw(error)
            while True:
                try:
                    result = yield waits_for
                except BaseException as exc:  # noqa: BLE001 # the handler deals with it
                    waits_for = handler.throw(exc)
                else:
                    waits_for = handler.send(result)


async def _wait_for(awaitable: Awaitable[None]) -> None:
    await awaitable
