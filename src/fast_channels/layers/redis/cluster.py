"""Sends each command to the node of a Redis Cluster that serves its slot.

The rules:

1. Each master has one connection for commands, shared by all slots that it serves.
2. A command whose slot has moved goes to the node that the reply names, and so do all
   later ones. A command whose slot is being moved goes there alone.
3. A command that was certainly not executed is sent again, until its deadline: its node
   cannot be reached, or the cluster is electing a new master. One that may have been
   executed fails. Once a command has been given up, the later ones for that node are
   sent again for a shorter time, until one succeeds.
4. A node that fails or is silent is a reason to ask for the masters. A node that is no
   longer a master is disconnected, after its last replies if there are any.
"""

import asyncio
import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from fast_channels.exceptions import RedisUnavailable
from fast_channels.waking import ignore_error, resolve

from .cluster_node import ClusterNode
from .commands import CLOSED, CommandConnection, NotSent
from .hosts import Host
from .link import Timing
from .topology import Topology, TopologyTiming
from .wire import (
    Address,
    Connection,
    ResponseError,
    Word,
    is_unready,
    located_connection,
    redirection,
)

__all__ = ["Cluster", "ClusterTiming", "SlotCommands"]


@dataclass(frozen=True, slots=True)
class ClusterTiming(TopologyTiming):
    """When to act in a cluster; times are in seconds."""

    pause: tuple[float, float] = (0.001, 0.25)
    """The first pause before a command is sent again, and the longest one."""
    retry: float = 0.5
    """Time to send commands again for a node whose latest one was given up."""
    probe: float = 0.5
    """Time after which a node that could not be reached is tried again."""
    look: float = 0.25
    """Interval between checks for silent nodes, while commands wait for replies."""
    silence: float = 1.0
    """Silence of a node after which another one may be the master."""
    farewell: float = 1.0
    """Time for the last replies of a node that is no longer a master."""
    connection: Timing = CommandConnection.timing
    """When the connections for commands act."""


