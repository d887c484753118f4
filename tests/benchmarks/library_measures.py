"""W5 and W6: fast_channels and Channels in turns, in separate processes."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import table
from .environments import CHANNELS, CHANNELS_REDIS, ROOT, Failure, find_python
from .processes import environment

__all__ = ["WORKLOADS", "LibraryResult", "measure"]

# Turns, seconds for each measurement in a turn, and members of a group.
_FULL = (5, 0.4, 1000)
_QUICK = (1, 0.02, 100)
_TIMEOUT = 120
_NOTE = "Channels' consumers look for unused database connections before each message."


@dataclass(frozen=True)
class _Part:
    """A part of a workload, with its own table."""

    name: str
    """The name of its measures in ``table.MEASURES``."""
    head: Sequence[str]
    module: str
    kind: str = ""
    """The kind of the layers, if they are on Redis."""
    libraries: Sequence[str] = ("fast_channels", "channels")


@dataclass(frozen=True)
class _Workload:
    title: str
    parts: Sequence[_Part]
    note: str


_REDIS_HEAD = ("fast_channels", "channels_redis", "Redis (**)", "theirs")
WORKLOADS = {
    "W5": _Workload(
        title="the operations of a layer, in process",
        parts=[
            _Part("queue", ("queue (*)", *_REDIS_HEAD), "redis_measures", "queue"),
            _Part("pubsub", ("pub/sub (*)", *_REDIS_HEAD), "redis_measures", "pubsub"),
            _Part(
                "copies",
                ("one message for 100 (*)", "a copy for each", "decoding for each"),
                "copy_measures",
                libraries=("fast_channels",),
            ),
        ],
        note=f"(*) CPU of this process: for each operation, and each receiver if there "
        f"are several.\n"
        f"Group messages that are received come from another process, which runs "
        f"channels_redis for both.\n"
        f"Its pub/sub layer does not wait until Redis has confirmed a subscription; "
        f"ours does.\n"
        f"(**) commands that are sent/that run there, those in scripts included.\n"
        f"channels_redis {CHANNELS_REDIS}, with redis-py 7.",
    ),
    "W6": _Workload(
        title="a consumer's dispatch, and groups in memory",
        parts=[_Part("memory", ("", "fast_channels", "channels (*)"), "measures")],
        note=f"(*) by hand: while True: await handler(await receive())\n"
        f"channels {CHANNELS}. {_NOTE}",
    ),
}


@dataclass(frozen=True)
class LibraryResult:
    """The results."""

    name: str
    tables: Sequence[tuple[Sequence[str], Sequence[table.Line]]]
    """Groups of lines, each with its heading."""

    @property
    def met(self) -> bool:
        """Whether every target is met."""
        return all(
            line.verdict != table.MISSED for _, lines in self.tables for line in lines
        )

    def show(self) -> None:
        """Print the results."""
        workload = WORKLOADS[self.name]
        print(f"\n{self.name}: {workload.title}")
        table.print_table(self.tables)
        print(workload.note, flush=True)

    def report(self) -> dict[str, Any]:
        """Return the results for JSON."""
        return {
            "workload": self.name,
            "title": WORKLOADS[self.name].title,
            "tables": [
                {"head": head, "lines": [asdict(line) for line in lines]}
                for head, lines in self.tables
            ],
        }


def measure(name: str, redis_url: str, quick: bool) -> LibraryResult:
    """Measure one of ``WORKLOADS``.

    Raises:
        Failure: Something cannot be measured.
    """
    parts = WORKLOADS[name].parts
    return LibraryResult(
        name, [(part.head, _measure(part, redis_url, quick)) for part in parts]
    )


def _measure(part: _Part, redis_url: str, quick: bool) -> list[table.Line]:
    """Let the libraries take turns, and compare the best of each."""
    pythons = {"fast_channels": find_python(""), "channels": find_python("channels")}
    turns, seconds, largest = _QUICK if quick else _FULL
    arguments = [str(seconds)]
    if part.kind:
        arguments += [str(largest), part.kind, redis_url, str(pythons["channels"])]
    best: dict[str, dict[str, float]] = {"fast_channels": {}, "channels": {}}
    for _ in range(turns):
        for library in part.libraries:
            command = [str(pythons[library]), "-m", f"tests.benchmarks.{part.module}"]
            results = _run([*command, library], arguments)
            for key, value in results.items():
                best[library][key] = min(value, best[library].get(key, value))
    slack = 2 if quick else 1
    return [
        table.compare(each, best["fast_channels"], best["channels"], slack)
        for each in table.MEASURES[part.name]
        # A quick run omits large groups.
        if each.key in best["fast_channels"]
    ]


def _run(command: list[str], arguments: list[str]) -> dict[str, float]:
    """Take the measurements in a separate process."""
    try:
        done = subprocess.run(
            command + arguments,
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired as exc:
        # A consumer that ends early never handles the expected messages.
        raise Failure(f"{' '.join(command)} took over {_TIMEOUT} s") from exc
    except subprocess.CalledProcessError as exc:
        reason = (exc.stderr.strip().splitlines() or ["no output"])[-1]
        raise Failure(f"{' '.join(command)} failed: {reason}") from exc
    results: dict[str, Any] = json.loads(done.stdout)
    return {key: float(value) for key, value in results.items()}
