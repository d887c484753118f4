"""Which node of a Redis Cluster serves which slot.

A cluster divides all keys into 16,384 slots and gives each slot to one of its masters
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/). Any node
knows the masters of all slots. The rules:

1. A node is asked only when there is a reason to: at the beginning, when a node
   redirects a command, and when a node fails or is silent. However many commands have
   a reason, there is one question at a time, after a short pause with jitter, because
   the commands of other processes have the same reason.
2. A redirection is believed for its slot at once; the question follows.
3. If one node does not answer, the next one is asked, until one answers. The nodes that
   the user has named are asked as well, since all others may have been replaced.
"""

import asyncio
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar

from fast_channels.waking import resolve

from .commands import NotSent
from .hosts import Host
from .wire import (
    Address,
    RedisError,
    Reply,
    ResponseError,
    ask,
    describe,
    plain_connection,
)

__all__ = ["Topology", "TopologyTiming"]


@dataclass(frozen=True, slots=True)
class TopologyTiming:
    """When to ask for the masters of slots; times are in seconds."""

    pause: tuple[float, float] = (0.01, 0.25)
    """The first pause before a question, and the longest one."""
    patience: float = 0.5
    """Time to wait for one node before asking the next one."""
    jitter: Callable[[float, float], float] = random.uniform
    """Returns a number between two others, at random."""


class Topology:
    """The masters of some slots. Belongs to one event loop.

    Args:
        cluster: The host that stands for the cluster.
        slots: The slots.
        changed: Called after each reply with the slots that have another master now.
        timing: When to ask; by default the class attribute.
    """

    timing: ClassVar[TopologyTiming] = TopologyTiming()

    def __init__(
        self,
        cluster: Host,
        slots: Collection[int],
        changed: Callable[[Collection[int]], None],
        *,
        timing: TopologyTiming | None = None,
    ) -> None:
        self.cluster: Host = cluster
        """The host that stands for the cluster."""
        self._slots = slots
        self._changed = changed
        self._timing = timing or self.timing
        self.masters: dict[int, Address] = {}
        """The master of each slot that has one, as far as is known."""
        self.all_masters: set[Address] = set()
        """All masters of the cluster that serve any slot."""
        self.problem: str | None = None
        """Why the last question was not answered; None if it was."""
        self.failing_since: float | None = None
        """When questions began to fail, on the event loop's clock."""
        self._pause = self._timing.pause[0]
        # Nodes to ask before any other, as they know what has changed.
        self._knowing: dict[Address, None] = {}
        self._task: asyncio.Task[None] | None = None
        # Resolved when the task has asked.
        self._round: asyncio.Future[None] | None = None

    async def master_of(self, slot: int, deadline: float) -> Address:
        """Return the master of a slot, waiting until it is known.

        Raises:
            NotSent: It did not become known before the deadline, or no node answers.
        """
        while (master := self.masters.get(slot)) is None:
            try:
                async with asyncio.timeout_at(deadline):
                    await asyncio.shield(self.refresh())
            except TimeoutError:
                problem = self.problem or f"no node serves slot {slot}"
                raise NotSent(f"{self.cluster} is not available: {problem}") from None
            if self.problem is not None and slot not in self.masters:
                raise NotSent(f"{self.cluster} is not available: {self.problem}")
        return master

    def moved(self, slot: int, address: Address) -> None:
        """Record that a node has named another one as the master of a slot."""
        self._note({slot: address})
        self.refresh()

    def refresh(self, knowing: Address | None = None) -> asyncio.Future[None]:
        """Ask for the masters soon; return a future that is resolved after that.

        Args:
            knowing: A node that knows what has changed; others learn of it later.
        """
        if knowing is not None:
            self._knowing[knowing] = None
        if self._round is None or self._task is None:
            self._round = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._ask())
        return self._round

    async def close(self) -> None:
        """Stop asking."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self._round is not None:
            self._round.cancel()

    def _note(self, masters: dict[int, Address]) -> None:
        """Record masters; slots without one keep theirs, which may come back."""
        changed = [
            slot
            for slot, address in masters.items()
            if self.masters.get(slot, address) != address
        ]
        self.masters.update(masters)
        self._changed(changed)

    async def _ask(self) -> None:
        """Ask one node after the other until one answers, or none does."""
        first, longest = self._timing.pause
        await asyncio.sleep(self._pause * self._timing.jitter(0.0, 1.0))
        problem = await self._ask_all()
        if problem is None:
            self.failing_since = None
        elif self.failing_since is None:
            self.failing_since = asyncio.get_running_loop().time()
        self.problem = problem
        complete = problem is None and len(self.masters) == len(self._slots)
        self._pause = first if complete else min(2 * self._pause, longest)
        self._task = None
        assert self._round is not None
        resolve(self._round)
        if self._knowing:
            self.refresh()

    async def _ask_all(self) -> str | None:
        """Ask all known nodes in turn; return the problems if none answers."""
        known = list(self.all_masters)
        random.shuffle(known)
        if self._knowing:
            known.insert(0, self._knowing.popitem()[0])
        nodes = [*map(self.cluster.at, known), *self.cluster.nodes]
        problems: dict[str, None] = {}
        for node in nodes:
            try:
                async with asyncio.timeout(self._timing.patience):
                    reply = await _ask_node(node)
            except TimeoutError:
                problems[f"{node} does not answer"] = None
            except ResponseError as exc:
                if "cluster support disabled" not in str(exc):
                    problems[f"{node}: {describe(exc)}"] = None
                    continue
                problems[
                    f"{node} is not a node of a Redis Cluster; write hosts=[...] "
                    "instead of cluster=[...]"
                ] = None
            except (RedisError, OSError) as exc:
                problems[f"{node}: {describe(exc)}"] = None
            else:
                self._learn(node, reply)
                return None
        return "no node answers (" + "; ".join(problems) + ")"

    def _learn(self, asked: Host, reply: Reply) -> None:
        """Record the masters that a node has named."""
        masters: dict[int, Address] = {}
        everyone: set[Address] = set()
        for first, last, (name, port, *_), *_ in reply:
            # A node that does not know its own address leaves it out.
            host = (name or b"?").decode()
            address = asked.options["host"] if host == "?" else host, int(port)
            everyone.add(address)
            masters.update(
                (slot, address) for slot in self._slots if first <= slot <= last
            )
        self.all_masters = everyone
        self._note(masters)


async def _ask_node(node: Host) -> Reply:
    connection = plain_connection(node)
    try:
        await connection.connect()
        return await ask(connection, "CLUSTER", "SLOTS")
    finally:
        await connection.disconnect(nowait=True)