class Cluster:
    """The connections for commands to the nodes of a cluster, in one event loop.

    Args:
        host: The host that stands for the cluster.
        slots: The slots that commands can be for.
        timeout: Seconds to wait for a reply.
        switched: Called with each slot that has another master now.
        lost: Called with each slot whose master has lost its connection for commands,
            and perhaps its data.
        timing: When to act; by default the class attribute.
    """

    timing: ClassVar[ClusterTiming] = ClusterTiming()

    def __init__(
        self,
        host: Host,
        slots: Collection[int],
        *,
        timeout: float,
        switched: Callable[[int], None],
        lost: Callable[[int], None],
        timing: ClusterTiming | None = None,
    ) -> None:
        self.timeout: float = timeout
        """Seconds to wait for a reply."""
        self._switched = switched
        self._lost = lost
        self._timing = timing or self.timing
        self.topology: Topology = Topology(host, slots, self._changed, self._timing)
        """Which node serves which slot."""
        self._nodes: dict[Address, ClusterNode] = {}
        # Nodes that are no longer masters, by the tasks that disconnect them.
        self._retiring: dict[asyncio.Task[None], ClusterNode] = {}
        # Tasks of commands that no other code waits for.
        self._posted: set[asyncio.Task[Any]] = set()
        # Masters whose latest command was given up; None if there was no master.
        self._given_up: set[Address | None] = set()
        # Resolved when it is closed.
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Timer that looks for silent nodes, while commands wait for replies.
        self._timer: asyncio.TimerHandle | None = None

    def connect(self, slot: int) -> Connection:
        """Return a connection to the master of a slot, which is not open yet."""

        async def locate() -> Address:
            deadline = asyncio.get_running_loop().time() + self.timeout
            return await self.topology.master_of(slot, deadline)

        async def accept(connection: Connection, address: Address) -> None:
            # A node that does not serve the slot says so in its first reply.
            del connection, address

        return located_connection(self.topology.cluster, locate, accept)

    def broken(self, slot: int, why: Exception) -> bool:
        """Note why a connection to the master of a slot has broken.

        Returns:
            Whether the reason is that the slot has moved.
        """
        match redirection(why):
            case True, (str(host), int(port)):
                before = self.topology.masters.get(slot, (host, port))
                self.topology.moved(slot, (host or before[0], port))
                return True
            case _:
                self.topology.refresh()
                return False

    def node_of(self, slot: int) -> ClusterNode | None:
        """Return the connection to the master of a slot, if there is one."""
        master = self.topology.masters.get(slot)
        return None if master is None else self._nodes.get(master)

    async def masters(self) -> list[CommandConnection]:
        """Return the connections to all masters.

        Raises:
            RedisUnavailable: No node of the cluster answers.
        """
        await asyncio.shield(self.topology.refresh())
        if self.topology.problem is not None:
            raise self.topology.unavailable()
        return [self._node(each).commands for each in self.topology.all_masters]

    async def execute(self, slot: int, *command: Word, deadline: float) -> Any:
        """Send a command to the master of a slot and return its reply.

        A command that is cancelled may or may not be executed.

        Raises:
            ResponseError: The reply is an error that is not a refusal.
            RedisUnavailable: Redis refuses the command, or does not reply in time.
        """
        end = self._end
        asked: Address | None = None
        asking: Address | None = None
        problem: RedisUnavailable | ResponseError | None = None
        retries_end = self._retries_end(slot, deadline)
        for pause in self._pauses(retries_end):
            if pause:
                await asyncio.wait([end], timeout=pause)
            try:
                if end.done():
                    raise self._unavailable(CLOSED)
                asked = asking or await self.topology.master_of(slot, retries_end)
                reply = await self._send(asked, command, deadline, bool(asking))
            except (RedisUnavailable, ResponseError) as exc:
                if end.done():
                    raise
                problem = exc
                asking = self._reroute(slot, asked, exc)
            else:
                if self._given_up:
                    self._given_up -= {asked, None}
                return reply
        self._given_up.add(self.topology.masters.get(slot))
        if isinstance(problem, RedisUnavailable):
            raise problem
        raise self._unavailable(
            f"slot {slot} is moving, or its nodes do not agree where it is ({problem})"
        )

    def post(self, slot: int, *command: Word, deadline: float) -> None:
        """Send a command without waiting for its reply, which is ignored."""
        sending = asyncio.create_task(self.execute(slot, *command, deadline=deadline))
        self._posted.add(sending)
        sending.add_done_callback(self._posted.discard)
        sending.add_done_callback(ignore_error)

    async def close(self) -> None:
        """Disconnect; all pending commands fail."""
        resolve(self._end)
        self._end = asyncio.get_running_loop().create_future()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        nodes = [*self._nodes.values(), *self._retiring.values()]
        self._nodes.clear()
        tasks = [*self._retiring, *self._posted]
        for task in tasks:
            task.cancel()
        await asyncio.gather(
            self.topology.close(CLOSED),
            *[node.close(CLOSED) for node in nodes],
            *tasks,
            return_exceptions=True,
        )

    def _retries_end(self, slot: int, deadline: float) -> float:
        """Return when to stop sending a command again."""
        if self.topology.masters.get(slot) not in self._given_up:
            return deadline
        now = asyncio.get_running_loop().time()
        return min(deadline, now + self._timing.retry)

    def _pauses(self, end: float) -> Iterator[float]:
        """Yield the pauses before each attempt to send a command."""
        loop = asyncio.get_running_loop()
        pause, longest = self._timing.pause
        yield 0.0
        while loop.time() + pause < end:
            yield pause * self._timing.jitter(0.5, 1.0)
            pause = min(2 * pause, longest)

    def _unavailable(self, problem: str) -> NotSent:
        return NotSent(f"{self.topology.cluster} is not available: {problem}")

    def _send(
        self, address: Address, command: tuple[Word, ...], deadline: float, asking: bool
    ) -> asyncio.Future[Any]:
        commands = self._node(address).commands
        if self._timer is None:
            self._watch()
        if asking:
            # Applies to the next command on the connection.
            reply = commands.submit("ASKING", deadline=deadline)
            reply.add_done_callback(ignore_error)
        return commands.submit(*command, deadline=deadline)

    def _reroute(
        self, slot: int, asked: Address | None, error: RedisUnavailable | ResponseError
    ) -> Address | None:
        """Decide where a command goes that has failed, if it can be sent again.

        Returns:
            The node to send it to this time; None for the master of its slot.

        Raises:
            ResponseError: It cannot be sent again.
            RedisUnavailable: It cannot be sent again.
        """
        redirected = redirection(error)
        if redirected is not None:
            assert asked is not None
            moved, (host, port) = redirected
            address = host or asked[0], port
            if not moved:
                return address
            self.topology.moved(slot, address)
            return None
        reason = error.__cause__ or error
        if not (isinstance(error, NotSent) or is_unready(reason)):
            raise error
        self.topology.refresh()
        return None

    # Nodes

    def _node(self, address: Address) -> ClusterNode:
        node = self._nodes.get(address)
        if node is None:
            host = self.topology.cluster.at(address)
            failed = functools.partial(self._failed, address)
            node = self._nodes[address] = ClusterNode(
                host,
                self.timeout,
                failed,
                pause=self._timing.probe,
                timing=self._timing.connection,
            )
        return node

    def _failed(self, address: Address, lost: bool) -> None:
        """Note that a node has failed, and perhaps lost its data."""
        self.topology.refresh()
        node = self._nodes.get(address)
        if node is not None:
            node.probe()
        if lost:
            for slot, master in list(self.topology.masters.items()):
                if master == address:
                    self._lost(slot)

    def _changed(self, slots: Collection[int]) -> None:
        """Disconnect nodes that are no longer masters; note slots that have moved."""
        masters = {*self.topology.all_masters, *self.topology.masters.values()}
        for address, node in list(self._nodes.items()):
            if address not in masters:
                del self._nodes[address]
                self._given_up.discard(address)
                retiring = asyncio.create_task(self._retire(node))
                self._retiring[retiring] = node
                retiring.add_done_callback(self._retiring.pop)
        for slot in slots:
            self._switched(slot)

    async def _retire(self, node: ClusterNode) -> None:
        silent = node.failing or node.commands.silence() >= self._timing.look
        if node.commands.pending and not silent:
            await asyncio.sleep(self._timing.farewell)
        await node.close("another node has taken over")

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._timing.look, self._look)

    def _look(self) -> None:
        """Ask for the masters if a node is silent."""
        self._timer = None
        pending = [each for each in self._nodes.values() if each.commands.pending]
        if pending:
            self._watch()
        if any(each.commands.silence() > self._timing.silence for each in pending):
            self.topology.refresh()


