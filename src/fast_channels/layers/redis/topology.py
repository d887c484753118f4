"""Which node of a Redis Cluster serves which slot.

A cluster divides all keys into 16,384 slots and gives each slot to one of its masters
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/). Any node
knows the masters of all slots. The rules:

1. A node is asked only when there is a reason to: at the beginning, when a node
   redirects a command, and when a node fails or is silent. However many commands have
   a reason, there is one question at a time, after a short pause with jitter, because
   the commands of other processes have the same reason.
2. A redirection is believed for its slot at once; the question follows.
3. If one node does not answer soon, the next one is asked as well, until one answers.
   The nodes that the user has named are among them, since all others may have been
   replaced. A node that knows no masters is not part of the cluster, or not yet.
"""

import asyncio
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

from fast_channels.exceptions import RedisUnavailable
from fast_channels.waking import resolve

from .commands import NotSent, can_pass
from .hosts import Host
from .wire import (
    Address,
    RedisConnectionError,
    Reply,
    ask,
    describe,
    plain_connection,
)

__all__ = ["Topology", "TopologyTiming"]

# The first and the last slot of a range, and its master.
_Range: TypeAlias = tuple[int, int, Address]


@dataclass(frozen=True, slots=True)
class TopologyTiming:
    """When to ask for the masters of slots; times are in seconds."""

    reflection: tuple[float, float] = (0.01, 0.25)
    """The first pause before a question, and the longest one."""
    another: float = 0.25
    """Time without an answer after which another node is asked too."""
    patience: float = 5.0
    """Time for any node to answer."""
    jitter: Callable[[float, float], float] = random.uniform
    """Returns a number between two others, at random."""


