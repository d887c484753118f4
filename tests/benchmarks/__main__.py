"""Measures the library beside Django Channels, and prints ratios.

    python -m tests.benchmarks [--quick] [--peer-python PATH] [--json FILE]

The two libraries take turns, each in processes of its own, and the best result of each
counts: on a machine that has other things to do only the ratios of one run mean
something. Channels comes from PyPI, into a virtual environment that is kept in
``.venv-benchmarks``, unless ``--peer-python`` names an interpreter that has it.

It exits with 0 if every target is met, and with 1 if one is missed. ``--quick`` takes
less than 20 seconds, and fails only for a ratio that is not even half of its target;
what takes room, and no time, has to meet its target there too. It exits with 2 if
Channels cannot be had or a measurement fails.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PEER = "4.3.2"
_ROOT = Path(__file__).parents[2]
_VENV = _ROOT / ".venv-benchmarks"
# So many turns, and seconds for each measurement in each of them.
_FULL = (5, 0.4)
_QUICK = (2, 0.05)
_TIMEOUT = 120
_MISSED = "MISSED"
_UNITS = {"µs": 1e6, "ms": 1e3, "": 1, "kB": 1e-3}


class _Failure(Exception):
    """Says in one line why there is nothing to print."""


@dataclass(frozen=True)
class _Measure:
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


_MEASURES = [
    _Measure("WebSocket frame, echoed", "frame", "µs", faster=8),
    _Measure("... beside a loop by hand (*)", "frame", "µs", slower=1.5),
    _Measure("event to an idle loop", "loop", "µs", faster=6),
    _Measure("event to an idle consumer", "event", "µs", faster=6),
    _Measure("group_send to 1000, flat", "group_send, flat", "ms", faster=20),
    _Measure("... until all received, flat", "group_receive, flat", "ms"),
    _Measure("group_send to 1000, nested", "group_send, nested", "ms", faster=20),
    _Measure("... until all received, nested", "group_receive, nested", "ms"),
    _Measure("tasks of an idle consumer", "tasks", "", at_most=2),
    _Measure("memory of an idle consumer", "bytes", "kB", at_most=7),
]


@dataclass(frozen=True)
class _Line:
    """A line of the table, and what came out."""

    measure: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    target: str
    verdict: str
    """``ok``, ``MISSED``, in the quick form also ``in reach``, or nothing."""

    def cells(self) -> list[str]:
        ratio = f"{self.ratio:.2f}" if self.ratio < 10 else f"{self.ratio:.1f}"
        values = (f"{value:.3g} {self.unit}" for value in (self.ours, self.theirs))
        return [self.measure, *values, f"{ratio} x", self.target, self.verdict]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure fast_channels beside Django Channels.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fail only far from the targets"
    )
    parser.add_argument(
        "--peer-python",
        type=Path,
        metavar="PATH",
        help=f"an interpreter that has channels {_PEER}",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the numbers here too"
    )
    options = parser.parse_args(arguments)
    try:
        return _compare(options.quick, options.peer_python, options.json)
    except (_Failure, OSError) as exc:
        print(f"{parser.prog}: {exc}", file=sys.stderr)
        return 2


def _compare(quick: bool, peer_python: Path | None, json_file: Path | None) -> int:
    peer = str(peer_python or _prepare_peer())
    _check_peer(peer)
    turns, seconds = _QUICK if quick else _FULL
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    for _ in range(turns):
        _keep_best(ours, _measure(sys.executable, "fast_channels", seconds))
        _keep_best(theirs, _measure(peer, "channels", seconds))
    slack = 2 if quick else 1
    lines = [_line(measure, ours, theirs, slack) for measure in _MEASURES]
    where = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    if json_file is not None:
        report = {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "channels": _PEER,
            "quick": quick,
            "measures": [asdict(line) for line in lines],
        }
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    print(where + (", the quick form: half a target will do" if quick else ""))
    _print_table(lines)
    print(
        "(*) by hand: while True: await handler(await receive())\n"
        "Channels' consumers look for unused database connections before each message."
    )
    return 1 if any(line.verdict == _MISSED for line in lines) else 0


# Channels


def _prepare_peer() -> Path:
    """Return an interpreter of our own that has Channels."""
    python = _VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists() and _probe(str(python)) == _expected():
        return python
    print(f"installing channels {_PEER} into {_VENV}", file=sys.stderr)
    try:
        venv.create(_VENV, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise _Failure(f"cannot make a virtual environment in {_VENV}: {exc}") from exc
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, f"channels=={_PEER}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise _Failure(
            f"cannot install channels {_PEER} ({reason}); "
            "name an interpreter that has it with --peer-python"
        )
    return python


def _check_peer(python: str) -> None:
    found = _probe(python)
    if found != _expected():
        raise _Failure(
            f"{python} must have {_expected()}, but "
            + (f"has {found}" if found else "cannot import Channels")
        )


def _expected() -> str:
    return "Python {}.{}, channels {}".format(*sys.version_info[:2], _PEER)


def _probe(python: str) -> str:
    """Return what an interpreter is and has, or nothing if it lacks Channels."""
    code = (
        "import sys, channels\n"
        "print('Python {}.{}, channels {}'.format("
        "*sys.version_info[:2], channels.__version__))"
    )
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


# Measuring


def _measure(python: str, library: str, seconds: float) -> dict[str, float]:
    """Take all measurements in a process of their own."""
    command = [python, "-m", "tests.benchmarks.measures", library, str(seconds)]
    # Development modes of Python and asyncio cost more than anything measured here.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONTRACEMALLOC"}
    }
    try:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired as exc:
        # A consumer that ends early never handles what the measure waits for.
        raise _Failure(f"{' '.join(command)} took over {_TIMEOUT} s") from exc
    except subprocess.CalledProcessError as exc:
        reason = (exc.stderr.strip().splitlines() or ["no output"])[-1]
        raise _Failure(f"{' '.join(command)} failed: {reason}") from exc
    results: dict[str, Any] = json.loads(done.stdout)
    return {key: float(value) for key, value in results.items()}


def _keep_best(best: dict[str, float], results: dict[str, float]) -> None:
    for key, value in results.items():
        best[key] = min(value, best.get(key, value))


# The table


def _line(
    measure: _Measure, ours: dict[str, float], theirs: dict[str, float], slack: float
) -> _Line:
    scale = _UNITS[measure.unit]
    our = ours[measure.key] * scale
    their = theirs[measure.key] * scale
    ratio, target, share = their / our, "", 1.0
    if measure.faster is not None:
        target, share = f">= {measure.faster:g} x", ratio / measure.faster
    elif measure.slower is not None:
        their = ours[f"{measure.key}, by hand"] * scale
        ratio = our / their
        target, share = f"<= {measure.slower:g} x", measure.slower / ratio
    elif measure.at_most is not None:
        target = f"<= {measure.at_most:g} {measure.unit}".rstrip()
        share = 1.0 if our <= measure.at_most else 0.0
    verdict = "ok" if share >= 1 else "in reach" if share * slack >= 1 else _MISSED
    return _Line(
        measure.title, measure.unit, our, their, ratio, target, target and verdict
    )


def _print_table(lines: list[_Line]) -> None:
    head = ["", "fast_channels", f"channels {_PEER} (*)", "ratio", "target", ""]
    rows = [head, *(line.cells() for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = (
            cell.ljust(width) if i in {0, 5} else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


if __name__ == "__main__":
    sys.exit(main())