class SlotCommands:
    """Sends commands for one slot.

    Args:
        cluster: The connections to the nodes.
        slot: The slot.
    """

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self._cluster = cluster
        self._slot = slot

    @property
    def connects(self) -> int:
        """Number of connections opened to the current master."""
        node = self._cluster.node_of(self._slot)
        return 0 if node is None else node.commands.connects

    @property
    def failing(self) -> bool:
        """Whether the last attempt to reach the current master failed."""
        node = self._cluster.node_of(self._slot)
        if node is None:
            return self._cluster.topology.problem is not None
        return node.failing

    def deadline(self) -> float:
        """Return the deadline of a command that is sent now, for the event loop."""
        return asyncio.get_running_loop().time() + self._cluster.timeout

    async def execute(self, *command: Word, deadline: float | None = None) -> Any:
        """Send a command and return its reply.

        Raises:
            ResponseError: The reply is an error that is not a refusal.
            RedisUnavailable: Redis refuses the command, or does not reply in time.
        """
        deadline = self.deadline() if deadline is None else deadline
        return await self._cluster.execute(self._slot, *command, deadline=deadline)

    def post(self, *command: Word) -> None:
        """Send a command without waiting for its reply, which is ignored."""
        self._cluster.post(self._slot, *command, deadline=self.deadline())
