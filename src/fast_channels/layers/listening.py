"""Groups as an asynchronous iterator: the messages that ``listen()`` returns.

A listener is a channel with a reader, like that of a consumer. It is read through the
mailbox that ``attach()`` returns, or, in a layer without mailboxes, with ``receive()``
in a task. Both are a function that returns the next message or None, and calls
``wake()`` when there is another one. Rules:

1. The layer holds the waiter and the mailbox, but not the :class:`Messages`: these are
   released when nothing else refers to them.
2. The channel is released once, by the first of these: the end of the block, the end of
   the layer, or the garbage collector.
3. Code that is closed by the garbage collector cannot wait, and there may be no event
   loop any more. What the layer does without waiting is done even then.
"""

import asyncio
import contextlib
import functools
import logging
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fast_channels.endings import Waiter
from fast_channels.waking import running_loop

from .history import GroupMessage, Resumed, parse_position

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from .base import BaseChannelLayer

__all__ = ["Messages", "end_listeners"]

_logger = logging.getLogger(__name__)

# Messages returned in a row before the event loop gets a turn.
_RUN = 64

# All that were entered, in all event loops.
_live: "weakref.WeakValueDictionary[int, Messages]" = weakref.WeakValueDictionary()
# References to tasks that release a channel while no caller waits for them.
_releasing: set[asyncio.Task[None]] = set()


