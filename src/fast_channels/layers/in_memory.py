"""The layer for a single process, with mailboxes and groups in dicts.

All changes are made without waiting, under the lock of the mailboxes, which guards the
groups too. Event loops in several threads can therefore use the layer at the same time,
for example when a thread sends with ``asgiref.sync.async_to_sync``.
"""

import asyncio
import secrets
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fast_channels.exceptions import ChannelFull
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage

from .base import BaseChannelLayer
from .copies import copies_as_carried
from .counters import Counters
from .distribution import Distribution
from .groups import Groups
from .history import GroupHistory, History, Resumed
from .kept import KeptGroups
from .mailbox import Mailbox
from .mailboxes import Mailboxes
from .options import require_positive, require_positive_int
from .shared import SharedMessage

__all__ = ["InMemoryChannelLayer"]

# Turns of the event loop that receivers get to take waiting messages: one to wake the
# reading task, one in which it runs, and one for a task that wraps it.
_TURNS = 3
# Groups that a channel leaves before other tasks can run.
_CHUNK = 1000


class InMemoryChannelLayer(BaseChannelLayer):
    """A layer within one process: for tests, development and single-process servers.

    It reaches every consumer, task and thread of its process, but no other process.
    Messages arrive as they would through Redis, since it carries the same types.

    Sending waits for other tasks if a group is large, and if a channel is full, for the
    few turns of the event loop that receivers need to start taking messages. A burst
    from one handler therefore reaches receivers that keep up. A receiver that does not
    keep up makes senders wait once; they do not wait for it again until it has taken a
    message.

    Args:
        expiry: Seconds after which an unreceived message is dropped.
        group_expiry: Seconds after which a channel without receivers is dropped from
            its groups.
        capacity: Maximum number of messages waiting in one channel. ``send()`` to a
            full channel raises ``ChannelFull``; ``group_send()`` drops that copy.
        channel_capacity: Separate capacities for some channels, by glob
            (``"http.request*"``) or compiled pattern; the first match applies.
        history: The groups that have a history, by glob (``"room.*"``) or compiled
            pattern, each with its :class:`~fast_channels.layers.History`; the first
            match applies.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is not positive.
    """

    extensions: list[str] = ["groups", "flush"]  # noqa: RUF012 # a list in Channels too

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: ChannelCapacityDict | None = None,
        *,
        history: Mapping[Any, History] | None = None,
    ) -> None:
        super().__init__(expiry, capacity, channel_capacity, history=history)
        self.group_expiry: float = require_positive("group_expiry", group_expiry)
        """Seconds after which a channel without receivers leaves its groups."""
        self._mailboxes = Mailboxes(self.get_capacity, self.expiry)
        self.channels: dict[str, Mailbox] = self._mailboxes.by_channel
        """The mailboxes of the channels that have a message or a receiver."""
        self._groups = Groups()
        self.groups: dict[str, dict[str, float]] = self._groups.by_group
        """The channels of each group, with the time each joined, in Unix time.

        Each ``receive()`` from a channel renews the channel's times.
        """
        # The messages of groups that have a history.
        self._kept = KeptGroups(self._mailboxes, self.expiry)
        # Guards the mailboxes, the groups and what is kept.
        self._lock = self._mailboxes.lock
        self._distributions: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, Distribution
        ] = weakref.WeakKeyDictionary()
        # Deliveries are counted with the lock held.
        self._counters = Counters(type(self).__name__)

    def __repr__(self) -> str:
        state = self.statistics()
        return (
            f"<{type(self).__name__} [{state['channels']} channels, "
            f"{state['groups']} groups, {state['waiting']} messages waiting]>"
        )

    def statistics(self) -> dict[str, int]:
        """Return the current state of the layer, and its counters.

        Currently: ``channels`` with a receiver or a message, ``groups``, and messages
        ``waiting``. Since the layer was created: copies ``delivered`` to channels, and
        copies ``dropped`` by ``group_send()`` because a channel was full. The other
        keys that all layers have are 0.
        """
        with self._lock:
            return self._counters.statistics(
                channels=len(self.channels),
                groups=len(self.groups),
                waiting=self._mailboxes.waiting(),
            )

    # Channels

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return a unique name for a new channel.

        Args:
            prefix: Start of the name.

        Raises:
            TypeError: The prefix is not valid in a name.
        """
        self.require_valid_channel_name(prefix)
        channel = f"{prefix}.inmemory!{secrets.token_hex(8)}"
        self.require_valid_channel_name(channel)
        return channel

    async def send(self, channel: str, message: ChannelMessage) -> None:
        """Send a copy of a message to one channel.

        Raises:
            ChannelFull: The channel is at capacity, and its receiver does not keep up;
                the message was not sent.
            TypeError: The name or the message is not valid.
        """
        # The name of a channel that has a mailbox is valid.
        if type(channel) is not str or channel not in self.channels:
            self.require_valid_channel_name(channel)
        copies = self._copies_of(message)
        now = time.monotonic()
        deadline = now + self.expiry
        with self._lock:
            # Later than elsewhere: users of Channels count the channels after a send().
            self._sweep_if_due(now, patience=self.expiry)
            if self._mailboxes.put(channel, copies, deadline):
                self._counters.delivered += 1
                return

        full = [channel]
        await self._put_later(full, lambda left: self._put(left, copies, deadline))
        if full:
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel and return it.

        Any number of tasks can wait on one channel; each message goes to one of
        them. Cancelling is safe: no message is lost.

        Raises:
            TypeError: The name is not valid.
        """
        self.require_valid_channel_name(channel)
        mailbox = self._mailboxes.open(channel)
        try:
            self._sweep_if_due(time.monotonic())
            return await mailbox.get()
        finally:
            self._mailboxes.close(channel, mailbox)
            self._renew_memberships(channel)

    def attach(self, channel: str, listener: Callable[[], None]) -> Mailbox:
        """Return the mailbox of a channel, for a reader that does not wait."""
        return self._mailboxes.attach(channel, listener)

    async def delete_channel(self, channel: str) -> None:
        """Delete a channel's messages and memberships; a second call does nothing.

        A task that is still in ``receive()`` then waits on a new channel of that name.
        """
        while channel in self._groups.by_channel:
            with self._lock:
                self._groups.discard_some(channel, _CHUNK)
            if channel in self._groups.by_channel:
                await asyncio.sleep(0)
        # Last, since messages can arrive whenever the loop above yields.
        self._mailboxes.delete(channel)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; renew the time if it is already a member.

        Raises:
            TypeError: A name is not valid.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        joined = time.time()
        with self._lock:
            self._groups.add(group, channel, joined)

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; do nothing if it is not a member.

        Raises:
            TypeError: A name is not valid.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        with self._lock:
            self._groups.discard(group, channel)

    async def group_send(
        self, group: str, message: ChannelMessage, *, once: str | None = None
    ) -> str | None:
        """Send a copy of a message to every channel of a group.

        A channel that is at capacity, and whose receiver does not keep up, misses its
        copy, which is counted in ``statistics()`` and logged. Other tasks get a turn
        while a message goes to a large group. Cancelling does not take it back.

        Args:
            group: The group.
            message: A dict with str keys.
            once: A key of your choice, for a group that has a history: sending again
                with the same key within five minutes sends nothing, and returns the
                position of the first message.

        Returns:
            The position of the message, if the group has a history.

        Raises:
            TypeError: The name, the message or ``once`` is not valid.
            ValueError: ``once`` is empty, or given for a group without history.
        """
        self.require_valid_group_name(group)
        copies = self._copies_of(message)
        if self._histories or once is not None:
            history = self._history_to_send(group, once)
            if history is not None:
                return await self._send_numbered(group, history, copies, once)
        now = time.monotonic()
        deadline = now + self.expiry
        with self._lock:
            self._sweep_if_due(now)
            members = self.groups.get(group, {})
            channels = list(members)
        item = deadline, copies, SharedMessage(message, copies)
        posting = self._distribution().put(
            self._mailboxes, channels, item, members=members
        )
        if not posting.over:
            await posting.wait()
        full = posting.full
        if not full:
            return None

        def put(channels: list[str]) -> list[str]:
            with self._lock:
                # A channel that has left meanwhile may be deleted.
                members = self.groups.get(group, {})
                left = [channel for channel in channels if channel in members]
                return self._put(left, copies, deadline)

        try:
            await self._put_later(full, put)
        finally:
            self._counters.count((0, full), group)
        return None

    async def _send_numbered(
        self,
        group: str,
        history: History,
        copies: Callable[[], dict[str, Any]],
        once: str | None,
    ) -> str:
        """Send a message to a group that has a history; return its position.

        It waits for receivers, as ``_put_later()`` does, before it numbers the message:
        so no message overtakes another.
        """
        turns = _TURNS
        waiting: list[str] | None = None
        while True:
            now = time.monotonic()
            with self._lock:
                self._sweep_if_due(now)
                members = tuple(self.groups.get(group, ()))
                before, waiting = waiting, self._mailboxes.to_wait_for(members)
                turns = _TURNS if waiting != before else turns - 1
                if not waiting or not turns:
                    self._mailboxes.note_stalled(waiting)
                    kept = self._kept.of(group, history, now)
                    put, position = kept.send(members, copies, now, once)
                    break
            await asyncio.sleep(0)
        self._counters.count(put, group)
        return position

    async def group_resume(
        self,
        group: str,
        channel: str,
        *,
        since: str | None = None,
        last: int | None = None,
    ) -> Resumed:
        """Add a channel to a group, and deliver the messages that it missed.

        See :meth:`BaseChannelLayer.group_resume`.

        Raises:
            TypeError: A name is not valid, or ``last`` is not an int.
            ValueError: ``since`` or ``last`` is given, but the group has no history; or
                ``last`` is not positive.
        """
        history = self.history_of(group) if self._histories else None
        if history is None:
            return await super().group_resume(group, channel, since=since, last=last)
        if last is not None:
            require_positive_int("last", last)
        now = time.monotonic()
        with self._lock:
            is_member = channel in self.groups.get(group, ())
            # Nothing waits, as all this happens in memory.
            await self.group_add(group, channel)
            kept = self._kept.of(group, history, now)
            return kept.resume(channel, since, last, is_member=is_member, now=now)

    async def group_history(
        self, group: str, since: str | None = None, limit: int = 100
    ) -> GroupHistory:
        """Return messages of a group that has a history, in the order of sending.

        Args:
            group: The group.
            since: A position: return the first messages after it. By default, return
                the latest messages.
            limit: Maximum number of messages.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The group has no history, or ``limit`` is not positive.
        """
        history = self._require_history(group)
        require_positive_int("limit", limit)
        now = time.monotonic()
        with self._lock:
            return self._kept.of(group, history, now).read(since, limit, now)

    # The whole layer

    async def flush(self) -> None:
        """Drop all messages and groups; receivers keep waiting."""
        with self._lock:
            self._groups.clear()
            self._kept.clear()
            self._mailboxes.clear()

    async def close(self) -> None:
        """End listeners, and drop all messages and groups: there is nothing else."""
        await super().close()
        await self.flush()

    def _copies_of(self, message: ChannelMessage) -> Callable[[], dict[str, Any]]:
        """Check a message; return a function that returns copies of it."""
        return copies_as_carried(message)

    def _put(
        self,
        channels: Iterable[str],
        copies: Callable[[], dict[str, Any]],
        deadline: float,
    ) -> list[str]:
        """Put a message into channels, and count it; return the full channels."""
        with self._lock:
            delivered, full = self._mailboxes.put_each(channels, copies, deadline)
            self._counters.delivered += delivered
        return full

    def _distribution(self) -> Distribution:
        """Return what delivers the messages of this event loop."""
        loop = asyncio.get_running_loop()
        distribution = self._distributions.get(loop)
        if distribution is None:
            distribution = Distribution(self._counters, drops=False)
            with self._lock:
                self._distributions[loop] = distribution
        return distribution

    async def _put_later(
        self, full: list[str], put: Callable[[list[str]], list[str]]
    ) -> None:
        """Retry full channels for a few turns of the event loop; receivers make room.

        This goes on while receivers take messages. A receiver that waits for something
        else hardly slows senders down: they wait for it only once for each message
        that it takes.

        Args:
            full: The full channels; those that get the message are removed.
            put: Puts the message into channels, and returns those that are still full.
        """
        waiting = self._mailboxes.not_stalled(full)
        turns = _TURNS
        while waiting and turns:
            await asyncio.sleep(0)
            still = put(waiting)
            if len(still) < len(waiting):
                turns = _TURNS
                done = {*waiting} - {*still}
                full[:] = [channel for channel in full if channel not in done]
                waiting = still
            else:
                turns -= 1
        self._mailboxes.note_stalled(waiting)

    def _renew_memberships(self, channel: str) -> None:
        now = time.time()
        with self._lock:
            for group in self._groups.by_channel.get(channel, ()):
                self.groups[group][channel] = now

    def _sweep_if_due(self, now: float, patience: float = 0) -> None:
        """Drop expired mailboxes and memberships, if a sweep is due."""
        if not self._mailboxes.sweep_if_due(now, patience):
            return
        joined_before = time.time() - self.group_expiry
        with self._lock:
            self._kept.sweep(now)
            for group, members in list(self.groups.items()):
                for channel, joined in list(members.items()):
                    if joined < joined_before and channel not in self.channels:
                        self._groups.discard(group, channel)
