"""Layers for code without an event loop: Celery and RQ tasks, cron jobs, threads.

All ``SyncChannelLayer`` objects of a process share one thread with an event loop, see
``background``, so that a layer keeps its connection between two calls.
"""

from functools import partial
from types import TracebackType
from typing import Self

from fast_channels.type_defs import ChannelLayerProtocol, ChannelMessage
from fast_channels.waking import running_loop

from .background import background
from .base import BaseChannelLayer
from .foreign import as_layer, is_layer
from .history import GroupHistory
from .registry import channel_layers

__all__ = ["SyncChannelLayer"]


class SyncChannelLayer:
    """A layer with blocking methods, for code without an event loop.

    Create one, keep it, and call it from any thread. All instances share one background
    thread, where a layer for Redis keeps its connection, so that a call costs one round
    trip. An instance created before a fork works in both processes afterwards. The
    connection is closed when the process ends.

    A call takes no longer than the layer allows, and raises the layer's errors, like
    :class:`~fast_channels.exceptions.ChannelFull` or
    :class:`~fast_channels.exceptions.RedisUnavailable`. An exception that interrupts a
    call, like ``KeyboardInterrupt`` or another one from a signal handler, cancels the
    operation, which may or may not have been carried out. A signal handler can make a
    call in the middle of another call.

    Args:
        layer: A layer, or the alias of one, which is looked up at every call.

    Raises:
        TypeError: ``layer`` is neither a layer nor a str.
    """

    def __init__(self, layer: ChannelLayerProtocol | str = "default") -> None:
        if not isinstance(layer, str) and not is_layer(layer):
            raise TypeError(
                "SyncChannelLayer needs a layer or the alias of a registered one, "
                f"not {layer!r}"
            )
        self._layer = layer if isinstance(layer, str) else as_layer(layer)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._layer!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, channel: str, message: ChannelMessage) -> None:
        """Send a message to one channel.

        Raises:
            ChannelFull: The channel is at capacity; the message was not sent.
            InvalidChannelLayerError: No layer is registered for the alias.
            RuntimeError: An event loop runs in this thread.
            TypeError: The name is not valid, or the layer cannot carry the message.
        """
        _require_no_event_loop("send")
        background.run(self._find().send, channel, message)

    def group_send(
        self, group: str, message: ChannelMessage, *, once: str | None = None
    ) -> str | None:
        """Send a message to every channel of a group.

        A channel that is full misses its copy; the other channels get theirs.

        Args:
            group: The group.
            message: A dict with str keys.
            once: A key of your choice, for a group that has a history: sending again
                with the same key within five minutes sends nothing, and returns the
                position of the first message.

        Returns:
            The position of the message, if the group has a history.

        Raises:
            InvalidChannelLayerError: No layer is registered for the alias.
            RuntimeError: An event loop runs in this thread.
            TypeError: An argument is not valid, or the layer cannot carry the message.
            ValueError: ``once`` is empty, or given for a group without history.
        """
        _require_no_event_loop("group_send")
        layer = self._find()
        if once is None:
            # Layers of users may not have the argument.
            return background.run(layer.group_send, group, message)
        return background.run(partial(layer.group_send, once=once), group, message)

    def group_history(
        self, group: str, since: str | None = None, limit: int = 100
    ) -> GroupHistory:
        """Return messages of a group that has a history, in the order of sending.

        Args:
            group: The group.
            since: A position: return the first messages after it. By default, return
                the latest messages.
            limit: Maximum number of messages.

        Raises:
            InvalidChannelLayerError: No layer is registered for the alias.
            RuntimeError: An event loop runs in this thread.
            TypeError: An argument has the wrong type.
            ValueError: The group has no history, or ``limit`` is not positive.
        """
        _require_no_event_loop("group_history")
        return background.run(self._find().group_history, group, since, limit)

    def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; do nothing if it is already a member.

        Raises:
            InvalidChannelLayerError: No layer is registered for the alias.
            RuntimeError: An event loop runs in this thread.
            TypeError: A name is not valid.
        """
        _require_no_event_loop("group_add")
        background.run(self._find().group_add, group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; do nothing if it is not a member.

        Raises:
            InvalidChannelLayerError: No layer is registered for the alias.
            RuntimeError: An event loop runs in this thread.
            TypeError: A name is not valid.
        """
        _require_no_event_loop("group_discard")
        background.run(self._find().group_discard, group, channel)

    def close(self) -> None:
        """End the background thread, and close its connections.

        Calls in other threads are finished first. The layer itself stays open for the
        event loops that use it, and the next call of any ``SyncChannelLayer`` starts a
        new thread. Calling this is optional: the end of the process does the same.

        Raises:
            RuntimeError: An event loop runs in this thread.
        """
        _require_no_event_loop("close")
        background.end()

    def _find(self) -> BaseChannelLayer:
        layer = self._layer
        return channel_layers[layer] if isinstance(layer, str) else layer


def _require_no_event_loop(method: str) -> None:
    loop = running_loop()
    if loop is None or background.is_aside(loop):
        return
    raise RuntimeError(
        f"SyncChannelLayer.{method}() was called where an event loop runs, which it "
        f"would block: in async code, write 'await layer.{method}(...)' with the layer "
        "itself"
    )