class Messages:
    """The messages of some groups, in the order of arrival; see ``listen()``.

    Use it as an asynchronous context manager, once, and read it in one task at a time.

    Args:
        layer: The layer.
        groups: The groups to join.
        since: The positions at which to resume, or the position in the only group that
            has a history.
        last: Number of latest messages to begin with.
    """

    def __init__(
        self,
        layer: "BaseChannelLayer",
        groups: tuple[str, ...],
        since: "str | Mapping[str, str] | None" = None,
        last: int | None = None,
    ) -> None:
        # What the block has created; None before it.
        self._channel: _Channel | None = None
        self.channel_name: str
        """The name of its channel, once the block has begun."""
        self.layer: BaseChannelLayer = layer
        """The layer."""
        self.positions: dict[str, str] = {}
        """The position of the latest message of each group that has a history.

        Before the first message it is the position at which the loop begins."""
        self.complete: bool = True
        """Whether nothing is missing between ``since`` and the first message."""
        self._joins = _joins(layer, groups, since, last)
        # Whether a task is reading.
        self._reading = False
        # The messages returned since the event loop had a turn.
        self._run = 0

    @property
    def ended(self) -> bool:
        """Whether there are no more messages.

        That is so when the application shuts down, when the layer was closed, and when
        the block has ended.
        """
        return self._channel is not None and self._channel.waiter.over

    @property
    def position(self) -> str | None:
        """The position of the latest message, for a client to resume after it.

        Before the first message it is the position at which the loop begins. None
        unless exactly one of the groups has a history; see ``positions``.
        """
        positions = list(self.positions.values())
        return positions[0] if len(positions) == 1 else None

    async def __aenter__(self) -> Self:
        """Join the groups.

        Raises:
            RuntimeError: It was entered before.
            TypeError: A group's name is not valid.
        """
        if self._channel is not None:
            raise RuntimeError(
                "a listener serves one block: call listen() again for another one"
            )
        channel = self._channel = _Channel(self.layer, tuple(self._joins))
        _live[id(self)] = self
        try:
            self.channel_name = await channel.open()
            for group, (since, last) in self._joins.items():
                resumed = await self.layer.group_resume(
                    group, self.channel_name, since=since, last=last
                )
                self.complete &= resumed.complete
                if resumed.position:
                    self.positions[group] = _beginning(resumed)
        except BaseException as exc:
            await self.__aexit__(type(exc), exc, None)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the groups; log errors. If it is cancelled, a task completes it."""
        assert self._channel is not None
        if exc_type is GeneratorExit:
            self._channel.release_soon()
        else:
            await self._channel.release()

    async def end(self) -> None:
        """End the iteration, from any event loop, and leave the groups at once."""
        if self._channel is not None:
            self._channel.waiter.end()
            # In any other event loop, the end of the block does the rest.
            if self._channel.waiter.loop is asyncio.get_running_loop():
                await self._channel.release()

    def __del__(self) -> None:
        if self._channel is not None:
            self._channel.release_soon()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        message = await self.get()
        if message is None:
            raise StopAsyncIteration
        return message

    async def get(self, timeout: float | None = None) -> dict[str, Any] | None:
        """Wait for the next message and return it.

        Cancelling is safe: no message is lost.

        Args:
            timeout: Maximum seconds to wait.

        Returns:
            None when the time is up, or when it has ``ended``.

        Raises:
            RuntimeError: The block has not begun, or another task is reading.
        """
        if self._channel is None:
            raise RuntimeError(
                "the groups are not joined yet: write 'async with layer.listen(...) "
                "as messages' and read in the block"
            )
        if self._reading:
            raise RuntimeError(
                "another task is reading these messages: call listen() in each task"
            )
        self._reading = True
        try:
            message = await self._get(self._channel, timeout)
        finally:
            self._reading = False
        if type(message) is GroupMessage:
            self.positions[message.group] = message.position
        return message

    async def _get(
        self, channel: "_Channel", timeout: float | None
    ) -> dict[str, Any] | None:
        self._run += 1
        if self._run >= _RUN:
            self._run = 0
            await asyncio.sleep(0)
        waiter = channel.waiter
        message = None if waiter.over else channel.take()
        if message is not None:
            return message
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                while not waiter.over:
                    # Created before take(), so that wake() is never missed.
                    sleeper = waiter.sleeper()
                    message = channel.take()
                    if message is not None:
                        return message
                    self._run = 0
                    await sleeper
        except TimeoutError:
            if not scope.expired():
                # The layer's own.
                raise
        return None


class _Channel:
    """The channel of a listener.

    Args:
        layer: The layer.
        groups: The groups to leave in the end.
    """

    __slots__ = (
        "_attached",
        "_groups",
        "_layer",
        "_receiving",
        "name",
        "take",
        "waiter",
    )

    def __init__(self, layer: "BaseChannelLayer", groups: tuple[str, ...]) -> None:
        self._layer = layer
        self._groups = groups
        self.waiter: Waiter = Waiter()
        """Ends the listener, and wakes it for each message."""
        self.name: str | None = None
        """The name of the channel; None before it exists, and once it is released."""
        self.take: Callable[[], dict[str, Any] | None] = self._take_received
        """Returns the next message, or None."""
        # Whether the layer has a mailbox for it.
        self._attached = False
        # The task that receives the next message from a layer without mailboxes.
        self._receiving: asyncio.Task[dict[str, Any]] | None = None

    async def open(self) -> str:
        """Create the channel, and return its name."""
        layer = self._layer
        name = self.name = await layer.new_channel()
        mailbox = layer.attach(name, self.waiter.wake)
        if mailbox is not None:
            self._attached = True
            self.take = mailbox.take
        return name

    async def release(self) -> None:
        """Leave the groups and delete the channel; log errors.

        If it is cancelled, a task does it.
        """
        self.waiter.end()
        name, self.name = self.name, None
        if name is None:
            return
        try:
            await self._delete(name)
        except asyncio.CancelledError:
            self._delete_soon(name)
            raise

    def release_soon(self) -> None:
        """Do the same in a task of the event loop, from any thread."""
        self.waiter.end()
        name, self.name = self.name, None
        if name is None:
            return
        loop = self.waiter.loop
        if loop is running_loop():
            self._delete_soon(name)
            return
        try:
            loop.call_soon_threadsafe(self._delete_soon, name)
        except RuntimeError:
            # The loop is closed, so this cannot wait.
            deleting = self._delete(name)
            with contextlib.suppress(StopIteration):
                deleting.send(None)
            deleting.close()

    def _delete_soon(self, name: str) -> None:
        task = asyncio.ensure_future(self._delete(name))
        # The loop itself has only a weak reference.
        task.add_done_callback(_releasing.discard)
        _releasing.add(task)

    async def _delete(self, name: str) -> None:
        layer = self._layer
        if self._receiving is not None and not self.waiter.loop.is_closed():
            self._receiving.cancel()
        steps: list[Callable[[], Coroutine[Any, Any, None]]] = [
            functools.partial(layer.delete_channel, name)
        ]
        if not self._attached:
            steps[:0] = [
                functools.partial(layer.group_discard, group, name)
                for group in self._groups
            ]
        for step in steps:
            try:
                await step()
            except Exception:
                _logger.exception("channel %r could not be released", name)

    def _take_received(self) -> dict[str, Any] | None:
        """Return the message that ``receive()`` has returned, or None."""
        receiving = self._receiving
        if receiving is not None and receiving.done():
            self._receiving = None
            return receiving.result()
        if receiving is None:
            assert self.name is not None
            self._receiving = asyncio.ensure_future(self._layer.receive(self.name))
            waiter = self.waiter
            self._receiving.add_done_callback(lambda _: waiter.wake())
        return None


def _joins(
    layer: "BaseChannelLayer",
    groups: tuple[str, ...],
    since: "str | Mapping[str, str] | None",
    last: int | None,
) -> dict[str, tuple[str | None, int | None]]:
    """Return the arguments ``since`` and ``last`` for each group."""
    if not groups:
        raise TypeError("listen() needs the name of at least one group")
    kept = [group for group in dict.fromkeys(groups) if layer.history_of(group)]
    if isinstance(since, str):
        if len(kept) != 1:
            raise ValueError(
                f"since={since!r} is the position in one group, but {len(kept)} of the "
                f"groups {groups!r} have a history: pass a dict of positions by group"
            )
        since = {kept[0]: since}
    elif last is not None and not kept:
        raise ValueError(f"none of the groups {groups!r} has a history")
    positions = since or {}
    return {
        group: (positions.get(group), last if group in kept else None)
        for group in groups
    }


def _beginning(resumed: Resumed) -> str:
    """Return the position before the messages that are delivered again."""
    position = parse_position(resumed.position)
    if position is None:
        # Of a layer of users.
        return resumed.position
    return f"{position.epoch}.{position.offset - resumed.replayed}"


async def end_listeners(layer: "BaseChannelLayer") -> None:
    """End the listeners of a layer that is about to be closed, in all event loops."""
    for reference in _live.valuerefs():
        messages = reference()
        if messages is not None and messages.layer is layer:
            await messages.end()