class Topology:
    """The masters of some slots. Belongs to one event loop.

    Args:
        cluster: The host that stands for the cluster.
        slots: The slots.
        changed: Called after each answer with the slots that have another master now.
        timing: When to ask.
    """

    def __init__(
        self,
        cluster: Host,
        slots: Collection[int],
        changed: Callable[[Collection[int]], None],
        timing: TopologyTiming,
    ) -> None:
        self.cluster: Host = cluster
        """The host that stands for the cluster."""
        self._slots = slots
        self._changed = changed
        self._timing = timing
        self.masters: dict[int, Address] = {}
        """The master of each slot that has one, as far as is known."""
        self.all_masters: set[Address] = set()
        """All masters of the cluster that serve any slot."""
        self.problem: str | None = None
        """Why the last question was not answered; None if it was."""
        # Whether asking again can help.
        self._can_pass = True
        self._pause = timing.reflection[0]
        # Nodes to ask before any other, as they know what has changed.
        self._knowing: dict[Address, None] = {}
        self._task: asyncio.Task[None] | None = None
        # Resolved when the task has asked.
        self._round: asyncio.Future[None] | None = None

    async def master_of(self, slot: int, deadline: float) -> Address:
        """Return the master of a slot, waiting until it is known.

        Raises:
            NotSent: It did not become known before the deadline, or no node answers.
            RedisUnavailable: No node ever will answer, as the password is wrong, say.
        """
        while (master := self.masters.get(slot)) is None:
            try:
                async with asyncio.timeout_at(deadline):
                    await asyncio.shield(self.refresh())
            except TimeoutError:
                if slot not in self.masters:
                    raise self.unavailable(slot) from None
            if self.problem is not None and slot not in self.masters:
                raise self.unavailable(slot)
        return master

    def unavailable(self, slot: int | None = None) -> RedisUnavailable:
        """Return the error for a slot without a master, or for the cluster."""
        problem = self.problem
        if problem is None and not self.all_masters:
            problem = "no node has answered in time"
        problem = problem or f"no node serves slot {slot}"
        kind = NotSent if self._can_pass else RedisUnavailable
        return kind(f"{self.cluster} is not available: {problem}")

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
            self._task = asyncio.create_task(self._ask(self._round))
        return self._round

    async def close(self, why: str) -> None:
        """Stop asking; tasks that wait for a master fail.

        Args:
            why: The reason that their errors give.
        """
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self.problem = why
            assert self._round is not None
            resolve(self._round)
            await asyncio.wait([task])

    def _note(self, masters: dict[int, Address]) -> None:
        """Record masters; slots without one keep theirs, which may come back."""
        changed = [
            slot
            for slot, address in masters.items()
            if self.masters.get(slot, address) != address
        ]
        self.masters.update(masters)
        self._changed(changed)

    async def _ask(self, asked: asyncio.Future[None]) -> None:
        first, longest = self._timing.reflection
        await asyncio.sleep(self._pause * self._timing.jitter(0.0, 1.0))
        answer = await self._ask_all()
        if answer is not None:
            self._learn(answer)
        complete = answer is not None and len(self.masters) == len(self._slots)
        self._pause = first if complete else min(2 * self._pause, longest)
        self._task = None
        resolve(asked)
        if self._knowing:
            self.refresh()

    async def _ask_all(self) -> list[_Range] | None:
        """Ask one node after the other; return the first answer, or note problems."""
        known = map(self.cluster.at, self.all_masters)
        nodes = [*dict.fromkeys([*known, *self.cluster.nodes])]
        random.shuffle(nodes)
        if self._knowing:
            nodes.append(self.cluster.at(self._knowing.popitem()[0]))
        asking: dict[asyncio.Task[list[_Range]], Host] = {}
        errors: dict[Host, Exception] = {}
        try:
            async with asyncio.timeout(self._timing.patience):
                while nodes or asking:
                    pause = None
                    if nodes:
                        pause = self._timing.another
                        node = nodes.pop()
                        asking[asyncio.create_task(_ask_node(node))] = node
                    done, _ = await asyncio.wait(
                        asking, timeout=pause, return_when=asyncio.FIRST_COMPLETED
                    )
                    for task in done:
                        node, error = asking.pop(task), task.exception()
                        if error is None:
                            self.problem, self._can_pass = None, True
                            return task.result()
                        assert isinstance(error, Exception)
                        errors[node] = error
        except TimeoutError:
            errors |= dict.fromkeys(asking.values(), TimeoutError("it does not answer"))
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        problems = [f"{node}: {_describe(errors[node])}" for node in errors]
        self.problem = f"no node answers ({'; '.join(sorted(problems))})"
        self._can_pass = any(map(can_pass, errors.values()))
        return None

    def _learn(self, answer: list[_Range]) -> None:
        """Record the masters that a node has named."""
        self.all_masters = {master for _, _, master in answer}
        self._note(
            {
                slot: master
                for first, last, master in answer
                for slot in self._slots
                if first <= slot <= last
            }
        )


async def _ask_node(node: Host) -> list[_Range]:
    """Return the masters that a node knows."""
    connection = plain_connection(node)
    try:
        await connection.connect()
        reply = await ask(connection, "CLUSTER", "SLOTS")
    finally:
        await connection.disconnect(nowait=True)
    if not reply:
        raise RedisConnectionError("it knows no masters")
    return [
        (first, last, _address(master, node.options["host"]))
        for first, last, master, *_ in reply
    ]


def _address(master: Reply, asked: str) -> Address:
    """Return the address of a master as a node describes it.

    Args:
        master: The description: a name, a port, an ID, and more in pairs.
        asked: The host of that node.
    """
    name, port, *more = master
    if name == b"?":
        # The nodes announce hostnames, and this one has none.
        pairs: list[Reply] = more[1] if len(more) > 1 else []
        name = dict(zip(pairs[::2], pairs[1::2], strict=True)).get(b"ip")
    # Without a name, it has that of the node that was asked, by another port.
    return name.decode() if name else asked, int(port)


def _describe(error: Exception) -> str:
    if "cluster support disabled" in str(error):
        return (
            "it is not a node of a Redis Cluster; write hosts=[...] instead of "
            "cluster=[...]"
        )
    return describe(error)
