"""Plot a report: ``python -m tests.benchmarks.plot FILE.png < report.json``.

There is a bar for each peer and workload; W7 is the cost of a delivery by group size.
"""

# matplotlib is installed only where this runs.
# mypy: disable-error-code="import-not-found"
# pyright: basic, reportMissingImports=false

import json
import re
import statistics
import sys
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

mpl.use("agg")


def _medians(values: list[dict[str, float]], name: str) -> float:
    return statistics.median(each[name] for each in values)


def _bars(axes: Any, result: dict[str, Any]) -> None:
    rows = result["rows"]
    name = next(iter(next(iter(rows.values()))[0]))
    titles = list(rows)
    bars = axes.barh(
        titles,
        [_medians(rows[title], name) for title in titles],
        color=["C0" if title.startswith("fast_channels") else "C7" for title in titles],
    )
    axes.bar_label(bars, fmt="%.4g", padding=3)
    axes.margins(x=0.18)
    axes.invert_yaxis()
    axes.set_title(f"{result['workload']}: {result['title']}", fontsize=10)
    axes.set_xlabel(name)


def _lines(axes: Any, result: dict[str, Any]) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    name = ""
    for row, values in result["rows"].items():
        if found := re.fullmatch(r"(.*): (\d+) on 1 server", row):
            name = next(iter(values[0]))
            point = (int(found[2]), _medians(values, name))
            lines.setdefault(found[1], []).append(point)
    for title, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=title)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_title("W7: the size of the group", fontsize=10)
    axes.set_xlabel("members")
    axes.set_ylabel(name)
    axes.legend()


def main(file: str) -> None:
    """Plot the report on stdin."""
    results = [
        result
        for result in json.load(sys.stdin)
        if "rows" in result and result["workload"] != "W8"
    ]
    figure, all_axes = plt.subplots(
        len(results), figsize=(8, 3.2 * len(results)), squeeze=False
    )
    for axes, result in zip(all_axes[:, 0], results, strict=True):
        (_lines if result["workload"] == "W7" else _bars)(axes, result)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
