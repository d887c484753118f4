"""The model of ``docs/topics/scale.rst``, fitted to the results of W8.

``python -m tests.benchmarks.model`` writes ``docs/topics/scale_tables.rst`` anew, from
``docs/topics/scale_results.json``, which is what ``--workload W8 --json`` has written,
and from the cost of a WebSocket in ``docs/topics/performance_tables.rst``.
"""

import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .environments import ROOT
from .large_groups import AT_FULL_SPEED, BLOCKED, JOINS, OUT, PER_MEMBER, REDIS
from .pages import table
from .peers import PEERS

__all__ = ["RESULTS", "TABLES", "Load", "fit", "read_rows", "render"]

_TOPICS = ROOT / "docs" / "topics"
RESULTS = _TOPICS / "scale_results.json"
"""The committed results."""
TABLES = _TOPICS / "scale_tables.rst"
"""The tables of the page."""
PERFORMANCE = _TOPICS / "performance_tables.rst"

_BEGINNING = """\
.. Written by "python -m tests.benchmarks.model". Do not edit it.
"""
# A peer of this library gets rows in every table; others are only measured.
_OURS = "fast_channels"
# The example: its processes and connections, and how busy Redis and processes may be.
_PROCESSES, _CONNECTIONS, _BUSY = 100, 1_000_000, 0.8
_SIZES = (10, 1_000, 100_000)
_MICRO = 1e-6
# Larger groups get too few messages for a CPU time of Redis that can be compared.
_COMPARED = 10_000
# From this value on, numbers have no decimal places.
_LARGE = 10


@dataclass(frozen=True)
class Row:
    """The medians of a row of W8."""

    peer: str
    """The title of the peer."""
    size: int
    """Members of the group."""
    processes: int
    full: bool
    """Whether messages were sent at full speed."""
    values: Mapping[str, float]

    @property
    def few(self) -> bool:
        """Whether each process has one member."""
        return self.size == self.processes


@dataclass(frozen=True)
class Load:
    """The coefficients of a layer under a load, in microseconds of CPU."""

    message: float
    """Redis, for each ``group_send()``: a."""
    process: float
    """Redis, for each process with members: b."""
    received: float
    """Each process with members: d."""
    off: float
    """The largest deviation of a measured cost for Redis, relative to the model."""

    def redis(self, processes: float) -> float:
        """Return the cost for Redis of a message to this many processes."""
        return self.message + self.process * processes


def read_rows(report: Mapping[str, Any]) -> list[Row]:
    """Return the rows of W8 in a report."""
    [result] = [each for each in report["workloads"] if each["workload"] == "W8"]
    rows: list[Row] = []
    for title, rounds in result["rows"].items():
        peer, _, where = title.rpartition(": ")
        found = re.match(r"(\d+) in (\d+) process", where)
        assert found, title
        medians = {
            name: statistics.median(each[name] for each in rounds) for name in rounds[0]
        }
        full = where.endswith(AT_FULL_SPEED)
        rows.append(Row(peer, int(found[1]), int(found[2]), full, medians))
    return rows


def fit(rows: Sequence[Row]) -> Load:
    """Fit the coefficients to rows of one layer under one load.

    A line through the groups with one member in each process gives the costs for Redis;
    with larger groups the model is only compared.
    """
    few = [row for row in rows if row.few]
    slope, intercept = statistics.linear_regression(
        [row.processes for row in few], [row.values[REDIS] for row in few]
    )
    received = statistics.median(row.values[PER_MEMBER] for row in few)
    load = Load(max(0.0, intercept), slope, received, 0.0)
    off = max(
        (
            row.values[REDIS] / load.redis(row.processes) - 1
            for row in rows
            if row.size <= _COMPARED
        ),
        key=abs,
    )
    return Load(load.message, load.process, load.received, off)


def render(report: Mapping[str, Any], performance: str) -> str:
    """Return the tables."""
    rows = read_rows(report)
    peers = dict.fromkeys(row.peer for row in rows)
    loads = {
        peer: [
            fit([row for row in rows if row.peer == peer and row.full == full])
            for full in (False, True)
        ]
        for peer in peers
        if peer.startswith(_OURS)
    }
    parts = {
        "figures": _figures(report, rows, loads, performance),
        "coefficients": _coefficients(loads),
        "example": _example(loads, performance),
        "results": _results(rows),
    }
    lines: list[str] = []
    for name, part in parts.items():
        lines += ["", f".. begin {name}", "", *part, f".. end {name}"]
    return _BEGINNING + "\n".join(lines) + "\n"


