"""What every channel layer promises.

A layer carries messages between consumers, wherever they run. A message is sent to a
channel, which one consumer reads, or to a group of channels, each of which gets a copy.
"""

import fnmatch
import re
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from .contents import require_carried
from .counters import Counters
from .delivery import Delivery

if TYPE_CHECKING:
    from fast_channels.type_defs import (
        ChannelCapacityDict,
        ChannelMessage,
        CompiledChannelCapacities,
    )

    from .mailbox import Mailbox

__all__ = ["BaseChannelLayer"]

_GROUP_NAME = re.compile(r"[A-Za-z0-9._-]+")
_CHANNEL_NAME = re.compile(r"[A-Za-z0-9._-]+(![A-Za-z0-9._-]*)?")
_CHARACTERS = "ASCII letters, digits, '.', '_' and '-'"


class BaseChannelLayer:
    """The interface of a channel layer, and what all of them share.

    To write a layer of your own, implement ``send``, ``receive`` and ``new_channel``,
    and, for consumers that use groups, ``group_add``, ``group_discard`` and
    ``group_send``. Everything else has a working default.

    A layer is built without an event loop, and may serve several of them.

    Args:
        expiry: After how many seconds a message that nobody received is dropped.
        capacity: How many messages may wait in one channel.
        channel_capacity: A capacity of their own for some channels, by glob
            (``"http.request*"``) or compiled pattern; the first match counts.

    Raises:
        TypeError: An argument is not of the type it should be.
        ValueError: ``expiry`` or a capacity is not positive.
    """

    MAX_NAME_LENGTH = 100
    """A name is shorter than this."""

    extensions: list[str] = []  # noqa: RUF012 # a list in Channels, replaced by layers
    """The optional parts of the interface it has: ``"groups"``, ``"flush"``."""

    broadcasts: bool = False
    """Whether each message of a plain channel goes to every process that reads it."""

    def __init__(
        self,
        expiry: float = 60,
        capacity: int = 100,
        channel_capacity: "ChannelCapacityDict | None" = None,
    ) -> None:
        self.expiry: float = require_positive("expiry", expiry)
        """After how many seconds a message that nobody received is dropped."""
        self.capacity: int = require_positive_int("capacity", capacity)
        """How many messages may wait in a channel that ``channel_capacity`` omits."""
        self.channel_capacity: CompiledChannelCapacities = self.compile_capacities(
            channel_capacity or {}
        )
        """The compiled ``channel_capacity``."""

    # What a layer implements.

    async def send(self, channel: str, message: "ChannelMessage") -> None:
        """Send a message to one channel.

        Args:
            channel: The channel's name.
            message: A dict with str keys. Changing it afterwards changes nothing
                for the receiver.

        Raises:
            ChannelFull: The channel is at capacity; the message was not sent.
            TypeError: The name is not valid, or the message is not such a dict.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement send()")

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel and return it.

        The dict is the receiver's own. Each message goes to one receiver.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement receive()")

    async def take(self, channel: str) -> Delivery:
        """Wait for the next message of a plain channel, to be acknowledged.

        Like ``receive()``, but a layer that keeps messages delivers the message again
        unless it is acknowledged: at least once. Cancelling is safe: no message is
        lost. By default it calls ``receive()``, and acknowledging has no effect.
        """
        return Delivery(await self.receive(channel))

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return the name of a new channel, which nobody else has."""
        raise NotImplementedError(
            f"{type(self).__name__} does not implement new_channel()"
        )

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; nothing changes if it is in it."""
        raise NotImplementedError(f"{type(self).__name__} has no groups")

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; nothing changes if it is not in it."""
        raise NotImplementedError(f"{type(self).__name__} has no groups")

    async def group_send(self, group: str, message: "ChannelMessage") -> None:
        """Send a message to every channel of a group.

        A member whose channel is full does not get its copy; the others do.
        """
        raise NotImplementedError(f"{type(self).__name__} has no groups")

    async def flush(self) -> None:
        """Drop every message and every group of this layer."""
        raise NotImplementedError(f"{type(self).__name__} does not implement flush()")

    async def close(self) -> None:
        """Release everything the layer holds; it can be used again afterwards."""

    async def delete_channel(self, channel: str) -> None:
        """Forget a channel that nobody will receive from any more.

        A consumer calls it when its connection has ended. Messages that wait in the
        channel are dropped, and so are its memberships in groups, as far as this
        process knows of them. By default nothing is done: messages and memberships
        expire.
        """

    def attach(self, channel: str, listener: Callable[[], None]) -> "Mailbox | None":
        """Return the mailbox of a channel, for a reader that does not wait.

        A consumer reads its own channel in this way: it costs no task. The listener
        is called, in any thread, once for each message that was put into the mailbox.
        ``delete_channel()`` ends it, and has to leave all groups of the channel: a
        consumer calls that before ``disconnect()``, and once more at the end. A layer
        that returns None, as it does by default, is read with ``receive()``, and groups
        are left with ``group_discard()``.
        """
        return None

    def statistics(self) -> dict[str, int]:
        """Return how much the layer holds at this moment, and what it has counted.

        Every layer has the same keys; a layer that does not count returns zeros. In
        this process: ``channels`` with a receiver or a message, ``groups`` they are in,
        and messages ``waiting`` for them. Since the layer was made: copies
        ``delivered`` to channels, copies ``dropped`` because there was no room,
        messages ``undecodable`` or for no channel of this process, and ``reconnects``
        of connections that broke.
        """
        return Counters().statistics()

    # What all layers share.

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def compile_capacities(
        self, channel_capacity: "ChannelCapacityDict"
    ) -> "CompiledChannelCapacities":
        """Return the capacities with every glob compiled to a pattern."""
        if not isinstance(channel_capacity, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] # checks input
            raise TypeError(
                "channel_capacity must be a dict of globs or compiled patterns to "
                f"capacities, not {channel_capacity!r}"
            )
        return [
            (
                _compile_pattern(pattern),
                require_positive_int(f"channel_capacity[{pattern!r}]", capacity),
            )
            for pattern, capacity in channel_capacity.items()
        ]

    def get_capacity(self, channel: str) -> int:
        """Return how many messages may wait in a channel."""
        for pattern, capacity in self.channel_capacity:
            if pattern.match(channel):
                return capacity
        return self.capacity

    def require_valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """Return True for a valid name of a channel.

        Args:
            name: The name.
            receive: Whether the name is one to receive on in a layer that reads all
                channels of a process at once: it then ends at the ``!``.

        Raises:
            TypeError: The name is not valid.
        """
        if not _matches(_CHANNEL_NAME, name):
            raise TypeError(
                f"{name!r} is not a channel name: it must be a str of {_CHARACTERS}, "
                "optionally with one '!' after the first part"
            )
        self._require_length("channel", name)
        if receive and "!" in name and not name.endswith("!"):
            raise TypeError(f"{name!r}: a channel to receive on must end at the '!'")
        return True

    def require_valid_group_name(self, name: str) -> bool:
        """Return True for a valid name of a group.

        Raises:
            TypeError: The name is not valid.
        """
        if not _matches(_GROUP_NAME, name):
            raise TypeError(
                f"{name!r} is not a group name: it must be a str of {_CHARACTERS}"
            )
        self._require_length("group", name)
        return True

    def require_valid_message(self, message: object) -> None:
        """Return if a message is one that every layer carries.

        It is a dict with str keys, and holds None, bool, int of 64 bits, float, str,
        bytes, list and dict, nested at most 100 levels deep. A layer calls this when it
        sends.

        Raises:
            TypeError: It is not; the error says where it holds what.
        """
        require_carried(message)

    def non_local_name(self, name: str) -> str:
        """Return the part of a channel's name that tells the process it belongs to.

        That is the name up to and including the ``!``, or all of it if it has none.
        """
        head, mark, _ = name.partition("!")
        return head + mark

    # By the names that layers for older releases of Channels call.

    def valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """Do as ``require_valid_channel_name()`` does."""
        return self.require_valid_channel_name(name, receive)

    def valid_group_name(self, name: str) -> bool:
        """Do as ``require_valid_group_name()`` does."""
        return self.require_valid_group_name(name)

    def match_type_and_length(self, name: object) -> bool:
        """Return whether a name is a str, and not too long."""
        return isinstance(name, str) and len(name) < self.MAX_NAME_LENGTH

    def _require_length(self, kind: str, name: str) -> None:
        if len(name) >= self.MAX_NAME_LENGTH:
            raise TypeError(
                f"a {kind} name must be shorter than {self.MAX_NAME_LENGTH} "
                f"characters; this one has {len(name)}: {name!r}"
            )


def _matches(pattern: re.Pattern[str], name: object) -> bool:
    return isinstance(name, str) and pattern.fullmatch(name) is not None


def _compile_pattern(pattern: object) -> re.Pattern[str]:
    if isinstance(pattern, str):
        return re.compile(fnmatch.translate(pattern))
    if isinstance(pattern, re.Pattern):
        return cast("re.Pattern[str]", pattern)
    raise TypeError(
        "channel_capacity maps globs or compiled patterns to capacities; "
        f"{pattern!r} is neither a str nor a re.Pattern"
    )


def require_positive(name: str, value: object) -> float:
    """Return the value of an option that must be a positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value!r}")
    return value


def require_positive_int(name: str, value: object) -> int:
    """Return the value of an option that must be a positive int."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value!r}")
    return value
