"""One node of a Redis Cluster."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.resp import Reply
from tests.redis_servers.server import HOST, RedisServer, text, wait_until

SLOTS = 16_384
# Includes the election of a replica, which a busy machine makes fail and begin again.
TIMEOUT = 20.0


@dataclass(frozen=True)
class State:
    """What a node reports about itself."""

    is_master: bool
    epoch: int
    """Of two masters that claim a slot, the one with the larger epoch owns it."""
    slots: Sequence[range]


class ClusterNode(RedisServer):
    """One node of a cluster. It keeps its identity, but no data, over a restart."""

    def __init__(
        self,
        binary: ServerBinary,
        *,
        host: str = HOST,
        password: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(binary, host=host, password=password, options=options)
        self.id = secrets.token_hex(20)
        self.bus_port = 0
        self._configuration = self.folder / "nodes.conf"

    @property
    def awake(self) -> bool:
        """Whether it is running and not paused."""
        return self.running and not self.paused

    def configure(self, description: str) -> None:
        """Set the cluster as the node knows it when it starts."""
        self._configuration.write_text(description)

    def state(self) -> State:
        """Ask the node for its role and slots."""
        for line in text(self.insist("CLUSTER", "NODES")).splitlines():
            _, _, flags, _, _, _, epoch, _, *slots = line.split()
            if "myself" in flags:
                owned = [_range(each) for each in slots if not each.startswith("[")]
                return State("master" in flags, int(epoch), owned)
        raise AssertionError("a node lists itself")

    def insist(self, *words: str | bytes | int) -> Reply:
        """Send a command until it succeeds, as a test may kill its connection."""
        replies: list[Reply] = []

        def done() -> bool:
            replies.append(self.command(*words))
            return True

        wait_until(done, f"{self!r} accepts {words}", TIMEOUT)
        return replies[-1]

    def cluster_info(self) -> dict[str, str]:
        lines = text(self.command("CLUSTER", "INFO")).splitlines()
        return dict(line.split(":", 1) for line in lines)

    def is_settled(self) -> bool:
        """Whether all slots are served, and replication is in sync."""
        cluster = self.cluster_info()
        served = (cluster["cluster_state"], cluster["cluster_slots_ok"])
        if served != ("ok", str(SLOTS)):
            return False
        state = self.info("replication")
        if state["role"] == "master":
            return "state=online" in state.get("slave0", "")
        return state["master_link_status"] == "up"

    def is_migrating(self) -> bool:
        """Whether the node is moving slots atomically."""
        jobs = self.command("CLUSTER", "GETSLOTMIGRATIONS")
        assert isinstance(jobs, list)
        ended = (b"success", b"failed", b"cancelled")
        return not all(
            isinstance(job, list) and any(word in ended for word in job) for job in jobs
        )

    def _arguments(self) -> list[str]:
        arguments = ["--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)]
        arguments += ["--cluster-config-file", str(self._configuration)]
        if self.password is not None:
            arguments += ["--masterauth", self.password]
        return [*super()._arguments(), *arguments]


def _range(words: str) -> range:
    """Parse ``17`` or ``17-42``."""
    first, _, last = words.partition("-")
    return range(int(first), int(last or first) + 1)
