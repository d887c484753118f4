"""Consumers that are members of groups for as long as their connection lasts."""

import asyncio
import contextlib
import functools
from typing import Any

from fast_channels.exceptions import InvalidChannelLayerError
from fast_channels.layers.base import BaseChannelLayer

from .base import AsyncConsumer

__all__ = ["AsyncGroupConsumer"]

# The event loop gets a turn after this many groups were joined or left in a row.
_RUN = 64


class AsyncGroupConsumer(AsyncConsumer):
    """A consumer that joins groups, and leaves them when its connection ends."""

    groups: list[str] = []  # noqa: RUF012 # every instance gets a copy
    """The groups to join when the connection begins.

    Each connection has a list of its own. All groups in it are left when the
    connection ends, those that were appended in the meantime too.
    """

    # The groups to leave at the end, in addition to those in `groups`.
    _consumer_joined: dict[str, None]
    # The groups that were left, or that the layer failed to leave.
    _consumer_left: set[str]
    # Whether the layer was asked to leave them all.
    __has_left = False
    # How many times a group was joined or left.
    __changes = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        groups = type(self).groups
        if isinstance(groups, list):  # pyright: ignore[reportUnnecessaryIsInstance] # it may be a property
            # Constructors may append to it.
            self.groups = list(groups)

    async def join_group(self, group: str) -> None:
        """Join a group; it is left when the connection ends.

        Raises:
            InvalidChannelLayerError: The consumer has no channel layer.
            TypeError: The name is not valid.
        """
        layer = self.__require_layer(f"cannot join group {group!r}")
        # First, so that it is left even if joining is cancelled half-way.
        self.__note(group)
        try:
            await layer.group_add(group, self.channel_name)
        except TypeError:
            self.__forget(group)
            raise
        await self.__pause()

    async def leave_group(self, group: str) -> None:
        """Leave a group; nothing happens if it was left or never joined.

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
        self._consumer_left = set()
        # AttributeError: it is a property, which tells the groups of the scope.
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
        """Leave all groups, each once; log what goes wrong."""
        if not self._consumer_has_channel():
            return
        layer, channel = self.channel_layer, self.channel_name
        if self._consumer_attached:
            if not self.__has_left:
                self.__has_left = True
                leave = functools.partial(layer.delete_channel, channel)
                await self._consumer_release(leave, "leave its groups")
            return
        cancelled: asyncio.CancelledError | None = None
        for group in dict.fromkeys((*self._consumer_joined, *(self.groups or ()))):
            if group in self._consumer_left:
                continue
            self._consumer_left.add(group)
            leave = functools.partial(layer.group_discard, group, channel)
            try:
                await self._consumer_release(leave, f"leave group {group!r}")
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled

    def __lists_groups(self) -> bool:
        """Return whether ``groups`` is the list of the instance, and not a property."""
        return isinstance(vars(self).get("groups"), list)

    def __note(self, group: str) -> None:
        joined = self._consumer_joined
        if self.__lists_groups() and len(self.groups) != len(joined):
            # Users append to the list.
            joined.update(dict.fromkeys(self.groups))
        if group not in joined:
            joined[group] = None
            if self.__lists_groups():
                self.groups.append(group)

    async def __pause(self) -> None:
        """Give the event loop a turn after many changes: not every layer waits."""
        self.__changes += 1
        if not self.__changes % _RUN:
            await asyncio.sleep(0)

    def __forget(self, group: str) -> None:
        self._consumer_joined.pop(group, None)
        if not self.__lists_groups():
            return
        if self.groups[-1:] == [group]:
            # The first place to look, as the last to join are often the first to leave.
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
