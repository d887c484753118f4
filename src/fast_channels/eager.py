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
import types
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol, TypeAlias

__all__ = [
    "RUN",
    "Begun",
    "FirstSteps",
    "Stepper",
    "enter_task",
    "leave_task",
]

RUN = 64
"""Handlers in a row before the event loop gets a turn, even if none of them waits."""

_Switch: TypeAlias = Callable[[asyncio.AbstractEventLoop, "asyncio.Task[Any]"], None]

enter_task: _Switch = asyncio.tasks._enter_task  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # documented for this
"""Makes a task the current one; takes its event loop and the task."""

leave_task: _Switch = asyncio.tasks._leave_task  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # as above
"""Undoes ``enter_task()``; takes the same arguments."""


class Stepper(Protocol):
    """An object with work to do on behalf of a task that waits."""

    def step(self) -> None:
        """Do the work that needs no wake-up of the task. Must not raise."""


class FirstSteps:
    """The steppers of one event loop that have work; one callback runs them all."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        """The event loop."""
        self._next: list[Stepper] = []

    @classmethod
    def here(cls) -> "FirstSteps":
        """Return the instance for the running event loop."""
        loop = asyncio.get_running_loop()
        first_steps = _by_loop.get(id(loop))
        if first_steps is None:
            first_steps = _by_loop[id(loop)] = cls(loop)
        return first_steps

    def add(self, stepper: Stepper) -> None:
        """Schedule a call of ``step()``. Only for the event loop's own thread."""
        if not self._next:
            self.loop.call_soon(self._run)
        self._next.append(stepper)

    def _run(self) -> None:
        now = self._next[:RUN]
        del self._next[:RUN]
        if self._next:
            self.loop.call_soon(self._run)
        for stepper in now:
            stepper.step()


# Instances by the ID of their event loop, which they keep alive.
_by_loop: "weakref.WeakValueDictionary[int, FirstSteps]" = weakref.WeakValueDictionary()


class Begun:
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
