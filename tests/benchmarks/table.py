"""What is measured, what is to come out, and the table of what came out."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MEASURES", "MISSED", "Line", "Measure", "compare", "print_table"]

MISSED = "MISSED"
_UNITS = {"µs": 1e6, "ms": 1e3, "": 1, "kB": 1e-3}


@dataclass(frozen=True)
class Measure:
    """A line of the table, and what is to come out."""

    title: str
    key: str
    unit: str
    faster: float | None = None
    """How many times as fast as Channels it should be."""
    slower: float | None = None
    """How many times as slow as code written by hand it may be."""
    at_most: float | None = None
    """What it may take, in its unit."""


MEASURES = {
    "memory": [
        Measure("WebSocket frame, echoed", "frame", "µs", faster=8),
        Measure("... beside a loop by hand (*)", "frame", "µs", slower=1.5),
        Measure("event to an idle loop", "loop", "µs", faster=6),
        Measure("event to an idle consumer", "event", "µs", faster=6),
        Measure("group_send to 1000, flat", "group_send, flat", "ms", faster=20),
        Measure("... until all received, flat", "group_receive, flat", "ms"),
        Measure("group_send to 1000, nested", "group_send, nested", "ms", faster=20),
        Measure("... until all received, nested", "group_receive, nested", "ms"),
        Measure("tasks of an idle consumer", "tasks", "", at_most=2),
        Measure("memory of an idle consumer", "bytes", "kB", at_most=7),
    ],
    "redis": [
        Measure("send, one by one", "send", "µs", faster=3.5),
        Measure("send, 50 at once", "send, at once", "µs", faster=10),
        Measure("receive 500 that wait", "receive", "µs", faster=20),
        Measure("... in a channel of its own", "receive, own", "µs", faster=20),
        Measure("group_send to 1", "group_send, 1", "µs"),
        Measure("group_send to 100 in 20 processes", "group_send, 100", "µs", faster=4),
        Measure("group message to each of 100 loops", "group, loops", "µs"),
        Measure("... to each of 100 consumers", "group, consumers", "µs", faster=8),
        Measure("from send to receive, by the clock", "latency", "µs"),
        Measure("connections for 500 group_sends", "connections", "", at_most=3),
    ],
}


@dataclass(frozen=True)
class Line:
    """A line of the table, and what came out."""

    measure: str
    unit: str
    ours: float
    theirs: float | None
    """None if it is measured for ours only."""
    ratio: float | None
    target: str
    verdict: str
    """``ok``, ``MISSED``, in the quick form also ``in reach``, or nothing."""

    def cells(self) -> list[str]:
        """Write it as the cells of a table."""
        values = [_number(value, self.unit) for value in (self.ours, self.theirs)]
        ratio = ""
        if self.ratio is not None:
            ratio = f"{self.ratio:.{2 if self.ratio < 10 else 1}f} x"
        return [self.measure, *values, ratio, self.target, self.verdict]


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def compare(
    measure: Measure, ours: dict[str, float], theirs: dict[str, float], slack: float
) -> Line:
    """Return the line of a measure; `slack` times too little is still in reach."""
    scale = _UNITS[measure.unit]
    our = ours[measure.key] * scale
    their = theirs[measure.key] * scale if measure.key in theirs else None
    ratio = None if their is None else their / our
    target, share = "", 1.0
    if measure.faster is not None:
        assert ratio is not None, f"Channels has no {measure.key!r}"
        target, share = f">= {measure.faster:g} x", ratio / measure.faster
    elif measure.slower is not None:
        their = ours[f"{measure.key}, by hand"] * scale
        ratio = our / their
        target, share = f"<= {measure.slower:g} x", measure.slower / ratio
    elif measure.at_most is not None:
        target = f"<= {measure.at_most:g} {measure.unit}".rstrip()
        share = 1.0 if our <= measure.at_most else 0.0
    verdict = "ok" if share >= 1 else "in reach" if share * slack >= 1 else MISSED
    return Line(
        measure=measure.title,
        unit=measure.unit,
        ours=our,
        theirs=their,
        ratio=ratio,
        target=target,
        verdict=target and verdict,
    )


def print_table(groups: Sequence[tuple[Sequence[str], Sequence[Line]]]) -> None:
    """Print groups of lines, each below the first four cells of its head."""
    rows: list[list[str]] = []
    for head, lines in groups:
        rows.append([*head, "target", ""])
        rows += [line.cells() for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = (
            cell.ljust(width) if i in {0, 5} else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())
