"""Consumers that are members of groups while their connection lasts."""

import asyncio
import contextlib
import functools
from typing import Any

from fast_channels.exceptions import InvalidChannelLayerError
from fast_channels.layers.base import BaseChannelLayer

from .base import AsyncConsumer

__all__ = ["AsyncGroupConsumer"]

# Groups joined or left in a row before the event loop gets a turn.
_RUN = 64


class AsyncGroupConsumer(AsyncConsumer):
    """A consumer that joins groups, and leaves them when its connection ends."""

    groups: list[str] = []  # noqa: RUF012 # every instance gets a copy
    """The groups to join when the connection begins.

    Each connection has a list of its own. When the connection ends, the consumer leaves
    all groups in it, including those that were appended in the meantime.
    """

    # The groups to leave at the end, in addition to those in `groups`.
    _consumer_joined: dict[str, None]
    # The groups that the ending has left, or failed to leave; None before the ending.
    __left: set[str] | None = None
    # The number of groups joined and left so far.
    __changes = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        groups = type(self).groups
        if isinstance(groups, list):  # pyright: ignore[reportUnnecessaryIsInstance] # it may be a property
            # A copy, since constructors can append to it.
            self.groups = list(groups)

    async def join_group(self, group: str) -> None:
        """Join a group until the connection ends.

        Raises:
            InvalidChannelLayerError: The consumer has no channel layer.
            TypeError: The name is not valid.
        """
        layer = self.__require_layer(f"cannot join group {group!r}")
        # Noted first, so that the group is left even if joining is cancelled.
        self.__note(group)
        try:
            await layer.group_add(group, self.channel_name)
        except TypeError:
            self.__forget(group)
            raise
        await self.__pause()

    async def leave_group(self, group: str) -> None:
        """Leave a group; do nothing if the consumer is not a member.

        Raises:
            InvalidChannelLayerError: The consumer has no channel layer.
            TypeError: The name is not valid.
        """
        layer = self.__require_layer(f"cannot leave group {group!r}")
        await layer.group_discard(group, self.channel_name)
        self.__forget(group)
        await self.__pause()

    def _consumer_prepare(self) -> None:
        groups: object = self.groups
        if isinstance(groups, str):
            raise TypeError(
                f"{type(self).__qualname__}.groups must be a list of names of groups, "
                f"not a str: write [{groups!r}]"
            )
        self._consumer_joined = dict.fromkeys(self.groups or ())
        # AttributeError: groups is a property, which reads the scope.
        with contextlib.suppress(AttributeError):
            self.groups = list(self._consumer_joined)

    async def _consumer_join_groups(self) -> None:
        """Join the groups that the class or the constructor names."""
        if not self.groups:
            return
        layer = self.__require_layer(f"cannot join its groups {self.groups!r}")
        for group in self.groups:
            await layer.group_add(group, self.channel_name)
            await self.__pause()

    async def _consumer_leave_groups(self) -> None:
        """Leave all groups, each once; log errors."""
        if not self._consumer_has_channel():
            return
        layer, channel = self.channel_layer, self.channel_name
        if self._consumer_attached:
            if self.__left is None:
                self.__left = set()
                leave = functools.partial(layer.delete_channel, channel)
                await self._consumer_release(leave, "leave its groups")
            return
        cancelled: asyncio.CancelledError | None = None
        left = self.__left = self.__left or set()
        for group in dict.fromkeys((*self._consumer_joined, *(self.groups or ()))):
            if group in left:
                continue
            left.add(group)
            leave = functools.partial(layer.group_discard, group, channel)
            try:
                await self._consumer_release(leave, f"leave group {group!r}")
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled

    def __lists_groups(self) -> bool:
        """Return whether ``groups`` is a list of the instance, and not a property."""
        return isinstance(vars(self).get("groups"), list)

    def __note(self, group: str) -> None:
        joined = self._consumer_joined
        if self.__lists_groups() and len(self.groups) != len(joined):
            # User code can append to the list.
            joined.update(dict.fromkeys(self.groups))
        if group not in joined:
            joined[group] = None
            if self.__lists_groups():
                self.groups.append(group)

    async def __pause(self) -> None:
        """Yield to the event loop after many changes: some layers never wait."""
        self.__changes += 1
        if not self.__changes % _RUN:
            await asyncio.sleep(0)

    def __forget(self, group: str) -> None:
        self._consumer_joined.pop(group, None)
        if not self.__lists_groups():
            return
        if self.groups[-1:] == [group]:
            # Tried first, as the group joined last is often the first one to leave.
            self.groups.pop()
        else:
            with contextlib.suppress(ValueError):
                self.groups.remove(group)

    def __require_layer(self, what: str) -> BaseChannelLayer:
        layer = self._consumer_layer()
        if layer is None:
            name, reason = self._consumer_explain()
            raise InvalidChannelLayerError(
                f"{name} {what}, as it has no channel layer: {reason}"
            )
        return layer
