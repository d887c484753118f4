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
from .copies import copies_of
from .mailbox import Mailbox
from .mailboxes import Mailboxes

__all__ = ["InMemoryChannelLayer"]

# The event loop gets a turn after a channel has left this many groups.
_CHUNK = 1000


class InMemoryChannelLayer(BaseChannelLayer):
    """A layer for one process: for tests, development, and servers of one process.

    It reaches every consumer, task and thread of its process, and nothing else.
    Messages may hold whatever ``copy.deepcopy`` copies; the Redis layers carry less.

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
        # Copies that group_send() did not deliver because a channel was full.
        self._dropped = 0

    def __repr__(self) -> str:
        state = self.statistics()
        return (
            f"<{type(self).__name__} [{state['channels']} channels, "
            f"{state['groups']} groups, {state['waiting']} messages waiting]>"
        )

    def statistics(self) -> dict[str, int]:
        """Return how much the layer holds at this moment.

        ``channels`` and ``groups`` it knows, messages ``waiting`` in channels, and
        copies ``dropped`` by ``group_send()`` since the layer was made, because a
        channel was full.
        """
        with self._lock:
            return {
                "channels": len(self.channels),
                "groups": len(self.groups),
                "waiting": self._mailboxes.waiting(),
                "dropped": self._dropped,
            }

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
            ChannelFull: The channel is at capacity; the message was not sent.
            TypeError: The name is not valid, or the message is not a dict with str
                keys that can be copied.
        """
        # The name of a channel that somebody waits for was valid when they came.
        if type(channel) is not str or channel not in self.channels:
            self.require_valid_channel_name(channel)
        self.require_valid_message(message)
        copies = copies_of(message)
        now = time.monotonic()
        # Later than others: users of Channels count the channels after a send().
        self._sweep_if_due(now, patience=self.expiry)
        if not self._mailboxes.put(channel, copies, now + self.expiry):
            raise ChannelFull(channel)

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

        A channel that is at capacity does not get one; ``statistics()`` counts it.

        Raises:
            TypeError: The name is not valid, or the message is not a dict with str
                keys that can be copied.
        """
        self.require_valid_group_name(group)
        self.require_valid_message(message)
        copies = copies_of(message)
        now = time.monotonic()
        deadline = now + self.expiry
        with self._lock:
            self._sweep_if_due(now)
            members = tuple(self.groups.get(group, ()))
            _, dropped = self._mailboxes.put_each(members, copies, deadline, now)
            self._dropped += dropped

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
