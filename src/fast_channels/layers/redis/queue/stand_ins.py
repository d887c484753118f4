"""Stand-ins: names in a group, each of which stands for many channels of a process.

A group lists up to eight channels of a process by name, so that any other process can
remove one. The ninth replaces them with a stand-in: one name for all of the process's
members that share a queue. From then on, joining costs no command, and a message to the
group lists one name for each process, however many members it has there::

    by name --> stand-in written, names still listed --> stand-in --> empty
           ninth                                  Redis has it    last one leaves

Names stay listed until Redis has confirmed the stand-in, so every message lists at
least one of the two; a receiver that is listed by both gets one copy. A process that
had nine members in a group uses its stand-in until the last of them leaves.

Any process can compute the name of a stand-in, and any sender, of any version and of
channels_redis, treats it like the name of a channel: it puts it into the queue of the
process, where the endpoint replaces it with the members.
"""

import base64
import hashlib
from collections.abc import Collection

__all__ = [
    "MARK",
    "NAMED",
    "StandIn",
    "StandIns",
    "is_stand_in",
    "name_of",
    "queue_of",
]

NAMED: int = 8
"""Maximum number of channels of a process that a group lists by name."""

MARK: str = "g."
"""Start of the part after the ``!``. In names of channels, that part is hexadecimal."""


def queue_of(channel: str) -> str:
    """Return the queue of a channel: its name up to and including the ``!``."""
    return channel[: channel.index("!") + 1]


def is_stand_in(name: str) -> bool:
    """Return whether a name in a group is that of a stand-in."""
    return f"!{MARK}" in name


def name_of(group: str, queue: str) -> str:
    """Return the name of the stand-in for a group's members that share a queue.

    A hash of the group's name keeps it as short as the name of a channel.
    """
    digest = hashlib.blake2b(group.encode(), digest_size=12).digest()
    return f"{queue}{MARK}{base64.urlsafe_b64encode(digest).decode()}"


class StandIn:
    """A name that stands for the members of a group that share a queue."""

    __slots__ = ("count", "group", "listed", "name", "named", "queue")

    def __init__(self, group: str, queue: str) -> None:
        self.group: str = group
        """The group."""
        self.queue: str = queue
        """The start of the names of its channels."""
        self.name: str = name_of(group, queue)
        """The name in Redis."""
        self.count: int = 0
        """Number of channels that it stands for."""
        self.named: set[str] = set()
        """Channels that Redis lists by name until it lists the stand-in."""
        self.listed: int | None = None
        """The writer's epoch in which Redis last confirmed that it lists it."""


class StandIns:
    """The stand-ins of the channels of one event loop."""

    def __init__(self) -> None:
        self.by_name: dict[str, StandIn] = {}
        """The stand-ins, by their names."""
        self.by_group: dict[str, dict[str, StandIn]] = {}
        """The stand-ins of each group that has any, by their queues."""

    def of(self, group: str, channel: str) -> StandIn | None:
        """Return the stand-in for a channel, if its group has one."""
        by_queue = self.by_group.get(group)
        return None if by_queue is None else by_queue.get(queue_of(channel))

    def join(self, group: str, channel: str, members: Collection[str]) -> None:
        """Count a new member of a group that has, or is to have, stand-ins.

        Args:
            group: The group.
            channel: The new member.
            members: All members of the group in this event loop, with the new one.
        """
        if group in self.by_group:
            self._get(group, channel).count += 1
            return
        for each in members:
            stand_in = self._get(group, each)
            stand_in.count += 1
            if each != channel:
                stand_in.named.add(each)

    def leave(self, stand_in: StandIn, channel: str) -> bool:
        """Count a member that has left; return whether it was the last one."""
        stand_in.named.discard(channel)
        stand_in.count -= 1
        if stand_in.count:
            return False
        del self.by_name[stand_in.name]
        by_queue = self.by_group[stand_in.group]
        del by_queue[stand_in.queue]
        if not by_queue:
            del self.by_group[stand_in.group]
        return True

    def clear(self) -> None:
        """Forget all of them."""
        self.by_name.clear()
        self.by_group.clear()

    def _get(self, group: str, channel: str) -> StandIn:
        by_queue = self.by_group.setdefault(group, {})
        queue = queue_of(channel)
        if queue not in by_queue:
            stand_in = by_queue[queue] = StandIn(group, queue)
            self.by_name[stand_in.name] = stand_in
        return by_queue[queue]
