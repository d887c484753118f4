"""A master, its replica, and three Sentinels that watch over them."""

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
    # A replica is promoted only if it told of itself in the last five of these, which
    # it is asked to do once a second while there is no master: not below 200.
    "PING-PERIOD": 300,
}
# A Sentinel that learns of a new master sends its first ping after one period: with
# less than two it takes the new master for dead, and begins another failover.
_DOWN_AFTER = 900
# A Sentinel does nothing else until a disk has what it has learned: on a busy one it is
# silent for so long that the others take it for dead, and failovers fail.
_MEMORY = Path("/dev/shm")  # noqa: S108 # its folder in there is made safely


class SentinelServer(RedisServer):
    """One Sentinel, which remembers over a restart what it has learned."""

    _place = _MEMORY if os.access(_MEMORY, os.W_OK) else None

    def __init__(self, binary: ServerBinary, watches: Sequence[str]) -> None:
        super().__init__(binary)
        self._watches = watches
        self._configuration = self.folder / "sentinel.conf"

    def _arguments(self) -> list[str]:
        # A first start that lost its port to somebody else writes it again.
        known = self._configuration
        if not known.exists() or f"port {self.port}\n" not in known.read_text():
            own = [f"port {self.port}", f"bind {HOST}", f"dir {self._data}"]
            known.write_text("\n".join([*own, *self._watches, ""]))
        return [str(known), "--sentinel"]


class Sentinels:
    """A service of one name, whose master changes when it dies.

    Starting it waits until every Sentinel knows all the others and the replica, and
    the replica has what the master has.
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
        """What a client is given."""
        return [(sentinel.host, sentinel.port) for sentinel in self.sentinels]

    @property
    def master(self) -> RedisServer:
        """The server that all Sentinels which run take for the master."""
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
        """Start all five, and wait until they know each other."""
        master, replica = self.nodes
        master.start()
        replica.restart(options=_follow(master))
        name = self.service_name
        watches = (
            f"sentinel monitor {name} {HOST} {master.port} {_QUORUM}",
            f"sentinel down-after-milliseconds {name} {_DOWN_AFTER}",
            # On a busy machine, three seconds are too short: it gives up failovers that
            # would have succeeded.
            f"sentinel failover-timeout {name} 6000",
            # Otherwise it asks the master for its replicas only after ten seconds.
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
        """Kill the master, as a crash does, and return it."""
        master = self.master
        master.kill()
        return master

    def wait_for_new_master(self, old: RedisServer) -> RedisServer:
        """Wait until another server is the master, and all Sentinels say so."""

        def changed() -> bool:
            master = self.master
            return master is not old and master.info("replication")["role"] == "master"

        wait_until(changed, f"another master than {old!r}", FAILOVER_TIMEOUT)
        return self.master

    def fail_over(self) -> RedisServer:
        """Make the replica the master, as an operator does, and return it."""
        old = self.master
        self.order_failover(self._awake()[0])
        master = self.wait_for_new_master(old)
        self._wait_for_discovery()
        return master

    def order_failover(self, sentinel: SentinelServer) -> None:
        """Have one Sentinel replace the master, and wait until it says that it has.

        It gives up without a word if it was held up for half a second after it had
        agreed, say by a slow disk: what it knows of the replica is too old by then. It
        is told again.
        """
        name = self.service_name
        old = self._port_of_master(sentinel)

        def done() -> bool:
            master = _facts(sentinel.command("SENTINEL", "MASTER", name))
            if int(master["port"]) != old:
                return True
            if "failover_in_progress" not in master["flags"]:
                # Refused while it does not know that the replica is fit.
                sentinel.command("SENTINEL", "FAILOVER", name)
            return False

        wait_until(done, f"{sentinel!r} replaces the master", FAILOVER_TIMEOUT)

    def heal(self) -> None:
        """Make it whole, whatever a test has done to it.

        Servers that were paused go on, and those that are dead come back: the master of
        before as a replica, the Sentinels with what they knew.
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

    # What the Sentinels know

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
        # A Sentinel makes a replica of a master that it did not expect after four of
        # these periods. With short ones it would undo the failover of another Sentinel.
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
    """Read what a Sentinel tells about a server: names and values in turn."""
    assert isinstance(reply, list)
    words = [word.decode() for word in reply if isinstance(word, bytes)]
    return dict(zip(words[::2], words[1::2], strict=True))
