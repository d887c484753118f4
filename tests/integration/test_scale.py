"""The page on scale agrees with the committed results of the benchmarks."""

import json
from typing import Any

import pytest

from tests.benchmarks import model
from tests.benchmarks.large_groups import PER_MEMBER, REDIS

REPORT: dict[str, Any] = json.loads(model.RESULTS.read_text())


def test_tables_match_the_results() -> None:
    """The committed tables are those of the results, and of the cost of a WebSocket."""
    assert model.TABLES.read_text() == model.render(
        REPORT, model.PERFORMANCE.read_text()
    ), "the results have changed: run python -m tests.benchmarks.model"


def test_results_keep_the_promises() -> None:
    """A group_send blocks Redis for 1 ms and writes 10 kB at most; joins are cheap."""
    [result] = REPORT["workloads"]
    largest = "fast_channels, queue: 100000 in 20 processes"
    assert [each["target"] for each in result["targets"]] == [
        f"{largest}: Redis blocked, µs, part of 1000",
        f"{largest}: kB out of Redis, part of 10",
        "fast_channels, queue: 10000 in 1 process: commands of all joins, part of 50",
    ]
    assert all(each["ratio"] <= 1 for each in result["targets"])
    assert not REPORT["quick"], "quick results are not meaningful"


def test_fit_finds_the_coefficients() -> None:
    """The fit returns the coefficients from which results were computed."""

    def row(size: int, processes: int, redis: float) -> model.Row:
        values = {REDIS: redis, PER_MEMBER: 45.0}
        return model.Row("layer", size, processes, full=False, values=values)

    few = [row(count, count, 30 + 7 * count) for count in (1, 4, 20)]
    load = model.fit([*few, row(1_000, 20, 170 * 1.5)])
    assert load.message == pytest.approx(30)
    assert load.process == pytest.approx(7)
    assert load.received == 45
    assert load.off == pytest.approx(0.5)
