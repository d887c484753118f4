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
5. While the loop waits in its own task, messages are dispatched without waking that
   task, see ``eager``; it wakes only for handlers that wait. Broadcasts need no handler
   then: they go past the mailbox.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from .eager import EagerDispatch
from .sources import RUN, Source, Sources
from .type_defs import ChannelMessage

__all__ = ["DispatchLoop", "await_many_dispatch"]

_Dispatch: TypeAlias = Callable[[Any], Awaitable[None]]
_Take: TypeAlias = Callable[[], ChannelMessage | None]


def _take_nothing() -> None:
    return None


class DispatchLoop:
    """Dispatches the messages of several sources, one at a time.

    Args:
        dispatch: Awaited with each message.
    """

    __slots__ = ("_dispatch", "_eager", "_sources")

    def __init__(self, dispatch: _Dispatch) -> None:
        self._dispatch = dispatch
        self._sources = Sources()
        # Dispatches messages of the mailbox while the loop waits in its own task.
        self._eager: EagerDispatch | None = None

    @property
    def wake(self) -> Callable[[], None]:
        """A function that notifies the loop of one new message in the mailbox.

        It is safe in any thread.
        """
        return self._sources.wake if self._eager is None else self._eager.wake

    async def run(self, sources: Sequence[Source], take: _Take | None = None) -> None:
        """Dispatch messages until a source or a handler raises, and raise that.

        Cancelling ends the loop and its pumps. Whenever the loop ends, at most one
        message of each source is lost: the one already received.

        Args:
            sources: Functions to await for messages, one for each call.
            take: Returns the next message of a mailbox, or None if the mailbox is
                empty; call ``wake()`` for each message that is added to it.
        """
        dispatch, received = self._dispatch, self._sources
        if take is None and len(sources) == 1 and not received.listening:
            await received.serve_alone(sources[0], dispatch)
        take = take or _take_nothing
        loop = asyncio.get_running_loop()
        # Created before the mailbox is looked into, so that wake() is never missed.
        sleeper = received.sleeper = loop.create_future()
        eager = self._eager
        if eager is not None:
            eager.prepare(take, dispatch)
        run = 0
        received.start(sources)
        try:
            while True:
                if received.items:
                    await dispatch(received.take())
                    received.open_gate()
                message = take()
                if message is not None:
                    await dispatch(message)
                elif not received.items:
                    if eager is None:
                        await sleeper
                    else:
                        await eager.sleep(sleeper)
                        received.open_gate()
                    sleeper = received.sleeper = loop.create_future()
                    run = 0
                    continue
                run += 1
                if run >= RUN:
                    run = 0
                    await asyncio.sleep(0)
        finally:
            await received.end()

    def listen(
        self, source: Source, work: Coroutine[Any, Any, None]
    ) -> Coroutine[Any, Any, None]:
        """Pump a source here while ``work`` runs in a task; return or raise as it does.

        The source is first awaited when the work runs this loop. Cancelling this task
        cancels the work; either way, the coroutine ends only when the work has ended.

        Args:
            source: A function to await for messages, one for each call.
            work: The coroutine for the other task, run in a copy of this context.
        """
        context: contextvars.Context | None = None
        # A task factory can lack support for contexts, or make third-party tasks.
        if asyncio.get_running_loop().get_task_factory() is None:
            context = contextvars.copy_context()
            self._eager = EagerDispatch(self._sources, context)
        return self._sources.listen(source, work, context)

    @property
    def eager(self) -> EagerDispatch | None:
        """Dispatches messages while the loop waits in its own task, if it has one."""
        return self._eager

    def expect(self, event: ChannelMessage, seconds: float, *, drop: str) -> None:
        """Drop messages of one type from now on, and wait for one of another type.

        Both are messages of the sources, not of the mailbox.

        Args:
            event: The event to dispatch if no message of its type comes in time.
            seconds: Seconds until it is dispatched.
            drop: The type of the messages to drop.
        """
        self._sources.expect(event, seconds, drop=drop)

    def has_received(self, kind: str) -> bool:
        """Return whether a message of this type was received but not dispatched yet."""
        return self._sources.has_received(kind)


async def await_many_dispatch(
    consumer_callables: Sequence[Source], dispatch: _Dispatch
) -> None:
    """Dispatch the messages of several callables, one at a time.

    Each callable is awaited again when its last message has been dispatched. The
    function runs until a callable or ``dispatch`` raises, or until it is cancelled.

    Args:
        consumer_callables: Functions to await for messages, one for each call.
        dispatch: Awaited with each message.
    """
    await DispatchLoop(dispatch).run(consumer_callables)
