"""A Redis Cluster: three masters, each with a replica."""

import contextlib
import itertools
import time
from binascii import crc_hqx
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Literal, Self

from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.cluster_node import SLOTS, TIMEOUT, ClusterNode
from tests.redis_servers.resp import Reply
from tests.redis_servers.server import HOST, free_port, wait_until
from tests.redis_servers.tls import TLS_HOST, Certificate, TLSProxy

_MASTERS = 3
# Seconds between two looks at all nodes.
_PAUSE = 0.02
# Seconds after which a node gives up a failover that was ordered.
_FAILOVER_ATTEMPT = 5.5

Endpoint = Literal["ip", "hostname", "unknown-endpoint"]


class RedisCluster:
    """Three masters, each with a replica, which takes over when the master dies.

    As a context manager, the cluster runs inside the ``with`` block, which begins when
    all nodes accept commands and all replicas are in sync. This takes a little over two
    seconds, the time for which Redis makes a new master wait.

    Masters have the slots in thirds, in the order of `nodes`; replicas come after them.
    A replica never changes its master, and a master never becomes the replica of
    another shard when it has lost its last slot.

    Args:
        binary: The program of all nodes.
        host: ``::1`` for a cluster that speaks IPv6.
        node_timeout: Seconds until a node that doesn't answer counts as failed.
        full_coverage: Whether all slots are refused while one slot has no master.
        password: The password of the default user, also between the nodes.
        hostname: A name that all nodes announce to clients.
        endpoint: The kind of address in ``MOVED`` and ``CLUSTER SLOTS``.
        tls: Let clients connect through `TLSProxy`, whose address the nodes announce as
            their hostname. The nodes themselves connect to each other without TLS.
        options: More options for the command line of all nodes.
    """

    def __init__(
        self,
        binary: ServerBinary,
        *,
        host: str = HOST,
        node_timeout: float = 2.0,
        full_coverage: bool = True,
        password: str | None = None,
        hostname: str | None = None,
        endpoint: Endpoint = "ip",
        tls: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        self.binary = binary
        self.host = host
        self.certificate: Certificate | None = None
        """With `tls`, the file at its path is the authority that clients trust."""
        self._proxy: TLSProxy | None = None
        if tls:
            hostname, endpoint = TLS_HOST, "hostname"
        arguments = [
            *("--cluster-node-timeout", str(int(node_timeout * 1000))),
            *("--cluster-require-full-coverage", "yes" if full_coverage else "no"),
            *("--cluster-announce-ip", host),
            *("--cluster-preferred-endpoint-type", endpoint),
            *("--cluster-allow-replica-migration", "no"),
            # A replica takes over even if it lost its master long ago.
            *("--cluster-replica-validity-factor", "0"),
        ]
        if hostname is not None:
            arguments += ["--cluster-announce-hostname", hostname]
        self.nodes = [
            ClusterNode(
                binary, host=host, password=password, options=[*arguments, *options]
            )
            for _ in range(2 * _MASTERS)
        ]
        if tls:
            self.certificate = Certificate(self.nodes[0].folder)
        # The source and target of each slot that is moving.
        self._moves: dict[int, tuple[ClusterNode, ClusterNode]] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def urls(self) -> list[str]:
        """The URLs of all nodes."""
        urls = [node.url for node in self.nodes]
        if self.certificate is None:
            return urls
        return [
            url.replace("redis://", "rediss://").replace(self.host, TLS_HOST)
            for url in urls
        ]

    # Starting and stopping

    def start(self) -> None:
        """Start all nodes, and wait until the cluster is whole."""
        self._configure()
        while not all(self._of_each(ClusterNode.try_start)):
            # Another process has taken a port: choose others.
            for node in self.nodes:
                node.kill()
            self._configure()
        if self.certificate is not None:
            self._proxy = TLSProxy(self.nodes, self.certificate)
        self.wait_until_whole()

    def close(self) -> None:
        """Stop all nodes for good."""
        for node in self.nodes:
            node.close()
        if self._proxy is not None:
            self._proxy.close()

    def heal(self) -> None:
        """Resume paused nodes, start dead ones, and wait until the cluster is whole."""
        for node in self.nodes:
            node.resume()
            if not node.running:
                node.start()
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Wait until all slots are served and all replicas are in sync."""
        what = "all nodes accept commands, and all replicas are in sync"
        wait_until(self._whole, what, TIMEOUT, pause=_PAUSE)

    # Nodes

    def masters(self) -> list[ClusterNode]:
        """The masters among the nodes that are awake."""
        return [node for node in self._awake() if node.state().is_master]

    def replica(self, master: ClusterNode) -> ClusterNode:
        """The other node of the master's shard, whatever its role is at the moment."""
        return self.nodes[(self.nodes.index(master) + _MASTERS) % len(self.nodes)]

    def owner(self, slot: int) -> ClusterNode:
        """The master that serves a slot.

        Raises:
            ConnectionError: No node that is awake does.
        """
        states = [(node.state(), node) for node in self._awake()]
        claims = [
            (state.epoch, node)
            for state, node in states
            if state.is_master and any(slot in each for each in state.slots)
        ]
        if not claims:
            raise ConnectionError(f"no node serves slot {slot}")
        return max(claims, key=lambda claim: claim[0])[1]

    @staticmethod
    def slot_of(key: str) -> int:
        """Compute the slot of a key, or of a shard channel."""
        _, opened, rest = key.partition("{")
        tag, closed, _ = rest.partition("}")
        hashed = tag if opened and closed and tag else key
        return crc_hqx(hashed.encode(), 0) % SLOTS

    def kill_clients(self) -> None:
        """Close the connections of all clients, as a broken network would."""
        for node in self._awake():
            # It may have died just now.
            with contextlib.suppress(OSError):
                node.kill_clients()

    def command(self, *words: str | bytes | int) -> list[Reply]:
        """Send a command to each node that is awake, for example to add a user."""
        return [node.command(*words) for node in self._awake()]

    # Keys

    def keys(self, prefix: str) -> list[bytes]:
        """List the keys that begin with a prefix, which must not contain wildcards."""
        keys = itertools.chain(*(node.keys(prefix) for node in self.masters()))
        # A key that is moving is at two nodes for a moment.
        return sorted(set(keys))

    def delete_keys(self, prefix: str) -> None:
        """Delete the keys that begin with a prefix."""
        for node in self.masters():
            node.delete_keys(prefix)

    def flush(self) -> None:
        """Delete all keys."""
        for node in self.masters():
            node.command("FLUSHALL")

    # Slots that move

    def move_slot(
        self, slot: int, target: ClusterNode, *, hold_open: float = 0
    ) -> None:
        """Move a slot to another master key by key, as ``redis-cli --cluster`` does.

        Connections may be killed meanwhile.

        Args:
            slot: The slot.
            target: The master to move it to.
            hold_open: Seconds to wait before the end of the move. All keys have moved
                by then, and new ones are made at the target.
        """
        self.start_move(slot, target)
        self.move_keys(slot)
        time.sleep(hold_open)
        self.finish_move(slot)

    def start_move(self, slot: int, target: ClusterNode) -> None:
        """Begin to move a slot, without moving its keys.

        The owner answers ``ASK`` for keys that it doesn't have. A command with several
        keys is answered with ``TRYAGAIN`` while some of them have moved.
        """
        source = self.owner(slot)
        assert source is not target, f"{target!r} has slot {slot} already"
        self._moves[slot] = source, target
        target.insist("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.insist("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, slot: int, limit: int = SLOTS) -> None:
        """Move keys of a slot that is moving; by default, until none is left."""
        source, target = self._moves[slot]
        for _ in range(limit):
            keys = source.insist("CLUSTER", "GETKEYSINSLOT", slot, 1)
            assert isinstance(keys, list)
            if not keys:
                return
            (key,) = keys
            assert isinstance(key, bytes)
            login = ("AUTH", source.password) if source.password else ()
            # A repeated command finds the key at the target too: the source decides.
            words = (target.host, target.port, "", 0, 5000, "REPLACE", *login)
            source.insist("MIGRATE", *words, "KEYS", key)

    def finish_move(self, slot: int) -> None:
        """Move the remaining keys of a slot, and make the target its owner."""
        self.move_keys(slot)
        # The target claims the slot with the next epoch after the latest that it knows:
        # it must know all, or others would not believe it.
        wait_until(
            self._agree_on_epoch, "nodes agree on the epoch", TIMEOUT, pause=0.002
        )
        source, target = self._moves.pop(slot)
        others = [node for node in self.masters() if node not in {source, target}]
        # With the target first, there is always a node that serves the slot.
        for node in (target, source, *others):
            node.insist("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def migrate_slots(self, slots: range, target: ClusterNode) -> None:
        """Move slots of one master to another atomically, which takes Valkey 9."""
        source = self.owner(slots[0])
        words = ("SLOTSRANGE", slots[0], slots[-1], "NODE", target.id)

        def done() -> bool:
            if all(self.owner(slot) is target for slot in (slots[0], slots[-1])):
                return True
            if not source.is_migrating():
                # Also if it has failed, as a killed connection makes it do.
                source.command("CLUSTER", "MIGRATESLOTS", *words)
            return False

        what = f"slots {slots[0]} to {slots[-1]} are at {target!r}"
        wait_until(done, what, TIMEOUT, pause=_PAUSE)

    # Failover

    def fail_over(self, replica: ClusterNode) -> None:
        """Make a replica the master, as an operator would, and wait until it is."""
        again = 0.0

        def done() -> bool:
            nonlocal again
            if replica.state().is_master:
                return True
            if time.monotonic() > again:
                # Refused while the replica isn't in sync; given up silently by a node
                # that is held up.
                replica.command("CLUSTER", "FAILOVER")
                again = time.monotonic() + _FAILOVER_ATTEMPT
            return False

        wait_until(done, f"{replica!r} is a master", TIMEOUT)

    def wait_for_new_master(self, old: ClusterNode) -> ClusterNode:
        """Wait until the replica of a dead master has replaced it, and return it."""
        new = self.replica(old)
        wait_until(lambda: new.state().is_master, f"{new!r} is a master", TIMEOUT)
        return new

    # The state of the cluster

    def _awake(self) -> list[ClusterNode]:
        return [node for node in self.nodes if node.awake]

    def _of_each(self, function: Callable[[ClusterNode], bool]) -> list[bool]:
        """Call a function for all nodes at the same time."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            return list(pool.map(function, self.nodes))

    def _configure(self) -> None:
        """Choose ports, and describe the cluster to each node before it starts.

        The nodes know each other at once, instead of learning from gossip.
        """
        ports: set[int] = set()
        while len(ports) < 2 * len(self.nodes):
            ports.add(free_port(self.host))
        for node in self.nodes:
            node.port, node.bus_port = ports.pop(), ports.pop()
        masters, replicas = self.nodes[:_MASTERS], self.nodes[_MASTERS:]
        bounds = [number * SLOTS // _MASTERS for number in range(_MASTERS + 1)]
        roles = {
            **{
                node: f"master - 0 0 {epoch} connected {first}-{end - 1}"
                for epoch, (node, (first, end)) in enumerate(
                    zip(masters, itertools.pairwise(bounds), strict=True), 1
                )
            },
            **{
                node: f"slave {master.id} 0 0 0 connected"
                for node, master in zip(replicas, masters, strict=True)
            },
        }
        for node in self.nodes:
            lines = [
                f"{each.id} {self.host}:{each.port}@{each.bus_port} "
                f"{'myself,' if each is node else ''}{role}"
                for each, role in roles.items()
            ]
            lines += [f"vars currentEpoch {_MASTERS} lastVoteEpoch 0", ""]
            node.configure("\n".join(lines))

    def _agree_on_epoch(self) -> bool:
        infos = [node.cluster_info() for node in self.masters()]
        return len({info["cluster_current_epoch"] for info in infos}) == 1

    def _whole(self) -> bool:
        return len(self.masters()) == _MASTERS and all(
            node.is_settled() for node in self.nodes
        )
