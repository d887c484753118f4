"""A fake Redis Cluster whose slots move and whose nodes fail when a test says so."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import AskError, MovedError

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis import cluster as cluster_module
from fast_channels.layers.redis import cluster_node, topology
from fast_channels.layers.redis.cluster import Cluster, ClusterTiming
from fast_channels.layers.redis.hosts import Host, parse_hosts
from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.wire import Address, Connection, ResponseError
from tests.waiting import turn

from .fake_server import FakeConnection, FakeServer, decoded, text

A: Address = ("a", 7000)
B: Address = ("b", 7000)
C: Address = ("c", 7000)

# A password that no error and no log shows.
SECRET = "hunter2"  # noqa: S105 # not a real one

# Short pauses.
TIMING = ClusterTiming(
    reflection=(0.001, 0.004),
    another=0.01,
    pause=(0.001, 0.004),
    retry=0.02,
    probe=0.01,
    look=0.01,
    silence=0.02,
    farewell=0.02,
    jitter=lambda _, high: high,
    connection=Timing(backoff=(0.001, 0.004), retry=0.02),
)


class FakeNode(FakeServer[FakeConnection]):
    """A node that replies to a command for a slot with its own name and the command.

    The first argument of a command is its slot.
    """

    def __init__(self, cluster: "FakeCluster", address: Address) -> None:
        super().__init__(FakeConnection)
        self.cluster = cluster
        self.address = address
        # Connections whose next command is for a slot that moves here.
        self.asking: set[FakeConnection] = set()
        # Its reply to CLUSTER SLOTS; None for that of the whole cluster.
        self.view: list[Any] | None = None
        # The keys that it has.
        self.keys: list[str] = []
        # Replies to the next commands for a slot.
        self.replies: dict[int, list[object]] = {}

    @property
    def questions(self) -> int:
        """The number of CLUSTER SLOTS commands."""
        return len(self.asked("CLUSTER"))

    @property
    def commands(self) -> list[str]:
        """The commands for slots that it has received."""
        return [" ".join(each) for each in self.told if each[0] == "GET"]

    def answer(self, connection: FakeConnection, words: list[bytes]) -> list[Any]:
        match decoded(words):
            case ["CLUSTER", "SLOTS"]:
                return [self.cluster.slots() if self.view is None else self.view]
            case ["ASKING"]:
                self.asking.add(connection)
                return [b"OK"]
            case ["PING"]:
                return [b"PONG"]
            case ["SCAN", *_]:
                return [[b"0", [key.encode() for key in self.keys]]]
            case [_, slot, *_]:
                return [self._reply(connection, int(slot), words)]
            case other:
                raise AssertionError(other)

    def _reply(
        self, connection: FakeConnection, slot: int, words: list[bytes]
    ) -> object:
        asking = connection in self.asking
        self.asking.discard(connection)
        if self.replies.get(slot):
            return self.replies[slot].pop(0)
        owner, target = self.cluster.owners[slot], self.cluster.moves.get(slot)
        if owner != self.address and not (asking and target == self.address):
            return self.cluster.redirection("MOVED", slot, owner)
        if owner == self.address and target is not None:
            return self.cluster.redirection("ASK", slot, target)
        return f"{self.address[0]}: {text(words)}"


class FakeCluster:
    """All nodes of a cluster.

    Args:
        monkeypatch: Makes all connections lead to them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes = {address: FakeNode(self, address) for address in (A, B, C)}
        # The masters of slots, and where slots are moving.
        self.owners = {1: A, 2: A, 3: B}
        self.moves: dict[int, Address] = {}
        # Whether redirections are as redis-py from 6 on parses them.
        self.classified = True
        # How nodes name others in redirections.
        self.name: Callable[[str], str] = lambda host: host
        lead_to(self.connect, monkeypatch)

    def __getitem__(self, address: Address) -> FakeNode:
        return self.nodes[address]

    @property
    def questions(self) -> int:
        """The number of CLUSTER SLOTS commands to all nodes."""
        return sum(node.questions for node in self.nodes.values())

    @property
    def open(self) -> list[Address]:
        """The nodes to which there are connections."""
        return [address for address, node in self.nodes.items() for _ in node.open]

    def connect(self, host: Host) -> Any:
        return self[host.options["host"], host.options["port"]].connect()

    def slots(self) -> list[Any]:
        return [
            [slot, slot, [host.encode(), port, b"id", []], [b"replica", 1, b"id", []]]
            for slot, (host, port) in self.owners.items()
        ]

    def redirection(self, kind: str, slot: int, to: Address) -> ResponseError:
        where = f"{slot} {self.name(to[0])}:{to[1]}"
        if not self.classified:
            return ResponseError(f"{kind} {where}")
        return (MovedError if kind == "MOVED" else AskError)(where)

    def promote(self, old: Address, new: Address) -> None:
        """Make another node the master of all slots of a node."""
        self.owners = {
            slot: new if owner == old else owner for slot, owner in self.owners.items()
        }


