"""Rounds in which peers take turns at a workload, and their results."""

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .peers import PEERS
from .workloads import WORKLOADS, Target, Values, publish_in_turn

__all__ = ["Result", "Run"]

_SIZES = (10, 100, 500, 1000, 5000)
_SERVERS = (1, 2, 4)
# W7 shows that neither a delivery nor publishing costs more in a larger group.
_FLAT = 1.2
# Clients with a larger busy share than this slow down the server.
_BUSY = "clients busy, %"
_TOO_BUSY = 90
# Minimum of values for quartiles.
_ENOUGH = 2


@dataclass
class Result:
    """The results of a workload."""

    name: str
    title: str
    rows: dict[str, list[Values]] = field(default_factory=dict[str, list[Values]])
    """The values of each round, by the title of a row."""
    targets: list[tuple[str, float, float]] = field(
        default_factory=list[tuple[str, float, float]]
    )
    """Targets: a description, the ratio, and its limit."""
    judged: bool = True
    """Whether the rounds were long enough to be meaningful."""

    @property
    def met(self) -> bool:
        """Whether every target that is checked is met."""
        if not self.judged:
            return True
        return not self._held_up() and all(
            ratio <= most for _, ratio, most in self.targets
        )

    def _held_up(self) -> list[str]:
        """Return the rows in which the clients were the bottleneck."""
        return [
            row
            for row, values in self.rows.items()
            # A group of W7 can be too small to keep clients or servers busy.
            if self.name != "W7"
            and _BUSY in values[0]
            and self.median(row, _BUSY) > _TOO_BUSY
        ]

    def median(self, row: str, value: str = "") -> float:
        """Return the median of a value, or of the first."""
        values = self.rows[row]
        value = value or next(iter(values[0]))
        return statistics.median(each[value] for each in values)

    def show(self) -> None:
        """Print the results."""
        print(f"\n{self.name}: {self.title}")
        names = list(next(iter(self.rows.values()))[0])
        table = [["", names[0], "quartiles", "", *names[1:]]]
        first = self.median(next(iter(self.rows)))
        for title, values in self.rows.items():
            medians = [self.median(title, name) for name in names]
            firsts = [each[names[0]] for each in values]
            low, high = min(firsts), max(firsts)
            if len(firsts) >= _ENOUGH:
                low, _, high = statistics.quantiles(firsts, method="inclusive")
            own = [f"{low:.4g} - {high:.4g}", f"{medians[0] / first:.2f} x"]
            others = [f"{median:.4g}" for median in medians[1:]]
            table.append([title, f"{medians[0]:.4g}", *own, *others])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for head, *cells in table:
            line = [head.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]
            print("  ".join(line).rstrip())
        for words, ratio, most in self.targets:
            verdict = "not judged"
            if self.judged:
                verdict = "ok" if ratio <= most else "MISSED"
            print(f"  {words}: {ratio:.3g} x, at most {most:.3g} x: {verdict}")
        for row in self._held_up() if self.judged else ():
            print(f"  {row}: MISSED, its clients were busy all the time")
        sys.stdout.flush()

    def report(self) -> dict[str, Any]:
        """Return the results for JSON."""
        return {
            "workload": self.name,
            "title": self.title,
            "rows": self.rows,
            "targets": [
                {"target": words, "ratio": ratio, "at_most": most}
                for words, ratio, most in self.targets
            ],
        }


@dataclass(frozen=True)
class Run:
    """The options of a run."""

    redis_url: str
    rounds: int
    quick: bool

    def workload(self, name: str, peers: Sequence[str]) -> Result:
        """Let the peers take turns at one of ``WORKLOADS``."""
        workload = WORKLOADS[name]
        able = [
            peer
            for peer in peers
            if peer not in workload.without
            and not PEERS[peer].on_cluster
            and (workload.memory or not PEERS[peer].in_memory)
        ]
        measures = {
            peer: partial(workload.measure, peer, self.redis_url, self.quick)
            for peer in able
        }
        result = self._take_turns(name, workload.title, measures)
        result.targets = list(_judge(result, workload.targets, able))
        result.rows = {PEERS[peer].title: result.rows[peer] for peer in able}
        return result

    def scaling(self, peers: Sequence[str]) -> Result:
        """Let those of the peers that use this library take turns at growing groups."""
        ours = [peer for peer in ("ours", "ours-queue") if peer in peers]
        sizes = _SIZES[:2] if self.quick else _SIZES
        measures: dict[str, Callable[[], Values]] = {}
        for peer in ours:
            for size, servers in [
                *((size, 1) for size in sizes),
                *((sizes[-2], servers) for servers in _SERVERS[1:]),
            ]:
                measures[_scale(peer, size, servers)] = partial(
                    publish_in_turn,
                    peer,
                    self.redis_url,
                    self.quick,
                    size=size,
                    servers=servers,
                )
        title = "a group that grows, five messages a second, on more servers"
        result = self._take_turns("W7", title, measures)
        for peer in ours:
            small, large = (_scale(peer, size, 1) for size in (sizes[1], sizes[-1]))
            ratio = result.median(large) / result.median(small)
            words = f"{PEERS[peer].title}: a delivery in {sizes[-1]} beside {sizes[1]}"
            result.targets.append((words, ratio, _FLAT))
        if "ours" in ours:
            value = "publisher per message, µs"
            smallest, largest = (_scale("ours", sizes[i], 1) for i in (0, -1))
            ratio = result.median(largest, value) / result.median(smallest, value)
            words = (
                f"{PEERS['ours'].title}: publishing to {sizes[-1]} beside {sizes[0]}"
            )
            result.targets.append((words, ratio, _FLAT))
        return result

    def _take_turns(
        self, name: str, title: str, measures: Mapping[str, Callable[[], Values]]
    ) -> Result:
        result = Result(name, title, {row: [] for row in measures})
        result.judged = not self.quick
        for number in range(1, self.rounds + 1):
            for row, measure in measures.items():
                where = f"{name}, round {number} of {self.rounds}: {row}"
                print(f"\r{where:<70}", end="", file=sys.stderr, flush=True)
                result.rows[row].append(measure())
        print("\r" + " " * 70 + "\r", end="", file=sys.stderr, flush=True)
        return result


def _scale(peer: str, size: int, servers: int) -> str:
    number = "1 server" if servers == 1 else f"{servers} servers"
    return f"{PEERS[peer].title}: {size} on {number}"


def _judge(
    result: Result, targets: Sequence[Target], peers: Sequence[str]
) -> Iterator[tuple[str, float, float]]:
    for target in targets:
        if target.peer in peers and target.other in peers:
            mine = result.median(target.peer, target.value)
            other = result.median(target.other, target.value)
            words = f"{PEERS[target.peer].title}, beside {PEERS[target.other].title}"
            yield words, mine / other, target.at_most
