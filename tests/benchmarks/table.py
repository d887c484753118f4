"""The measurements, their targets, and the table of results."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MEASURES", "MISSED", "Line", "Measure", "compare", "print_table"]

MISSED = "MISSED"
# The number of cells in a line, and those that are aligned left.
_CELLS = 8
_LEFT = {0, 5}
_UNITS = {"µs": 1e6, "ms": 1e3, "": 1, "kB": 1e-3}


@dataclass(frozen=True)
class Measure:
    """A line of the table, and its target."""

    title: str
    key: str
    unit: str
    faster: float | None = None
    """The minimum speed relative to Channels."""
    slower: float | None = None
    """The maximum time relative to the measure in `beside`."""
    at_most: float | None = None
    """The maximum value, in its unit."""
    beside: str = ""
    """The key of the measure to compare with, if it is one of this library."""


_MEMBERSHIPS = [
    Measure("group_add and group_discard", "memberships", "µs"),
    Measure("... of 100 at once", "memberships, at once", "µs"),
    Measure("new_channel", "new_channel", "µs"),
]
MEASURES = {
    "memory": [
        Measure("WebSocket frame, echoed", "frame", "µs", faster=8),
        Measure(
            "... beside a loop by hand (*)",
            "frame",
            "µs",
            slower=1.3,
            beside="frame, by hand",
        ),
        Measure(
            "... by a consumer with a layer (*)",
            "frame, layer",
            "µs",
            slower=1.5,
            beside="frame, by hand",
        ),
        Measure("event to an idle loop", "loop", "µs", faster=6),
        Measure("event to an idle consumer", "event", "µs", faster=6),
        Measure("group_send to 1000, flat", "group_send, flat", "ms", faster=20),
        Measure("... until all received, flat", "group_receive, flat", "ms"),
        Measure("group_send to 1000, nested", "group_send, nested", "ms", faster=20),
        Measure("... until all received, nested", "group_receive, nested", "ms"),
        Measure("tasks of an idle consumer", "tasks", "", at_most=2),
        Measure("memory of an idle consumer", "bytes", "kB", at_most=7),
    ],
    "queue": [
        Measure("send, one by one", "send", "µs", faster=3.5),
        Measure("send, 50 at once", "send, at once", "µs", faster=10),
        Measure("receive 500 that wait", "receive", "µs", faster=20),
        Measure("... in a channel of its own", "receive, own", "µs", faster=20),
        Measure("send and receive, in turns", "round", "µs"),
        Measure("group_send to 1", "group_send, 1", "µs"),
        Measure("... to 1, 100 at once", "group_send, at once", "µs"),
        Measure("... to 100 in 20 processes", "group_send, 100", "µs", faster=4),
        Measure("... to 1000 in 20 processes", "group_send, 1000", "µs"),
        *_MEMBERSHIPS,
        Measure("group message to each of 100 loops", "loops", "µs"),
        Measure("... of 100 consumers", "consumers-100", "µs", faster=8),
        Measure("... of 1000 consumers", "consumers-1000", "µs"),
        Measure("from send to receive, by the clock", "latency", "µs"),
        Measure("connections for 500 group_sends", "connections", "", at_most=3),
    ],
    "pubsub": [
        Measure("send and receive, in turns", "round", "µs"),
        Measure("group_send to 1", "group_send, 1", "µs"),
        Measure("... to 1, 100 at once", "group_send, at once", "µs", faster=8),
        Measure("... to 100", "group_send, 100", "µs"),
        Measure("... to 1000", "group_send, 1000", "µs"),
        *_MEMBERSHIPS,
        Measure("group message to each of 100 loops", "loops", "µs"),
        Measure("... of 100 consumers", "consumers-100", "µs"),
        Measure("... of 1000 consumers", "consumers-1000", "µs"),
        Measure("from send to receive, by the clock", "latency", "µs"),
    ],
    "copies": [
        Measure(
            "fan-out of a flat message",
            "copy_for_each, flat",
            "µs",
            slower=1,
            beside="decode_for_each, flat",
        ),
        Measure(
            "fan-out of a nested message",
            "copy_for_each, nested",
            "µs",
            slower=1,
            beside="decode_for_each, nested",
        ),
    ],
}


@dataclass(frozen=True)
class Line:
    """A line of the table, and its result."""

    measure: str
    unit: str
    ours: float
    theirs: float | None
    """None if only this library is measured."""
    ratio: float | None
    target: str
    verdict: str
    """``ok``, ``MISSED``, in the quick form also ``in reach``, or nothing."""
    commands: Sequence[tuple[float, float] | None]
    """The commands that each library sends, and that run on the server; None if that is
    not counted."""

    def cells(self) -> list[str]:
        """Return the cells of the line."""
        values = [_number(value, self.unit) for value in (self.ours, self.theirs)]
        ratio = ""
        if self.ratio is not None:
            ratio = f"{self.ratio:.{2 if self.ratio < 10 else 1}f} x"
        commands = map(_commands, self.commands)
        return [self.measure, *values, ratio, self.target, self.verdict, *commands]


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def _commands(commands: tuple[float, float] | None) -> str:
    if commands is None:
        return ""
    sent, run = (f"{round(value, 2):.3g}" for value in commands)
    return sent if sent == run else f"{sent}/{run}"


def compare(
    measure: Measure, ours: dict[str, float], theirs: dict[str, float], slack: float
) -> Line:
    """Return the line of a measure; a miss by a factor up to `slack` is in reach."""
    scale = _UNITS[measure.unit]
    our = ours[measure.key] * scale
    other = ours.get(measure.beside) if measure.beside else theirs.get(measure.key)
    their = None if other is None else other * scale
    ratio = None if their is None else their / our
    target, share = "", 1.0
    if measure.faster is not None:
        assert ratio is not None, f"no result of Channels for {measure.key!r}"
        target, share = f">= {measure.faster:g} x", ratio / measure.faster
    elif measure.slower is not None:
        assert their is not None, f"no result to compare with {measure.key!r}"
        ratio = our / their
        target, share = f"<= {measure.slower:g} x", measure.slower / ratio
    elif measure.at_most is not None:
        target = f"<= {measure.at_most:g} {measure.unit}".rstrip()
        share = 1.0 if our <= measure.at_most else 0.0
    verdict = "ok" if share >= 1 else "in reach" if share * slack >= 1 else MISSED
    sent, run = f"{measure.key}, sent", f"{measure.key}, run"
    return Line(
        measure=measure.title,
        unit=measure.unit,
        ours=our,
        theirs=their,
        ratio=ratio,
        target=target,
        verdict=target and verdict,
        commands=[
            (each[sent], each[run]) if sent in each else None for each in (ours, theirs)
        ],
    )


def print_table(groups: Sequence[tuple[Sequence[str], Sequence[Line]]]) -> None:
    """Print groups of lines, each below its heading."""
    rows: list[list[str]] = []
    for (first, ours, theirs, *commands), lines in groups:
        head = [first, ours, theirs, "ratio", "target", "", *commands]
        rows.append([*head, *[""] * (_CELLS - len(head))])
        rows += [line.cells() for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if i in _LEFT else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
