"""The workloads of the chat of a peer, and their cost for its server."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .environments import find_python
from .peers import PEERS
from .processes import Process

__all__ = ["WORKLOADS", "Target", "Values", "Workload", "publish_in_turn"]

_TEXT = "x" * 100
_MICRO, _MILLI, _KILO = 1e6, 1e3, 1e-3

Values: TypeAlias = dict[str, float]
"""The values of one measurement; the first one is compared between peers."""


@dataclass(frozen=True)
class Target:
    """The limit on a peer's cost relative to another; the first value is compared."""

    peer: str
    other: str
    at_most: float

    value: str = ""
    """The value that is compared, if it is not the first."""


@dataclass(frozen=True)
class Workload:
    """A workload for the servers of several peers."""

    title: str
    measure: Callable[[str, str, bool], Values]
    """Takes a peer, the URL of a Redis, and whether to be quick."""
    targets: Sequence[Target]
    without: frozenset[str] = frozenset()
    """Peers that do not support it."""
    memory: bool = False
    """Whether it also applies to layers in memory."""


@contextlib.contextmanager
def _chat(
    peer: str, redis_url: str, servers: int = 1
) -> Generator[tuple[list[Process], Process]]:
    """Run the servers of a peer, and its clients."""
    python = find_python(PEERS[peer].environment)
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(Process(python, "serve", peer, redis_url))
            for _ in range(servers)
        ]
        ports = [str(server.first["port"]) for server in running]
        clients = Process(find_python("clients"), "clients", peer, *ports)
        yield running, stack.enter_context(clients)


def _cpu(servers: Sequence[Process]) -> float:
    return sum(float(server.ask("tell")["cpu"]) for server in servers)


def _publish_to_500(peer: str, redis_url: str, quick: bool) -> Values:
    """Publish to one group of 500 from another process, as fast as it is received."""
    size, deliveries = (50, 1_000) if quick else (500, 20_000)
    return _publish(peer, redis_url, size, messages=deliveries // size)


def publish_in_turn(
    peer: str, redis_url: str, quick: bool, *, size: int, servers: int
) -> Values:
    """Publish to one group from another process, equally often for every size.

    This keeps the publisher and the servers equally warm for all sizes.
    """
    messages, interval = (5, 0.01) if quick else (25, 0.2)
    return _publish(
        peer, redis_url, size, messages=messages, servers=servers, interval=interval
    )


def _publish(
    peer: str,
    redis_url: str,
    size: int,
    *,
    messages: int,
    servers: int = 1,
    interval: float = 0.0,
) -> Values:
    python = find_python(PEERS[peer].environment)
    with _chat(peer, redis_url, servers) as (running, clients):
        clients.ask("connect", 1, size, servers)
        with Process(python, "publish", peer, redis_url) as publisher:

            def once() -> tuple[float, float, float]:
                clients.ask("expect", size)
                start = time.perf_counter()
                paid = publisher.ask("room0", _TEXT)["cpu"]
                busy = clients.ask("arrive")["busy"]
                seconds = time.perf_counter() - start
                time.sleep(max(0.0, interval - seconds))
                return paid, busy, seconds

            before, _, _ = [once() for _ in range(max(2, messages // 10))][-1]
            idle = _idle_cpu(running, interval) if interval else 0.0
            start, cpu = time.perf_counter(), _cpu(running)
            results = [once() for _ in range(messages)]
            cpu = _cpu(running) - cpu - idle * (time.perf_counter() - start)
    paid = (results[-1][0] - before) / messages
    return {
        "CPU per delivery, µs": cpu / messages / size * _MICRO,
        "publisher per message, µs": paid * _MICRO,
        "until all have it, ms": _mean(seconds for *_, seconds in results) * _MILLI,
        "clients busy, %": _mean(busy for _, busy, _ in results) * 100,
    }


def _idle_cpu(servers: Sequence[Process], interval: float) -> float:
    """Return the CPU seconds per second of idle servers."""
    start, cpu = time.perf_counter(), _cpu(servers)
    time.sleep(5 * interval)
    return (_cpu(servers) - cpu) / (time.perf_counter() - start)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _speak(peer: str, redis_url: str, quick: bool) -> Values:
    rooms, size = (10, 4) if quick else (50, 10)
    turns = 10 if quick else 40
    with _chat(peer, redis_url) as (servers, clients):
        clients.ask("connect", rooms, size)
        clients.ask("speak", size, _TEXT)
        cpu = _cpu(servers)
        answer = clients.ask("speak", turns, _TEXT)
        cpu = _cpu(servers) - cpu
    return {
        "CPU per delivery, µs": cpu / (rooms * size * turns) * _MICRO,
        "until all have it, ms": answer["seconds"] / turns * _MILLI,
        "clients busy, %": answer["busy"] * 100,
    }


def _churn(peer: str, redis_url: str, quick: bool) -> Values:
    count, rooms = (40, 10) if quick else (1_000, 10)
    with _chat(peer, redis_url) as (servers, clients):
        clients.ask("churn", count // 5, rooms)
        cpu = _cpu(servers)
        answer = clients.ask("churn", count, rooms)
        cpu = _cpu(servers) - cpu
    return {
        "CPU per connection, µs": cpu / count * _MICRO,
        "clients busy, %": answer["busy"] * 100,
    }


def _idle(peer: str, redis_url: str, quick: bool) -> Values:
    count, seconds = (100, 0.2) if quick else (2_000, 5)
    with _chat(peer, redis_url) as (servers, clients):
        before = servers[0].ask("tell")["memory"]
        clients.ask("connect", 1, count)
        # Work after connecting ends soon, but there is no event for that.
        time.sleep(seconds / 5)
        start = servers[0].ask("tell")
        time.sleep(seconds)
        end = servers[0].ask("tell")
    return {
        "memory of the server, MB": end["memory"] / 1e6,
        "of each connection, kB": (end["memory"] - before) / count * _KILO,
        "CPU while idle, ms/s": (end["cpu"] - start["cpu"]) / seconds * _MILLI,
    }


WORKLOADS = {
    "W1": Workload(
        "one group of 500, the publisher in another process",
        _publish_to_500,
        [
            Target("ours", "bare", 1.2),
            Target("ours", "litestar", 1),
            Target("ours", "broadcaster", 1),
            Target("ours", "channels", 1 / 9),
            Target("ours-queue", "channels-queue", 1 / 8),
            Target("ours-queue", "ours", 1.5),
            Target("broadcast", "bare", 1),
            Target("frames", "bare", 0.5),
            Target("frames", "picows", 1.35),
            Target("frames-queue", "frames", 1.15),
        ],
    ),
    "W2": Workload(
        "50 rooms of 10, every client speaks",
        _speak,
        [
            Target("ours", "bare", 1),
            Target("frames", "bare", 0.62),
            Target("ours", "litestar", 1),
            Target("ours", "broadcaster", 1),
            Target("ours-queue", "channels-queue", 1 / 8),
            Target("ours-memory", "channels-memory", 1 / 5),
        ],
        memory=True,
    ),
    "W3": Workload(
        "connect, join, leave, disconnect",
        _churn,
        [Target("ours", "bare", 1.1)],
        # It raises KeyError and stops answering if clients connect and leave at once.
        without=frozenset({"broadcaster"}),
    ),
    "W4": Workload(
        "2000 idle connections in one group",
        _idle,
        [Target("ours", "bare", 1.05)],
    ),
}