def lead_to(connect: Callable[[Host], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all connections to nodes of clusters with a function."""
    for module in (cluster_node, topology):
        monkeypatch.setattr(module, "plain_connection", connect)
    located = functools.partial(_Located, connect)
    monkeypatch.setattr(cluster_module, "located_connection", located)


class _Located:
    """Stands in for redis-py's connection to an address that is looked up."""

    def __init__(
        self,
        connect: Callable[[Host], Any],
        host: Host,
        locate: Callable[[], Awaitable[Address]],
        verify: Callable[[Connection, Address], Awaitable[None]],
    ) -> None:
        self._connect = connect
        self._host = host
        self._locate = locate
        self._verify = verify
        self._found: Any = None

    async def connect(self) -> None:
        address = await self._locate()
        self._found = self._connect(self._host.at(address))
        await self._found.connect()
        await self._verify(self._found, address)

    async def disconnect(self, nowait: bool) -> None:
        if self._found is not None:
            await self._found.disconnect(nowait)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found, name)


def host_of(*nodes: str, **options: Any) -> Host:
    """Return the host that stands for a cluster."""
    urls = [f"redis://{node}:7000" for node in nodes or ("a", "b")]
    (host,) = parse_hosts(None, cluster=urls, connection_kwargs=options or None)
    return host


class Client:
    """The connections to a fake cluster, and the notices about its slots."""

    def __init__(self, host: Host, timeout: float, timing: ClusterTiming) -> None:
        # Slots that have another master now, and slots that may have lost data.
        self.switched: list[int] = []
        self.lost: list[int] = []
        self.cluster = Cluster(
            host,
            {1, 2, 3, 9},
            timeout=timeout,
            switched=self.switched.append,
            lost=self.lost.append,
            timing=timing,
        )

    def get(self, slot: int, timeout: float | None = None) -> "asyncio.Task[Any]":
        """Send a command for a slot."""
        seconds = self.cluster.timeout if timeout is None else timeout
        deadline = asyncio.get_running_loop().time() + seconds
        sending = self.cluster.execute(slot, "GET", slot, deadline=deadline)
        return asyncio.create_task(sending)

    async def get_at_last(self, slot: int) -> Any:
        """Send commands for a slot until one succeeds; return its reply."""
        while True:
            with contextlib.suppress(RedisUnavailable):
                return await self.get(slot)


@contextlib.asynccontextmanager
async def client_of(
    fake: FakeCluster,
    *nodes: str,
    timeout: float = 5,
    password: str | None = None,
    **changes: Any,
) -> AsyncGenerator[Client]:
    """Make the connections to a cluster; check that closing leaves nothing behind."""
    before = asyncio.all_tasks()
    options = {} if password is None else {"password": password}
    host = host_of(*nodes, **options)
    client = Client(host, timeout, replace(TIMING, **changes))
    try:
        yield client
    finally:
        await client.cluster.close()
    assert fake.open == []
    await turn(3)
    assert asyncio.all_tasks() == before
