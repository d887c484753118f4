"""Write a report as the tables of the documentation.

``python -m tests.benchmarks.pages report.json > docs/topics/performance_tables.rst``
"""

import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import table as terminal

__all__ = ["table"]

_TITLES = {
    "W1": "One group of 500, the publisher in another process",
    "W2": "50 rooms of 10, every client speaks",
    "W3": "Connect, join, leave, disconnect",
    "W4": "2000 idle connections",
    "W5": "The operations of a layer, in process",
    "W6": "A consumer's dispatch, and groups in memory",
    "W7": "Groups that grow, five messages a second",
}


def main(file: str) -> None:
    """Print the tables of a report."""
    report: dict[str, Any] = json.loads(Path(file).read_text())
    for result in report["workloads"]:
        if result["workload"] == "W8":
            continue  # docs/topics/scale.rst has it
        if "rows" in result:
            print("\n".join(_rounds(result)))
        else:
            print("\n".join(_library(result)))


def _rounds(result: dict[str, Any]) -> Iterator[str]:
    rows: dict[str, list[dict[str, float]]] = result["rows"]
    names = [
        name
        for name in next(iter(rows.values()))[0]
        if not name.startswith("clients busy")
    ]
    medians = {
        title: [statistics.median(each[name] for each in values) for name in names]
        for title, values in rows.items()
    }
    head = ["", *names]
    lines = [
        [title, *(_number(value) for value in values)]
        for title, values in medians.items()
    ]
    if result["workload"] != "W7":  # with layers of fast_channels only
        first = next(iter(medians.values()))[0]
        head.insert(2, "beside ours")
        for line, values in zip(lines, medians.values(), strict=True):
            line.insert(2, f"{values[0] / first:.2f}")
    yield from _heading(result)
    yield from table(head, lines)


def _library(result: dict[str, Any]) -> Iterator[str]:
    yield from _heading(result)
    for each in result["tables"]:
        lines = [terminal.Line(**line).cells() for line in each["lines"]]
        # The page explains what the terminal has in footnotes.
        first, ours, theirs, *rest = (
            name.replace(" (**)", "").replace("(*)", "").strip()
            for name in each["head"]
        )
        commands = ["Redis commands", "those of the other"] if rest else []
        # Without the targets and whether they are met.
        rows = [[*cells[:4], *cells[6 : 6 + len(commands)]] for cells in lines]
        head = [first.capitalize(), ours, theirs, "ratio", *commands]
        yield from table(head, rows)


def _heading(result: dict[str, Any]) -> Iterator[str]:
    title = f"{result['workload']}: {_TITLES.get(result['workload'], result['title'])}"
    yield from ("", title, "-" * len(title), "")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield from (".. list-table::", "   :header-rows: 1", "")
    for row in (head, *rows):
        for i, cell in enumerate(row):
            yield f"   {'* -' if i == 0 else '  -'} {cell}".rstrip()
    yield ""


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main(*sys.argv[1:])
