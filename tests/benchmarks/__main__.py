"""Compare the library with its peers, and print ratios.

    python -m tests.benchmarks [--workload W1,W2] [--peers ours,bare] [--rounds 5]
        [--quick] [--json FILE] [--plot FILE]

======== ===========================================================================
W1       one group of 500 WebSockets, the publisher in another process
W2       50 rooms of 10 WebSockets, every client sends
W3       connect, join, leave, disconnect
W4       2000 idle connections: memory, and CPU while idle
W5       the operations of a layer, in process, and their Redis commands
W6       a consumer's dispatch, and groups in memory
W7       W1 in groups of 10 to 5000, on 1, 2 and 4 servers
W8       groups of 1000 to 100,000 in 1, 4 and 20 processes: the cost for Redis
======== ===========================================================================

Each peer is installed in its own environment, kept in ``.venv-benchmarks``. The peers
take turns, since on a machine with other load only the ratios of one run are
meaningful: medians of the rounds are compared, W5 and W6 compare the best. All servers
are uvicorn with the same options, on uvloop, and their CPU time is compared. The Redis
server is started and stopped here.

To compare two versions of this library, set ``FAST_CHANNELS_BENCHMARKS_BEFORE`` to a
checkout of the other one, and measure ``--peers ours,before``, with ``-queue`` or
``-memory`` after each name for the other layers.

The exit code is 0 if every target is met, 1 if one is missed, and 2 if a measurement
fails. ``--quick`` measures very little, to show that everything runs: it fails only for
a ratio of W5 or W6 below half of its target.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.redis_servers.binary import ServerNotFoundError, find_server
from tests.redis_servers.server import RedisServer

from . import large_groups, library_measures, plots
from .environments import Failure
from .peers import PEERS
from .rounds import Result, Run
from .workloads import WORKLOADS

_ROUNDS = 5
_QUICK_ROUNDS = 1


@dataclass(frozen=True)
class _Options:
    """The options of the command line."""

    workloads: Sequence[str]
    peers: Sequence[str]
    rounds: int
    quick: bool
    json_file: Path | None
    plot_file: Path | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks."""
    options = _parse(arguments)
    try:
        return _run(options)
    except (Failure, ServerNotFoundError, OSError) as exc:
        print(f"tests.benchmarks: {exc}", file=sys.stderr)
        return 2


def _parse(arguments: Sequence[str] | None) -> _Options:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure fast_channels beside its peers.",
    )
    names = [*WORKLOADS, *library_measures.WORKLOADS, "W7", "W8"]
    parser.add_argument(
        "--workload",
        type=_some_of(sorted(names)),
        default=sorted(names),
        help="workloads to measure, separated by commas; default: all",
    )
    parser.add_argument(
        "--peers",
        type=_some_of(list(PEERS)),
        default=[name for name in PEERS if not name.startswith("before")],
        help=f"peers to measure, of {', '.join(PEERS)}; default: all",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        help=f"turns of each peer; default: {_ROUNDS}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="show that everything runs"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the results to this file"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="plot the results into this PNG"
    )
    given = parser.parse_args(arguments)
    return _Options(
        workloads=given.workload,
        peers=given.peers,
        rounds=given.rounds or (_QUICK_ROUNDS if given.quick else _ROUNDS),
        quick=given.quick,
        json_file=given.json,
        plot_file=given.plot,
    )


def _some_of(names: list[str]) -> Any:
    """Return a parser for some of these names, separated by commas."""

    def parse(text: str) -> list[str]:
        for name in (given := text.split(",")):
            if name not in names:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is not one of {', '.join(names)}"
                )
        return given

    return parse


def _run(options: _Options) -> int:
    binary = find_server()
    version = ".".join(map(str, binary.version))
    about: dict[str, Any] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "server": f"{binary.flavor} {version}",
        "rounds": options.rounds,
        "quick": options.quick,
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    met = True
    report: list[dict[str, Any]] = []
    with RedisServer(binary) as server:
        run = Run(server.url, options.rounds, options.quick)
        for name in options.workloads:
            result: Result | library_measures.LibraryResult
            if name in WORKLOADS:
                result = run.workload(name, options.peers)
            elif name == "W7":
                result = run.scaling(options.peers)
            elif name == "W8":
                result = large_groups.measure(
                    server.url, options.peers, options.rounds, quick=options.quick
                )
            else:
                result = library_measures.measure(name, server.url, options.quick)
            result.show()
            met = met and result.met
            report.append(result.report())
    if options.json_file is not None:
        text = json.dumps(about | {"workloads": report}, indent=2)
        options.json_file.write_text(text + "\n")
    if options.plot_file is not None:
        plots.draw(report, options.plot_file)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
