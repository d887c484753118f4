"""The layer of a single process: mailboxes and groups in dicts.

Everything is decided in plain code under the lock of the mailboxes, which guards the
groups too. So the layer may be used from several event loops in several threads at
once, as when a thread sends with ``asgiref.sync.async_to_sync``.
"""

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from typing import Any

from fast_channels.exceptions import ChannelFull
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage

from .base import BaseChannelLayer, require_positive
from .copies import copies_as_carried
from .counters import Counters
from .mailbox import Mailbox
from .mailboxes import Mailboxes

__all__ = ["InMemoryChannelLayer"]

# How many turns of the event loop receivers get to take what waits: one to wake a task
# that reads, one in which the task runs, and one more for what wraps it.
_TURNS = 3
# The event loop gets a turn after a channel has left this many groups.
_CHUNK = 1000


class InMemoryChannelLayer(BaseChannelLayer):
    """A layer for one process: for tests, development, and servers of one process.

    It reaches every consumer, task and thread of its process, and nothing else.
    Messages arrive as they would through Redis: it carries the same types.

    Sending waits only if a channel is full: for as many turns of the event loop as
    receivers need to begin with what waits. A burst in one handler is not lost, then,
    for receivers that keep up; those that do not are waited for once, until they have
    taken another message.

    Args:
        expiry: After how many seconds a message that nobody received is dropped.
        group_expiry: After how many seconds a channel that nobody receives from is
            dropped from its groups.
        capacity: How many messages may wait in one channel. ``send()`` to a full
            channel raises ``ChannelFull``; ``group_send()`` drops that copy.
        channel_capacity: A capacity of their own for some channels, by glob
            (``"http.request*"``) or compiled pattern; the first match counts.

    Raises:
        TypeError: An argument is not of the type it should be.
        ValueError: A number is not positive.
    """

    extensions: list[str] = ["groups", "flush"]  # noqa: RUF012 # a list in Channels too

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: ChannelCapacityDict | None = None,
    ) -> None:
        super().__init__(expiry, capacity, channel_capacity)
        self.group_expiry: float = require_positive("group_expiry", group_expiry)
        """After how many seconds an unread channel is dropped from its groups."""
        self._mailboxes = Mailboxes(self.get_capacity, self.expiry)
        self.channels: dict[str, Mailbox] = self._mailboxes.by_channel
        """The mailbox of each channel in which a message or a receiver waits."""
        self.groups: dict[str, dict[str, float]] = {}
        """For each group its channels, and when each joined, in Unix time.

        For a channel that is read with ``receive()`` that is renewed at each call.
        """
        # The groups of each channel: `groups` the other way round.
        self._memberships: dict[str, set[str]] = {}
        # Guards the three dicts above.
        self._lock = self._mailboxes.lock
        # What is delivered is counted with the lock held.
        self._counters = Counters(type(self).__name__)

    def __repr__(self) -> str:
        state = self.statistics()
        return (
            f"<{type(self).__name__} [{state['channels']} channels, "
            f"{state['groups']} groups, {state['waiting']} messages waiting]>"
        )

    def statistics(self) -> dict[str, int]:
        """Return how much the layer holds at this moment, and what it has counted.

        ``channels`` and ``groups`` it knows, and messages ``waiting`` in channels.
        Since the layer was made: copies ``delivered`` to channels, and copies
        ``dropped`` by ``group_send()`` because a channel was full. The other keys are
        those of all layers, and 0.
        """
        with self._lock:
            return self._counters.statistics(
                channels=len(self.channels),
                groups=len(self.groups),
                waiting=self._mailboxes.waiting(),
            )

    # Channels

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return the name of a new channel, which nobody else has.

        Args:
            prefix: What the name starts with.

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
            ChannelFull: The channel is at capacity, and its receiver took nothing while
                it had its turn; the message was not sent.
            TypeError: The name is not valid, or the message is not one that layers
                carry.
        """
        # The name of a channel that somebody waits for was valid when they came.
        if type(channel) is not str or channel not in self.channels:
            self.require_valid_channel_name(channel)
        copies = self._copies_of(message)
        now = time.monotonic()
        # Later than others: users of Channels count the channels after a send().
        self._sweep_if_due(now, patience=self.expiry)
        deadline = now + self.expiry
        if not self._mailboxes.put(channel, copies, deadline):

            def put(channels: list[str]) -> list[str]:
                has_room = self._mailboxes.put(channel, copies, deadline)
                return [] if has_room else channels

            full = [channel]
            await self._put_later(full, put)
            if full:
                raise ChannelFull(channel)
        with self._lock:
            self._counters.delivered += 1

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel and return it.

        Any number of tasks may wait for one channel; each message goes to one of
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
        """Drop a channel's messages and memberships; a second call does nothing.

        A task that still waits in ``receive()`` waits for a new channel of that name.
        """
        while channel in self._memberships:
            with self._lock:
                groups = self._memberships.get(channel, set())
                for group in tuple(itertools.islice(groups, _CHUNK)):
                    self._discard(group, channel)
            if channel in self._memberships:
                await asyncio.sleep(0)
        # Last, as messages may have come while the event loop had its turns.
        self._mailboxes.delete(channel)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; if it is in it, its time of joining is renewed.

        Raises:
            TypeError: A name is not valid.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        joined = time.time()
        with self._lock:
            members = self.groups.get(group)
            if members is None:
                members = self.groups[group] = {}
            members[channel] = joined
            self._memberships.setdefault(channel, set()).add(group)

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; nothing changes if it is not in it.

        Raises:
            TypeError: A name is not valid.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        with self._lock:
            self._discard(group, channel)

    async def group_send(self, group: str, message: ChannelMessage) -> None:
        """Send a copy of a message to every channel of a group.

        A channel that is at capacity, and whose receiver takes nothing while it has its
        turn, does not get one; ``statistics()`` counts it, and the log says so.
        Cancelling does not take it back.

        Raises:
            TypeError: The name is not valid, or the message is not one that layers
                carry.
        """
        self.require_valid_group_name(group)
        copies = self._copies_of(message)
        now = time.monotonic()
        deadline = now + self.expiry
        with self._lock:
            self._sweep_if_due(now)
            members = tuple(self.groups.get(group, ()))
            delivered, full = self._mailboxes.put_each(members, copies, deadline)
            self._counters.delivered += delivered
        if not full:
            return

        def put(channels: list[str]) -> list[str]:
            with self._lock:
                # One that has left meanwhile may be deleted.
                members = self.groups.get(group, {})
                left = [channel for channel in channels if channel in members]
                delivered, full = self._mailboxes.put_each(left, copies, deadline)
                self._counters.delivered += delivered
            return full

        try:
            await self._put_later(full, put)
        finally:
            self._counters.count((0, full), group)

    # The whole layer

    async def flush(self) -> None:
        """Drop every message and every group; whoever receives goes on waiting."""
        with self._lock:
            self.groups.clear()
            self._memberships.clear()
            self._mailboxes.clear()

    async def close(self) -> None:
        """Do as ``flush()`` does: the layer holds nothing but messages and groups."""
        await self.flush()

    def _copies_of(self, message: ChannelMessage) -> Callable[[], dict[str, Any]]:
        """Check a message that is sent; return a function that returns copies of it."""
        self.require_valid_message(message)
        return copies_as_carried(message)

    async def _put_later(
        self, full: list[str], put: Callable[[list[str]], list[str]]
    ) -> None:
        """Give the receivers of full channels a few turns, and put after each.

        It goes on as long as receivers take something. One that is waiting for
        something else does not slow senders down: it is waited for once for each
        message that it takes.

        Args:
            full: The channels; those in which the message was put are removed.
            put: Puts the message into channels, and returns those that are full still.
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
            for group in self._memberships.get(channel, ()):
                self.groups[group][channel] = now

    # What follows is called with the lock held.

    def _discard(self, group: str, channel: str) -> None:
        self._forget_member(group, channel)
        groups = self._memberships.get(channel)
        if groups is not None:
            groups.discard(group)
            if not groups:
                self._memberships.pop(channel, None)

    def _forget_member(self, group: str, channel: str) -> None:
        members = self.groups.get(group)
        if members is not None:
            members.pop(channel, None)
            if not members:
                self.groups.pop(group, None)

    def _sweep_if_due(self, now: float, patience: float = 0) -> None:
        """Drop what nobody will fetch any more, from time to time."""
        if not self._mailboxes.sweep_if_due(now, patience):
            return
        joined_before = time.time() - self.group_expiry
        with self._lock:
            for group, members in list(self.groups.items()):
                for channel, joined in list(members.items()):
                    if joined < joined_before and channel not in self.channels:
                        self._discard(group, channel)
