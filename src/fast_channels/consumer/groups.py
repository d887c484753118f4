"""Consumers that are members of groups while their connection lasts."""

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any, TypeVar, cast

from typing_extensions import override

from fast_channels.exceptions import InvalidChannelLayerError
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.foreign import as_layer
from fast_channels.layers.history import Resumed

from .base import AsyncConsumer
from .connection import Connection
from .layer_lookup import explain_missing, layer_of
from .timing import Timing

__all__ = ["AsyncGroupConsumer", "GroupConnection"]

# Groups joined or left in a row before the event loop gets a turn.
_RUN = 64

_Consumer = TypeVar("_Consumer", bound="AsyncGroupConsumer")


class AsyncGroupConsumer(AsyncConsumer):
    """A consumer that joins groups, and leaves them when its connection ends."""

    groups: list[str] = []  # noqa: RUF012 # every instance gets a copy
    """The groups to join when the connection begins.

    Each connection has a list of its own. When the connection ends, the consumer leaves
    all groups in it, including those that were appended in the meantime.
    """

    if TYPE_CHECKING:

        @functools.cached_property
        def _consumer_connection(self) -> "GroupConnection[Any]": ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        groups = type(self).groups
        if isinstance(groups, list):  # it may be a property
            # A copy, since constructors can append to it.
            self.groups = list(groups)

    async def join_group(
        self, group: str, *, since: str | None = None, last: int | None = None
    ) -> Resumed:
        """Join a group until the connection ends; do nothing once it has ended.

        If the group has a history, the consumer can resume: it gets the messages after
        ``since``, and then those that follow, each of them once and in order. They are
        handled after the current handler has returned. See
        :meth:`BaseChannelLayer.group_resume
        <fast_channels.layers.BaseChannelLayer.group_resume>`.

        Args:
            group: The group.
            since: The position of the last message that the client has. It is not
                trusted: check who may join before you resume.
            last: Number of latest messages to deliver if there is no ``since``, or if
                messages after it are lost.

        Returns:
            Where the consumer is. If ``complete`` is False, messages after ``since``
            are lost.

        Raises:
            InvalidChannelLayerError: The consumer has no channel layer.
            RedisUnavailable: Redis cannot be asked what was missed.
            TypeError: The name is not valid, or ``last`` is not an int.
            ValueError: ``since`` or ``last`` is given, but the group has no history; or
                ``last`` is not positive.
        """
        layer = as_layer(_require_layer(self, f"cannot join group {group!r}"))
        connection = self._consumer_connection
        if connection.over:
            return Resumed("", complete=True, replayed=0)
        # Noted first, so that the group is left even if joining is cancelled.
        connection.note(group)
        try:
            resumed = await layer.group_resume(
                group, self.channel_name, since=since, last=last
            )
        except (TypeError, ValueError):
            connection.forget(group)
            raise
        await connection.pause()
        return resumed

    async def leave_group(self, group: str) -> None:
        """Leave a group; do nothing if the consumer is not a member.

        Raises:
            InvalidChannelLayerError: The consumer has no channel layer.
            TypeError: The name is not valid.
        """
        layer = _require_layer(self, f"cannot leave group {group!r}")
        await layer.group_discard(group, self.channel_name)
        connection = self._consumer_connection
        if not connection.over:
            connection.forget(group)
            await connection.pause()


class GroupConnection(Connection[_Consumer]):
    """The connection of a consumer that joins groups."""

    __slots__ = ("_changes", "_joined", "_left")

    def __init__(self, consumer: _Consumer, timing: Timing) -> None:
        super().__init__(consumer, timing)
        # The groups to leave at the end, in addition to those in `groups`.
        self._joined: dict[str, None] = {}
        # The groups that the end has left, or failed to leave; None before the end.
        self._left: set[str] | None = None
        # The number of groups joined and left so far.
        self._changes = 0

    @override
    def check(self) -> None:
        consumer = self.consumer
        groups: object = consumer.groups
        if isinstance(groups, str):
            raise TypeError(
                f"{self.name}.groups must be a list of names of groups, not a str: "
                f"write [{groups!r}]"
            )
        self._joined = dict.fromkeys(consumer.groups or ())
        # AttributeError: groups is a property, which reads the scope.
        with contextlib.suppress(AttributeError):
            consumer.groups = list(self._joined)

    async def join_groups(self) -> None:
        """Join the groups that the class or the constructor names."""
        consumer = self.consumer
        if not consumer.groups:
            return
        layer = _require_layer(consumer, f"cannot join its groups {consumer.groups!r}")
        for group in consumer.groups:
            await layer.group_add(group, consumer.channel_name)
            await self.pause()

    async def leave_groups(self) -> None:
        """Leave all groups, each once; log errors."""
        if not self.has_channel():
            return
        consumer = self.consumer
        layer, channel = consumer.channel_layer, consumer.channel_name
        if self.attached:
            if self._left is None:
                self._left = set()
                leave = functools.partial(layer.delete_channel, channel)
                await self.release(leave, "leave its groups")
            return
        cancelled: asyncio.CancelledError | None = None
        left = self._left = self._left or set()
        for group in dict.fromkeys((*self._joined, *(consumer.groups or ()))):
            if group in left:
                continue
            left.add(group)
            leave = functools.partial(layer.group_discard, group, channel)
            try:
                await self.release(leave, f"leave group {group!r}")
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled

    def note(self, group: str) -> None:
        """Note a group that the consumer joins."""
        joined, groups = self._joined, self._list()
        if groups is not None and len(groups) != len(joined):
            # User code can append to the list.
            joined.update(dict.fromkeys(groups))
        if group not in joined:
            joined[group] = None
            if groups is not None:
                groups.append(group)

    def forget(self, group: str) -> None:
        """Forget a group that the consumer has left."""
        self._joined.pop(group, None)
        groups = self._list()
        if not groups:
            return
        if groups[-1] == group:
            # Tried first, as the group joined last is often the first one to leave.
            groups.pop()
        else:
            with contextlib.suppress(ValueError):
                groups.remove(group)

    async def pause(self) -> None:
        """Yield to the event loop after many changes: some layers never wait."""
        self._changes += 1
        if not self._changes % _RUN:
            await asyncio.sleep(0)

    def _list(self) -> list[str] | None:
        """Return ``groups`` if it is a list of the instance, and not a property."""
        groups = vars(self.consumer).get("groups")
        return cast("list[str]", groups) if isinstance(groups, list) else None


def _require_layer(consumer: AsyncConsumer, what: str) -> BaseChannelLayer:
    """Return the layer of a consumer.

    Args:
        consumer: The consumer.
        what: What it cannot do without a layer, for the error.

    Raises:
        InvalidChannelLayerError: It has none.
    """
    layer = layer_of(consumer)
    if layer is None:
        name, reason = explain_missing(consumer)
        raise InvalidChannelLayerError(
            f"{name} {what}, as it has no channel layer: {reason}"
        )
    return layer
