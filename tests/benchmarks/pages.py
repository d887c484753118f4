"""Writes a report as the tables of the documentation.

``python -m tests.benchmarks.pages report.json > docs/topics/performance_tables.rst``
"""

import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

_TITLES = {
    "W1": "One group of 500, the publisher in another process",
    "W2": "50 rooms of 10, every client speaks",
    "W3": "Connect, join, leave, disconnect",
    "W4": "2000 idle connections",
    "W7": "Groups that grow",
}


def main(file: str) -> None:
    """Print the tables of a report."""
    report: dict[str, Any] = json.loads(Path(file).read_text())
    for result in report["workloads"]:
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
    first = next(iter(medians.values()))[0]
    yield from _heading(result)
    yield from _table(
        ["", names[0], "beside ours", *names[1:]],
        (
            [title, _number(values[0]), f"{values[0] / first:.2f}"]
            + [_number(value) for value in values[1:]]
            for title, values in medians.items()
        ),
    )


def _library(result: dict[str, Any]) -> Iterator[str]:
    yield from _heading(result)
    for table in result["tables"]:
        head: Sequence[str] = table["head"]
        yield from _table(
            [head[0].replace("(*)", "").strip().capitalize(), *head[1:4]],
            (
                [
                    line["measure"],
                    *(
                        "" if line[key] is None else f"{line[key]:.3g} {line['unit']}"
                        for key in ("ours", "theirs")
                    ),
                    "" if line["ratio"] is None else f"{line['ratio']:.3g}",
                ]
                for line in table["lines"]
            ),
        )


def _heading(result: dict[str, Any]) -> Iterator[str]:
    title = f"{result['workload']}: {_TITLES.get(result['workload'], result['title'])}"
    yield from ("", title, "-" * len(title), "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield from (".. list-table::", "   :header-rows: 1", "")
    for row in (head, *rows):
        for i, cell in enumerate(row):
            yield f"   {'* -' if i == 0 else '  -'} {cell}".rstrip()
    yield ""


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main(*sys.argv[1:])