def _figures(
    report: Mapping[str, Any],
    rows: Sequence[Row],
    loads: Mapping[str, Sequence[Load]],
    performance: str,
) -> Iterator[str]:
    """Yield substitutions for the figures in the text."""
    queue = PEERS["ours-queue"].title

    def value(size: int, processes: int, name: str) -> float:
        [row] = [
            row
            for row in rows
            if (row.peer, row.size, row.processes) == (queue, size, processes)
        ]
        return row.values[name]

    socket = _socket(performance, queue)
    each = _BUSY / (socket * _MICRO)
    figures = {
        "blocked": f"{_number(value(100_000, 20, BLOCKED) / 1000)} ms",
        "written": f"{_number(value(100_000, 20, OUT))} kB",
        "joins": _number(value(10_000, 1, JOINS)),
        "light": f"{_number(loads[queue][0].process)} µs",
        "full": f"{_number(loads[queue][1].process)} µs",
        "socket": f"{_number(socket)} µs",
        "deliveries": _number(each),
        "huge": _number(100 * each / 100_000),
        "less": _number(20 * each / 100_000),
        "rounds": str(report["rounds"]),
        "server": report["server"].replace("redis", "Redis"),
        "python": f"Python {report['python']}",
    }
    for name, text in figures.items():
        yield f".. |{name}| replace:: {text}"
    yield ""


def _coefficients(loads: Mapping[str, Sequence[Load]]) -> Iterator[str]:
    head = ["", "a, µs", "b, µs", "d, µs", "measured beside the model, at most"]
    lines = [
        [
            f"{peer}, {name}",
            _number(load.message),
            _number(load.process),
            _number(load.received),
            f"{load.off:+.0%}",
        ]
        for peer, both in loads.items()
        for name, load in zip(
            ("ten messages a second", "full speed"), both, strict=True
        )
    ]
    yield from table(head, lines)


def _example(loads: Mapping[str, Sequence[Load]], performance: str) -> Iterator[str]:
    lines: list[list[str]] = []
    for size in _SIZES:
        for peer, (light, full) in loads.items():
            socket = _socket(performance, peer)
            # Members are anywhere: the processes that have at least one.
            reached = _PROCESSES * (1 - (1 - 1 / _PROCESSES) ** size)
            costs = [load.redis(reached) for load in (light, full)]
            each = reached / _PROCESSES * full.received + size / _PROCESSES * socket
            redis, processes = (_BUSY / (cost * _MICRO) for cost in (costs[1], each))
            lines.append(
                [
                    f"{size:,}",
                    peer,
                    f"{_number(costs[0])} to {_number(costs[1])}",
                    _number(redis),
                    _number(processes),
                    "Redis" if redis < processes else "the processes",
                    _number(min(redis, processes) * size),
                ]
            )
    head = [
        "Members",
        "Layer",
        "Redis, µs a group_send",
        "Redis' limit, group_sends/s",
        "the processes' limit",
        "First wall",
        "deliveries/s there",
    ]
    yield from table(head, lines)


def _socket(performance: str, peer: str) -> float:
    """Return the cost of a delivery over a WebSocket, of the first table, W1."""
    found = re.search(rf"\* - {re.escape(peer)}\n +- ([\d.]+)\n", performance)
    assert found, f"no line of {peer} in {PERFORMANCE.name}"
    return float(found[1])


def _results(rows: Sequence[Row]) -> Iterator[str]:
    names = list(rows[0].values)
    lines = [
        [
            f"{row.peer}: {row.size:,} in {row.processes}{AT_FULL_SPEED * row.full}",
            *(_cell(row, name) for name in names),
        ]
        for row in rows
    ]
    yield from table(["", *names], lines)


def _cell(row: Row, name: str) -> str:
    if name == REDIS and row.size > _COMPARED:
        return ""
    return _number(row.values[name])


def _number(value: float) -> str:
    """Return a number with two significant digits or three, and thousands."""
    if value >= _LARGE:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.2g}"


def main() -> None:
    """Write the tables."""
    report = json.loads(RESULTS.read_text())
    TABLES.write_text(render(report, PERFORMANCE.read_text()))


if __name__ == "__main__":
    main()
