"""W8: what large groups in several processes cost Redis, and these processes.

The processes have no sockets, so that there can be many members; see ``members``.
Another process sends texts of 200 characters, ten a second, or fewer if it takes longer
until all members have one; and at full speed to groups with one member per process.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from tests.redis_servers.binary import find_server
from tests.redis_servers.cluster import RedisCluster

from .environments import find_python
from .meter import Meter, Spent
from .peers import PEERS
from .processes import Process
from .rounds import Result
from .workloads import Values

__all__ = ["AT_FULL_SPEED", "BLOCKED", "JOINS", "OUT", "PER_MEMBER", "REDIS", "measure"]

AT_FULL_SPEED = ", at full speed"
BLOCKED = "Redis blocked, µs"
REDIS = "Redis CPU, µs"
PER_MEMBER = "CPU per member, µs"
JOINS = "commands of all joins"
OUT = "kB out of Redis"

# The libraries that have channel layers, by the module of the peer.
_LIBRARIES = {"ours": "fast_channels", "channels": "channels"}
_KINDS = {"queue", "pubsub"}
# With more members in one group, a message of channels_redis takes half a minute.
_MOST = {"channels": 10_000}
# More than almost any command takes that a script runs.
_MANY_MICROSECONDS = 20
_MICRO, _KILO = 1e6, 1e-3


@dataclass(frozen=True)
class _Plan:
    """How much is measured."""

    processes: Sequence[int] = (1, 4, 20)
    sizes: Sequence[int] = (1_000, 10_000, 100_000)
    seconds: float = 1.0
    """Seconds for each group, at most."""
    interval: float = 0.1
    """Seconds between messages, at least."""
    logged: int = 3
    """Messages of which every command is logged."""
    burst: int = 1_000
    """Messages at full speed."""
    at_once: int = 50
    a_while: float = 0.3
    """Seconds until tasks that were started have settled; there is no event for that.
    """


_QUICK = _Plan(
    processes=(1, 2),
    sizes=(20, 200),
    seconds=0.1,
    interval=0.02,
    logged=2,
    burst=20,
    at_once=10,
    a_while=0.02,
)


def measure(
    redis_url: str, peers: Sequence[str], rounds: int, *, quick: bool
) -> Result:
    """Let the peers that have channel layers on Redis take turns."""
    plan = _QUICK if quick else _Plan()
    result = Result("W8", "large groups in several processes", judged=not quick)
    able = [
        peer
        for peer in peers
        if PEERS[peer].kind in _KINDS and PEERS[peer].module in _LIBRARIES
    ]
    for number in range(1, rounds + 1):
        for peer in able:
            with _servers(peer, redis_url) as url:
                for processes in plan.processes:
                    where = f"W8, round {number} of {rounds}: {peer}, {processes}"
                    print(f"\r{where:<70}", end="", file=sys.stderr, flush=True)
                    with _fleet(peer, url, processes, plan) as fleet:
                        for row, values in fleet.measure():
                            title = f"{PEERS[peer].title}: {row}"
                            result.rows.setdefault(title, []).append(values)
    print("\r" + " " * 70 + "\r", end="", file=sys.stderr, flush=True)
    if "ours-queue" in able:
        result.targets = list(_judge(result, plan))
    return result


def _judge(result: Result, plan: _Plan) -> Iterator[tuple[str, float, float]]:
    """Yield the measured part of each limit."""
    title, size = PEERS["ours-queue"].title, plan.sizes[-1]
    largest = f"{title}: {_row(size, plan.processes[-1])}"
    for value, row, limit in (
        (BLOCKED, largest, 1_000),
        (OUT, largest, 10),
        (JOINS, f"{title}: {_row(plan.sizes[-2], 1)}", 50),
    ):
        share = result.median(row, value) / limit
        yield f"{row}: {value}, part of {limit}", share, 1


def _row(size: int, processes: int) -> str:
    return f"{size} in {processes} {'process' if processes == 1 else 'processes'}"


@contextlib.contextmanager
def _servers(peer: str, redis_url: str) -> Generator[str]:
    """Yield the URLs of the servers of a peer's layer, separated by commas.

    A cluster has replicas, as in production, but only the masters are measured.
    """
    if PEERS[peer].on_cluster:
        with RedisCluster(find_server()) as cluster:
            yield ",".join(node.url for node in cluster.masters())
    else:
        yield redis_url


@dataclass(frozen=True)
class _Costs:
    """What all spend in some time."""

    seconds: float
    servers: Spent
    sender: float
    """CPU seconds."""
    members: float
    """CPU seconds of their processes together."""

    def beyond(self, idle: "_Costs") -> "_Costs":
        """Return the costs without those of an idle time as long."""
        share = self.seconds / idle.seconds
        return _Costs(
            seconds=self.seconds,
            servers=self.servers - idle.servers.times(share),
            sender=self.sender - idle.sender * share,
            members=self.members - idle.members * share,
        )


@contextlib.contextmanager
def _fleet(peer: str, redis_url: str, count: int, plan: _Plan) -> Generator["_Fleet"]:
    """Start a number of processes for members, and a sender."""
    about = PEERS[peer]
    python = find_python(about.environment)
    arguments = (_LIBRARIES[about.module], about.kind, redis_url, peer)
    with contextlib.ExitStack() as stack:
        meter = stack.enter_context(Meter(redis_url.split(",")))
        sender, *members = [
            stack.enter_context(Process(python, "members", *arguments))
            for _ in range(count + 1)
        ]
        # Until its first answer, a process is busy with imports.
        for process in (sender, *members):
            process.ask("tell")
        most = _MOST.get(about.module)
        yield _Fleet(meter, sender, members, most, plan)
        meter.flush()


class _Fleet:
    """Processes for members, a sender, and the meter of the servers."""

    def __init__(
        self,
        meter: Meter,
        sender: Process,
        members: Sequence[Process],
        most: int | None,
        plan: _Plan,
    ) -> None:
        self._meter = meter
        self._sender = sender
        self._members = members
        self._most = most
        self._plan = plan

    def measure(self) -> Iterator[tuple[str, Values]]:
        """Yield the values of each row."""
        processes = len(self._members)
        joins = self._join("few", processes)
        light = self._row("few", processes) | {JOINS: joins}
        yield _row(processes, processes), light
        full = self._row("few", processes, full=True) | {JOINS: joins}
        yield _row(processes, processes) + AT_FULL_SPEED, full
        for size in self._plan.sizes:
            if self._most is None or size <= self._most:
                group = f"group-{size}"
                joins = self._join(group, size)
                values = self._row(group, size) | {JOINS: joins}
                yield _row(size, processes), values

    def _join(self, group: str, size: int) -> float:
        """Return the number of commands until a group has its members."""
        with self._meter.log() as log:
            for process in self._members:
                process.ask("join", group, size // len(self._members))
            time.sleep(self._plan.a_while)
        for process in self._members:
            process.ask("listen")
        time.sleep(self._plan.a_while)
        return float(log.commands)

    def _row(self, group: str, size: int, *, full: bool = False) -> Values:
        plan = self._plan
        start = time.perf_counter()
        self._costs(lambda: self._sender.ask("chat", group, 1, 1, 0), size)
        interval = max(plan.interval, 1.2 * (time.perf_counter() - start))
        count, at_once = max(2, int(plan.seconds / interval)), 1
        idle = self._costs(lambda: time.sleep(count * interval), 0)
        if full:
            count, at_once, interval = plan.burst, plan.at_once, 0

        def send(number: int) -> _Costs:
            def chat() -> None:
                self._sender.ask("chat", group, number, at_once, interval)

            return self._costs(chat, size * number)

        few = count if full else min(count, plan.logged)
        with self._meter.log() as every:
            send(few)
        # Logging what a script runs takes as long as that.
        with self._meter.log(slower_than=_MANY_MICROSECONDS) as slow:
            costs = send(count).beyond(idle)
        longest = min(every.longest, slow.longest or every.longest)
        return {
            BLOCKED: longest * _MICRO,
            "commands": every.commands / few,
            "kB into Redis": costs.servers.read / count * _KILO,
            OUT: costs.servers.written / count * _KILO,
            REDIS: costs.servers.cpu / count * _MICRO,
            "sender CPU, µs": costs.sender / count * _MICRO,
            PER_MEMBER: costs.members / count / size * _MICRO,
        }

    def _costs(self, send: Callable[[], object], messages: int) -> _Costs:
        """Return what all spend until members have received a number of messages."""
        share = messages // len(self._members)
        sender = self._sender.ask("tell")["cpu"]
        cpu = [process.ask("expect", share)["cpu"] for process in self._members]
        start = time.perf_counter()
        with self._meter.spending() as spent:
            send()
            wait = "arrive" if share else "tell"
            after = [process.ask(wait)["cpu"] for process in self._members]
        return _Costs(
            seconds=time.perf_counter() - start,
            servers=spent[0],
            sender=self._sender.ask("tell")["cpu"] - sender,
            members=sum(after) - sum(cpu),
        )
