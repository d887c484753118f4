"""The base class of channel layers.

A layer carries messages between consumers in any process. A message is sent to a
channel, or to a group, which delivers a copy to each of its channels.
"""

import fnmatch
import re
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from .contents import require_carried
from .counters import Counters
from .delivery import Delivery
from .history import (
    GroupHistory,
    Histories,
    History,
    Resumed,
    compile_histories,
    require_once,
)
from .listening import Messages, end_listeners
from .options import require_positive, require_positive_int

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
    """The interface of a channel layer, and the code that all layers share.

    To write your own layer, implement ``send``, ``receive`` and ``new_channel``, and
    for consumers that use groups ``group_add``, ``group_discard`` and ``group_send``.
    ``flush`` is optional; all other methods have a working default.

    A layer can be created without an event loop, and can serve several event loops.

    Args:
        expiry: Seconds after which an unreceived message is dropped.
        capacity: Maximum number of messages waiting in one channel.
        channel_capacity: Separate capacities for some channels, by glob
            (``"http.request*"``) or compiled pattern; the first match applies.
        history: The groups that have a history, by glob (``"room.*"``) or compiled
            pattern, each with its :class:`History`; the first match applies. All
            processes must have the same.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``expiry`` or a capacity is not positive.
    """

    MAX_NAME_LENGTH = 100
    """Length that the name of a channel or group must not reach."""

    extensions: list[str] = []  # noqa: RUF012 # a list in Channels, replaced by layers
    """Optional parts of the interface that it implements: ``"groups"``, ``"flush"``."""

    broadcasts: bool = False
    """Whether all processes that read a plain channel get each of its messages."""

    # Layers of users may not call the constructor.
    _histories: Histories = ()

    def __init__(
        self,
        expiry: float = 60,
        capacity: int = 100,
        channel_capacity: "ChannelCapacityDict | None" = None,
        *,
        history: Mapping[Any, History] | None = None,
    ) -> None:
        self.expiry: float = require_positive("expiry", expiry)
        """Seconds after which an unreceived message is dropped."""
        self.capacity: int = require_positive_int("capacity", capacity)
        """Maximum number of messages in a channel that ``channel_capacity`` omits."""
        self.channel_capacity: CompiledChannelCapacities = self.compile_capacities(
            channel_capacity or {}
        )
        """``channel_capacity`` with its globs compiled to patterns."""
        self._histories = compile_histories(history or {})

    # Methods that a layer implements

    async def send(self, channel: str, message: "ChannelMessage") -> None:
        """Send a message to one channel.

        Args:
            channel: The channel's name.
            message: A dict with str keys. Changing it later has no effect on the
                receiver's copy.

        Raises:
            ChannelFull: The channel is at capacity; the message was not sent.
            TypeError: The name or the message is not valid.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement send()")

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel and return it.

        The dict belongs to the receiver. Each message has one receiver, or one in each
        process if the layer ``broadcasts``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement receive()")

    async def take(self, channel: str) -> Delivery:
        """Wait for the next message of a plain channel and return it as a delivery.

        Unlike with ``receive()``, a layer that stores messages delivers this one again
        unless it is acknowledged: at least once. Cancelling is safe: no message is
        lost. The default calls ``receive()``, and acknowledging has no effect.
        """
        return Delivery(await self.receive(channel))

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return a unique name for a new channel."""
        raise NotImplementedError(
            f"{type(self).__name__} does not implement new_channel()"
        )

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; do nothing if it is already a member."""
        raise NotImplementedError(f"{type(self).__name__} has no groups")

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; do nothing if it is not a member."""
        raise NotImplementedError(f"{type(self).__name__} has no groups")

    async def group_send(
        self, group: str, message: "ChannelMessage", *, once: str | None = None
    ) -> str | None:
        """Send a message to every channel of a group.

        A channel that is full misses its copy; the other channels get theirs.

        Args:
            group: The group.
            message: A dict with str keys.
            once: A key of your choice, for a group that has a history: sending again
                with the same key within five minutes sends nothing, and returns the
                position of the first message. Use it to retry safely.

        Returns:
            The position of the message, if the group has a history.
        """
        raise NotImplementedError(f"{type(self).__name__} has no groups")

    async def group_resume(
        self,
        group: str,
        channel: str,
        *,
        since: str | None = None,
        last: int | None = None,
    ) -> Resumed:
        """Add a channel to a group, and deliver the messages that it missed.

        The channel gets the messages after ``since``, and then those that are sent from
        now on, each of them once and in order. If it is a member already, messages of
        the group that still wait in it are replaced by those after ``since``.

        Positions come from clients and are not trusted. One that is made up, too old or
        of another group is like one whose messages are lost: ``complete`` is False, and
        nothing old is delivered but ``last`` messages. Check who may join before you
        resume.

        Args:
            group: The group.
            channel: A channel that ``new_channel()`` of this process has returned.
            since: The position of the last message that the client has.
            last: Number of latest messages to deliver if there is no ``since``, or if
                messages after it are lost; the history may have fewer.

        Raises:
            TypeError: A name is not valid, or ``last`` is not an int.
            ValueError: ``since`` or ``last`` is given, but the group has no history; or
                ``last`` is not positive.
        """
        if since is not None or last is not None:
            self._require_history(group)
        await self.group_add(group, channel)
        return Resumed("", complete=True, replayed=0)

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
        self._require_history(group)
        raise NotImplementedError(f"{type(self).__name__} keeps no history")

    async def flush(self) -> None:
        """Drop all messages and groups of this layer."""
        raise NotImplementedError(f"{type(self).__name__} does not implement flush()")

    async def close(self) -> None:
        """Release all that the layer holds; the layer can be used again afterwards.

        An override calls this method first: it ends the loops of ``listen()``.
        """
        await end_listeners(self)

    async def delete_channel(self, channel: str) -> None:
        """Delete a channel that will not be received from again.

        A consumer calls this when its connection has ended. The layer drops the
        waiting messages, and the memberships in groups as far as this process knows
        them. The default does nothing: messages and memberships expire.
        """

    def attach(self, channel: str, listener: Callable[[], None]) -> "Mailbox | None":
        """Return the mailbox of a channel, for a reader that does not wait.

        A consumer reads its own channel this way, without a task. The listener is
        called in any thread, once for each message that is put into the mailbox.
        ``delete_channel()`` detaches it, and must remove the channel from all groups: a
        consumer calls that method before ``disconnect()``, and again at the end. If a
        layer returns None, which is the default, the consumer reads the channel with
        ``receive()`` and leaves groups with ``group_discard()``.
        """
        return None

    def statistics(self) -> dict[str, int]:
        """Return the current state of the layer, and its counters.

        All layers return the same keys; a layer that does not count returns zeros.
        Currently in this process: ``channels`` with a receiver or a message, ``groups``
        with members, and messages ``waiting`` for receivers. Since the layer was
        created: copies ``delivered`` to channels, copies ``dropped`` for lack of room,
        messages that were ``undecodable`` or for no channel of this process, and
        ``reconnects`` of broken connections.
        """
        return Counters().statistics()

    # Code that all layers share

    def listen(
        self,
        *groups: str,
        since: "str | Mapping[str, str] | None" = None,
        last: int | None = None,
    ) -> Messages:
        """Receive the messages of groups in any coroutine.

        For an endpoint that streams events, a subscription of GraphQL, or a task:

        .. code-block:: python

            async def show(layer):
                async with layer.listen("room.7", "news") as messages:
                    async for message in messages:
                        print(message)

        The block has a channel of its own, with the same ``capacity`` as a consumer's:
        messages for which there is no room are dropped. However the block ends, the
        channel leaves its groups. The loop ends without an exception when the
        application shuts down, see :func:`~fast_channels.lifespan.channels_lifespan`,
        and when the layer is closed.

        If a group has a history, the loop can resume, as with :meth:`group_resume`.
        When it misses messages after all, it gets a message of type ``"group.gap"`` in
        their place, and can resume from :attr:`Messages.position`.

        Args:
            *groups: The groups to join.
            since: The position of the last message that the client has, in the only
                group that has a history; otherwise a dict of positions by group.
            last: Number of latest messages of each group with a history to begin with,
                if there is no ``since``, or if messages after it are lost.

        Raises:
            TypeError: There is no group.
            ValueError: ``since`` is a str, or ``last`` is given, but none of the groups
                has a history; or ``since`` is a str, and several of them have one.
        """
        return Messages(self, groups, since, last)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await end_listeners(self)
        await self.close()

    def compile_capacities(
        self, channel_capacity: "ChannelCapacityDict"
    ) -> "CompiledChannelCapacities":
        """Return the capacities with every glob compiled to a pattern."""
        if not isinstance(channel_capacity, Mapping):
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

    def history_of(self, group: str) -> History | None:
        """Return the history that a group has, or None."""
        for pattern, history in self._histories:
            if pattern.match(group):
                return history
        return None

    def get_capacity(self, channel: str) -> int:
        """Return the maximum number of messages waiting in a channel."""
        for pattern, capacity in self.channel_capacity:
            if pattern.match(channel):
                return capacity
        return self.capacity

    def require_valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """Return True if the name of a channel is valid; raise otherwise.

        Args:
            name: The name.
            receive: Whether the name must end at its ``!``, if it has one, as in a
                layer that reads all channels of a process together.

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
        """Return True if the name of a group is valid; raise otherwise.

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
        """Check that every layer can carry a message; for layers that send it.

        A message is a dict with str keys. It holds None, bool, int of 64 bits, float,
        str, bytes, list and dict, nested at most 100 levels deep.

        Raises:
            TypeError: It is not valid; the error gives the value and its place.
        """
        require_carried(message)

    def non_local_name(self, name: str) -> str:
        """Return the part of a channel's name that identifies its process.

        That is the name up to and including the ``!``, or the whole name without one.
        """
        head, mark, _ = name.partition("!")
        return head + mark

    # Names that layers for older releases of Channels call

    def valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """Return the result of ``require_valid_channel_name()``."""
        return self.require_valid_channel_name(name, receive)

    def valid_group_name(self, name: str) -> bool:
        """Return the result of ``require_valid_group_name()``."""
        return self.require_valid_group_name(name)

    def match_type_and_length(self, name: object) -> bool:
        """Return whether a name is a str and not too long."""
        return isinstance(name, str) and len(name) < self.MAX_NAME_LENGTH

    def _require_history(self, group: str) -> History:
        """Return the history of a group.

        Raises:
            TypeError: The name is not valid.
            ValueError: It has none.
        """
        self.require_valid_group_name(group)
        history = self.history_of(group)
        if history is None:
            raise ValueError(
                f"group {group!r} has no history: create the {type(self).__name__} "
                f"with history={{{group!r}: History()}}, or with a glob that matches"
            )
        return history

    def _history_to_send(self, group: str, once: str | None) -> History | None:
        """Return the history of a group to send to, after a check of ``once``.

        Raises:
            TypeError: ``once`` is not a str.
            ValueError: ``once`` is empty, or given for a group without history.
        """
        if once is not None:
            require_once(once)
            return self._require_history(group)
        return self.history_of(group)

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
