"""Plot a report with matplotlib in a separate environment."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .environments import ROOT, Failure, find_python

__all__ = ["draw"]


def draw(report: Sequence[dict[str, Any]], file: Path) -> None:
    """Plot the results of the workloads as a PNG.

    Raises:
        Failure: The plot cannot be drawn.
    """
    done = subprocess.run(
        [find_python("plots"), "-m", "tests.benchmarks.plot", str(file.resolve())],
        cwd=ROOT,
        input=json.dumps(report),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(f"cannot draw {file}: {done.stderr.strip()[-200:]}")
