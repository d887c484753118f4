"""The subscriber to one node of a Redis Cluster.

In a cluster, messages are published on *shard channels*, which belong to slots as keys
do. A node ends a subscription when it no longer serves the slot, and refuses new ones.
The rules, besides those of all subscribers:

1. A name that the node has dropped or refused is asked for again after a pause, until
   the node confirms it, or until it is not wanted here any more. Names of other slots
   are not affected.
2. If the node names another one that serves the slot, the owner of the subscriber moves
   the names there.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from typing_extensions import override

from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.outage import Outage
from fast_channels.layers.redis.wire import (
    Connection,
    Reply,
    ResponseError,
    is_replica,
    is_unready,
    moved_slot,
    slot_of,
)

from .subscriber import Subscriber

__all__ = ["NodeSubscriber", "Owner"]

_logger = logging.getLogger(__name__)


class Owner(Protocol):
    """Decides at which node a name is listened to."""

    def lost(self, node: "NodeSubscriber") -> None:
        """Handle that a connection that had all subscriptions has broken."""

    def settled(self, node: "NodeSubscriber") -> None:
        """Handle that all names are confirmed, except for refused ones."""

    def dropped(self, name: str) -> None:
        """Handle that a node has ended the subscription to a name."""

    def refused(self, name: str, why: ResponseError) -> None:
        """Handle that a node has refused a name; the reason can name another node."""

    def suspect(self) -> None:
        """Handle that a node is silent or cannot be reached: it may be replaced."""

    def explain(self, why: ResponseError) -> Exception:
        """Return an error that tells a user more than this one."""
        ...


class NodeSubscriber(Subscriber):
    """Listens to shard channels on one connection.

    Args:
        connect: Makes a connection of redis-py, which is not open yet.
        name: Name of the node in the log.
        received: Called with each message: the subscriber, the name of the shard
            channel, and the data.
        owner: Decides at which node a name is listened to.
        timeout: Seconds to wait for a connection.
        timing: When to do the rest; by default the class attribute.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        name: str,
        received: Callable[["NodeSubscriber", bytes, bytes], None],
        owner: Owner,
        timeout: float,
        timing: Timing | None = None,
    ) -> None:
        super().__init__(
            connect,
            name=name,
            received=functools.partial(received, self),
            lost=functools.partial(owner.lost, self),
            restored=lambda: None,
            timeout=timeout,
            timing=timing,
            suspect=owner.suspect,
        )
        self._owner = owner
        # Names that the node has dropped or refused, and since when.
        self._denied: dict[str, float] = {}
        self._denial = Outage(_logger, name, "listened to in full")
        # Timer to ask for them again, and the next pause.
        self._timer: asyncio.TimerHandle | None = None
        self._pause = self._timing.backoff[0]

    @property
    def denied(self) -> Iterable[str]:
        """The wanted names that the node has dropped or refused."""
        return self._denied

    @override
    def pending(self, name: str) -> "asyncio.Future[None] | None":
        denied = self._denied.get(name)
        if denied is not None:
            now = asyncio.get_running_loop().time()
            if now - denied > self._timing.patience:
                return None
        return super().pending(name)

    @override
    def ignore(self, name: str, listeners: int = 1) -> None:
        super().ignore(name, listeners)
        if name not in self.wanted:
            self._denied.pop(name, None)

    async def retire(self, *, replaced: bool) -> None:
        """Disconnect, as all names are listened to elsewhere."""
        await self.close()
        self._outage.end(replaced=replaced)
        self._denial.end(replaced=replaced)

    @override
    def _ended(self, _: Exception | None) -> None:
        super()._ended(_)
        self._owner.suspect()

    @override
    def _forget_connection(self) -> None:
        super()._forget_connection()
        self._denied.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @override
    def _commands(
        self, verb: str, names: list[str]
    ) -> Iterable[tuple[str, Sequence[str]]]:
        by_slot: dict[int, list[str]] = {}
        for name in names:
            by_slot.setdefault(slot_of(name), []).append(name)
        # The names of one command must share a slot.
        return [(f"S{verb}", each) for each in by_slot.values()]

    @override
    def _accepts(self, hello: Reply) -> bool:
        # A replica accepts the names of its master, but gets no messages from a new
        # master until that knows it, which takes up to a second.
        return not is_replica(hello)

    @override
    def _confirm(self, verb: bytes, name: str) -> None:
        told, pending = name in self._told, self._unconfirmed.get(name, 0)
        # Commands on a name alternate, so their number shows which one is next.
        ending = pending > 0 and told == (pending % 2 == 0)
        if verb == b"sunsubscribe" and not ending:
            if told:
                # It usually moves before that.
                self._deny([name], self._timing.backoff[1])
                self._owner.dropped(name)
        elif pending:
            if verb == b"ssubscribe":
                self._denied.pop(name, None)
            super()._confirm(verb, name)

    @override
    def _refused(self, error: ResponseError) -> None:
        slot = moved_slot(error)
        if slot is None and not is_unready(error):
            raise self._owner.explain(error) from error
        # The error does not show which command was refused.
        names = [
            name for name in self._unconfirmed if slot is None or slot_of(name) == slot
        ]
        self._deny(names, self._pause)
        self._pause = min(2 * self._pause, self._timing.backoff[1])
        if slot is None:
            self._denial.begin(error)
        if names:
            self._owner.refused(names[0], error)
        self._settle()

    def _deny(self, names: Iterable[str], pause: float) -> None:
        """Record that names are not subscribed to, and ask again after a pause."""
        loop = asyncio.get_running_loop()
        for name in names:
            self._told.discard(name)
            self._unconfirmed.pop(name, None)
            if name in self.wanted:
                self._denied.setdefault(name, loop.time())
        if not self._denied:
            return
        when = loop.time() + pause
        if self._timer is not None:
            when = min(when, self._timer.when())
            self._timer.cancel()
        self._timer = loop.call_at(when, self._ask_again)

    def _ask_again(self) -> None:
        self._timer = None
        for name in self._denied:
            self._change(name)

    @override
    def _settle(self) -> None:
        super()._settle()
        if self._unconfirmed or self._changed:
            return
        if not self._denied:
            self._pause = self._timing.backoff[0]
            self._denial.end()
        self._owner.settled(self)
