"""A master, its replica, and three Sentinels that monitor them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.resp import Reply
from tests.redis_servers.server import HOST, RedisServer, wait_until

FAILOVER_TIMEOUT = 20.0

_QUORUM = 2
_PERIODS = {
    "INFO-PERIOD": 200,
    "ASK-PERIOD": 100,
    "TILT-PERIOD": 500,
    "ELECTION-TIMEOUT": 1000,
    # A Sentinel promotes a replica only if it has had its INFO within the last five of
    # these periods. Without a master it asks for INFO once a second: not below 200.
    "PING-PERIOD": 300,
}
# A Sentinel that learns of a new master sends its first ping after one period: with
# less than two it considers the new master dead, and begins another failover.
_DOWN_AFTER = 900
# A Sentinel blocks until its state is on disk. On a busy disk it is silent for so long
# that the others consider it dead, and failovers fail.
_MEMORY = Path("/dev/shm")  # noqa: S108 # the folder in it is created safely


class SentinelServer(RedisServer):
    """One Sentinel, which keeps its state over a restart."""

    _place = _MEMORY if os.access(_MEMORY, os.W_OK) else None

    def __init__(self, binary: ServerBinary, watches: Sequence[str]) -> None:
        super().__init__(binary)
        self._watches = watches
        self._configuration = self.folder / "sentinel.conf"

    def _arguments(self) -> list[str]:
        # Written again if another process took the port before the first start.
        known = self._configuration
        if not known.exists() or f"port {self.port}\n" not in known.read_text():
            own = [f"port {self.port}", f"bind {HOST}", f"dir {self._data}"]
            known.write_text("\n".join([*own, *self._watches, ""]))
        return [str(known), "--sentinel"]


class Sentinels:
    """A service with a master that is replaced when it dies.

    Starting it waits until every Sentinel knows all others and the replica, and the
    replica is in sync with the master.
    """

    service_name = "mymaster"

    def __init__(self, binary: ServerBinary) -> None:
        self.nodes = [RedisServer(binary), RedisServer(binary)]
        self.sentinels: list[SentinelServer] = []
        self._binary = binary

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
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses to give to a client."""
        return [(sentinel.host, sentinel.port) for sentinel in self.sentinels]

    @property
    def master(self) -> RedisServer:
        """The server that all running Sentinels consider the master."""
        ports = {self._port_of_master(sentinel) for sentinel in self._awake()}
        if len(ports) != 1:
            raise ConnectionError(f"the Sentinels do not agree: {sorted(ports)}")
        (port,) = ports
        return next(node for node in self.nodes if node.port == port)

    @property
    def replica(self) -> RedisServer:
        master = self.master
        return next(node for node in self.nodes if node is not master)

    def start(self) -> None:
        """Start all five servers, and wait until they know each other."""
        master, replica = self.nodes
        master.start()
        replica.restart(options=_follow(master))
        name = self.service_name
        watches = (
            f"sentinel monitor {name} {HOST} {master.port} {_QUORUM}",
            f"sentinel down-after-milliseconds {name} {_DOWN_AFTER}",
            # Three seconds are too short on a busy machine: a Sentinel gives up
            # failovers that would have succeeded.
            f"sentinel failover-timeout {name} 6000",
            # Otherwise a Sentinel asks the master for its replicas after ten seconds.
            f"sentinel known-replica {name} {HOST} {replica.port}",
        )
        for _ in range(3):
            sentinel = SentinelServer(self._binary, watches)
            self.sentinels.append(sentinel)
            sentinel.start()
        self._wait_for_discovery()

    def close(self) -> None:
        for server in (*self.sentinels, *self.nodes):
            server.close()

    # Failover

    def kill_master(self) -> RedisServer:
        """Kill the master, as a crash would, and return it."""
        master = self.master
        master.kill()
        return master

    def wait_for_new_master(self, old: RedisServer) -> RedisServer:
        """Wait until another server is the master for all Sentinels, and return it."""

        def changed() -> bool:
            master = self.master
            return master is not old and master.info("replication")["role"] == "master"

        wait_until(changed, f"another master than {old!r}", FAILOVER_TIMEOUT)
        return self.master

    def fail_over(self) -> RedisServer:
        """Make the replica the master, as an operator would, and return it."""
        old = self.master
        self.order_failover(self._awake()[0])
        master = self.wait_for_new_master(old)
        self._wait_for_discovery()
        return master

    def order_failover(self, sentinel: SentinelServer) -> None:
        """Have one Sentinel replace the master, and wait until it reports success.

        A Sentinel that is held up for half a second after it has agreed, say by a slow
        disk, gives up silently, as its INFO of the replica is too old by then. The
        command is then repeated.
        """
        name = self.service_name
        old = self._port_of_master(sentinel)

        def done() -> bool:
            master = _facts(sentinel.command("SENTINEL", "MASTER", name))
            if int(master["port"]) != old:
                return True
            if "failover_in_progress" not in master["flags"]:
                # Refused while the Sentinel does not consider the replica healthy.
                sentinel.command("SENTINEL", "FAILOVER", name)
            return False

        wait_until(done, f"{sentinel!r} replaces the master", FAILOVER_TIMEOUT)

    def heal(self) -> None:
        """Undo whatever a test has done to the servers.

        Paused servers are resumed, and dead ones are started: the former master as a
        replica, the Sentinels with their state.
        """
        for server in (*self.nodes, *self.sentinels):
            server.resume()
        for sentinel in self.sentinels:
            if not sentinel.running:
                sentinel.start()
        if not any(node.running for node in self.nodes):
            self.master.restart(options=())
        for node in self.nodes:
            if not node.running:
                node.restart(options=_follow(self.wait_for_new_master(node)))
        self._wait_for_discovery()

    # The state of the Sentinels

    def _awake(self) -> list[SentinelServer]:
        return [sentinel for sentinel in self.sentinels if sentinel.running]

    def _port_of_master(self, sentinel: SentinelServer) -> int:
        match sentinel.command(
            "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service_name
        ):
            case [bytes(), bytes(port)]:
                return int(port)
            case other:
                raise ConnectionError(f"the Sentinel knows no master: {other!r}")

    def _whole(self) -> bool:
        if not all(self._knows_all(sentinel) for sentinel in self.sentinels):
            return False
        master = self.master
        if master.info("replication")["role"] != "master":
            return False
        state = self.replica.info("replication")
        followed = (state.get("master_port"), state.get("master_link_status"))
        return followed == (str(master.port), "up")

    def _knows_all(self, sentinel: SentinelServer) -> bool:
        name = self.service_name
        master = _facts(sentinel.command("SENTINEL", "MASTER", name))
        if (master["flags"], master["num-other-sentinels"]) != ("master", "2"):
            return False
        reply = sentinel.command("SENTINEL", "REPLICAS", name)
        assert isinstance(reply, list)
        replicas = [_facts(replica) for replica in reply]
        return [replica["flags"] for replica in replicas] == ["slave"]

    def _wait_for_discovery(self) -> None:
        self._set_periods(_PERIODS | {"PUBLISH-PERIOD": 50})
        what = "the Sentinels know each other, and the replica follows the master"
        wait_until(self._whole, what, FAILOVER_TIMEOUT)
        # After four of these periods, a Sentinel turns an unexpected master into a
        # replica. With short periods it would undo the failover of another Sentinel.
        self._set_periods({"PUBLISH-PERIOD": 2000})

    def _set_periods(self, periods: Mapping[str, int]) -> None:
        words: list[str | int] = []
        for name, milliseconds in periods.items():
            words += [name, milliseconds]
        for sentinel in self.sentinels:
            sentinel.command("SENTINEL", "DEBUG", *words)


def _follow(master: RedisServer) -> tuple[str, ...]:
    return ("--replicaof", master.host, str(master.port))


def _facts(reply: Reply) -> dict[str, str]:
    """Parse a Sentinel's description of a server: alternating names and values."""
    assert isinstance(reply, list)
    words = [word.decode() for word in reply if isinstance(word, bytes)]
    return dict(zip(words[::2], words[1::2], strict=True))
