"""Beginning handlers without waking the tasks that they belong to.

Most handlers never wait: they send to a client whose socket takes what is sent. Waking
a task for each of them costs more than they do, most of all in a group of thousands,
where every task has left the processor's caches since the last message. So a callback
of the event loop makes the first step of handlers as their tasks would, for many tasks
in a row, and a task wakes only to go on with a handler that waits for something.

How to say in whose task a step is made is what asyncio has for tasks of another make:
https://docs.python.org/3/library/asyncio-extending.html
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
"""After so many handlers in a row others get their turn on the event loop, even if none
of them ever waits for anything."""

_Switch: TypeAlias = Callable[[asyncio.AbstractEventLoop, "asyncio.Task[Any]"], None]

enter_task: _Switch = asyncio.tasks._enter_task  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # documented for this
"""Says that a task runs now; takes its event loop and the task."""

leave_task: _Switch = asyncio.tasks._leave_task  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] # as above
"""Says that it no longer does."""


class Stepper(Protocol):
    """Somebody whose task sleeps, and who may have something to do."""

    def step(self) -> None:
        """Do what needs no waking. It must not raise."""


class FirstSteps:
    """Who has something to do in an event loop; one callback is for all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        """The event loop."""
        self._next: list[Stepper] = []

    @classmethod
    def here(cls) -> "FirstSteps":
        """Return those of the event loop that runs."""
        loop = asyncio.get_running_loop()
        first_steps = _by_loop.get(id(loop))
        if first_steps is None:
            first_steps = _by_loop[id(loop)] = cls(loop)
        return first_steps

    def add(self, stepper: Stepper) -> None:
        """Call ``step()`` soon. To be called where the event loop runs."""
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


# By the ID of the event loop, which they keep alive.
_by_loop: "weakref.WeakValueDictionary[int, FirstSteps]" = weakref.WeakValueDictionary()


class Begun:
    """A handler that has made its first step."""

    __slots__ = ("_handler", "_waits_for")

    def __init__(self, handler: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._handler = handler
        self._waits_for = waits_for

    @types.coroutine
    def go_on(self, error: BaseException | None) -> Generator[Any, Any, None]:
        """Go on to its end.

        Args:
            error: What its task was woken with, if that was cancelled meanwhile.
        """
        handler, waits_for = self._handler, self._waits_for
        with contextlib.suppress(StopIteration):
            # As cancelling does with a task that waits.
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
