"""Measures the library beside Django Channels, and prints ratios.

    python -m tests.benchmarks [--quick] [--only memory|redis] [--peer-python PATH]
        [--json FILE]

The two libraries take turns, each in processes of its own, and the best result of each
counts: on a machine that has other things to do only the ratios of one run mean
something. Channels and channels_redis come from PyPI, into a virtual environment that
is kept in ``.venv-benchmarks``, unless ``--peer-python`` names an interpreter that has
them. What goes through Redis is measured on one server, which starts and ends here.

It exits with 0 if every target is met, and with 1 if one is missed. ``--quick`` takes
less than 35 seconds, and fails only for a ratio that is not even half of its target;
what takes room, and no time, has to meet its target there too. It exits with 2 if
Channels or a server cannot be had or a measurement fails.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.redis_servers.binary import ServerNotFoundError, find_server
from tests.redis_servers.server import RedisServer

from . import peer, table

# So many turns, and seconds for each measurement in each of them.
_FULL = (5, 0.4)
_QUICK = (2, 0.05)
_TIMEOUT = 120
_HEADS = {
    "memory": ["In memory", "fast_channels", f"channels {peer.CHANNELS} (*)", "ratio"],
    "redis": [
        "Redis, CPU of the process (*)",
        "fast_channels",
        f"channels_redis {peer.CHANNELS_REDIS} (*)",
        "ratio",
    ],
}
_NOTES = {
    "memory": "(*) by hand: while True: await handler(await receive())",
    "redis": (
        "(*) CPU: for each message, and for each receiver if there are several. The\n"
        "group messages that are received come from another process, which runs\n"
        "channels_redis for both."
    ),
}
_NOTE = "Channels' consumers look for unused database connections before each message."


@dataclass(frozen=True)
class _Options:
    """What the command line says."""

    quick: bool
    groups: Sequence[str]
    peer_python: Path | None
    json_file: Path | None


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
        "--only", choices=table.MEASURES, help="measure one half of the table only"
    )
    parser.add_argument(
        "--peer-python",
        type=Path,
        metavar="PATH",
        help=f"an interpreter that has channels {peer.CHANNELS}, "
        f"channels_redis {peer.CHANNELS_REDIS}, hiredis, and redis before 8",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the numbers here too"
    )
    given = parser.parse_args(arguments)
    options = _Options(
        quick=given.quick,
        groups=[given.only] if given.only else list(table.MEASURES),
        peer_python=given.peer_python,
        json_file=given.json,
    )
    try:
        return _run(options)
    except (peer.Failure, ServerNotFoundError, OSError) as exc:
        print(f"{parser.prog}: {exc}", file=sys.stderr)
        return 2


def _run(options: _Options) -> int:
    peer_python = options.peer_python or peer.prepare()
    peer.check(peer_python)
    about: dict[str, Any] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "quick": options.quick,
        "channels": peer.CHANNELS,
    }
    slack = 2 if options.quick else 1
    lines: dict[str, list[table.Line]] = {}
    with contextlib.ExitStack() as stack:
        for group in options.groups:
            command = ["tests.benchmarks.measures"]
            if group == "redis":
                binary = find_server()
                server = stack.enter_context(RedisServer(binary))
                version = ".".join(map(str, binary.version))
                about["server"] = f"{binary.flavor} {version}"
                about["channels_redis"] = peer.CHANNELS_REDIS
                module = "tests.benchmarks.redis_measures"
                command = [module, server.url, str(peer_python)]
            ours, theirs = _take_turns(command, peer_python, options.quick)
            lines[group] = [
                table.compare(measure, ours, theirs, slack)
                for measure in table.MEASURES[group]
            ]
    if options.json_file is not None:
        report = about | {
            "measures": [
                {"group": group} | asdict(line)
                for group, in_group in lines.items()
                for line in in_group
            ]
        }
        options.json_file.write_text(json.dumps(report, indent=2) + "\n")
    heading = [f"Python {about['python']}", f"{about['cores']} cores"]
    if "server" in about:
        heading.append(about["server"])
    if options.quick:
        heading.append("the quick form: half a target will do")
    print(", ".join(heading))
    table.print_table([(_HEADS[group], lines[group]) for group in options.groups])
    print(*(_NOTES[group] for group in options.groups), _NOTE, sep="\n")
    verdicts = {line.verdict for in_group in lines.values() for line in in_group}
    return 1 if table.MISSED in verdicts else 0


def _take_turns(
    command: Sequence[str], peer_python: Path, quick: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the best results of each library."""
    turns, seconds = _QUICK if quick else _FULL
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    for _ in range(turns):
        for best, python, library in (
            (ours, sys.executable, "fast_channels"),
            (theirs, peer_python, "channels"),
        ):
            module, *others = command
            arguments = [module, library, str(seconds), *others]
            results = _measure([str(python), "-m", *arguments])
            for key, value in results.items():
                best[key] = min(value, best.get(key, value))
    return ours, theirs


def _measure(command: list[str]) -> dict[str, float]:
    """Take the measurements of one group in a process of their own."""
    # Development modes of Python and asyncio cost more than anything measured here.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONTRACEMALLOC"}
    }
    try:
        done = subprocess.run(
            command,
            cwd=peer.ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired as exc:
        # A consumer that ends early never handles what the measure waits for.
        raise peer.Failure(f"{' '.join(command)} took over {_TIMEOUT} s") from exc
    except subprocess.CalledProcessError as exc:
        reason = (exc.stderr.strip().splitlines() or ["no output"])[-1]
        raise peer.Failure(f"{' '.join(command)} failed: {reason}") from exc
    results: dict[str, Any] = json.loads(done.stdout)
    return {key: float(value) for key, value in results.items()}


if __name__ == "__main__":
    sys.exit(main())
