"""The interpreter that has Channels, and not fast_channels."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["CHANNELS", "CHANNELS_REDIS", "ROOT", "Failure", "check", "prepare"]

CHANNELS = "4.3.2"
CHANNELS_REDIS = "4.3.0"
ROOT = Path(__file__).parents[2]
_VENV = ROOT / ".venv-benchmarks"
# With redis-py 8 a reader of channels_redis that finds nothing for 5 seconds dies of a
# timeout. It is also slower with it, so that the comparison is fair with redis-py 7.
_OLDEST_REDIS_TOO_NEW = 8
_REQUIREMENTS = (
    f"channels=={CHANNELS}",
    f"channels_redis=={CHANNELS_REDIS}",
    "hiredis",
    f"redis<{_OLDEST_REDIS_TOO_NEW}",
)
_PROBE = """
import importlib.metadata, json, sys
found = {"Python": "{}.{}".format(*sys.version_info[:2])}
for name in ("channels", "channels_redis", "hiredis", "redis"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class Failure(Exception):
    """Says in one line why there is nothing to print."""


def prepare() -> Path:
    """Return an interpreter of our own that has what Channels needs.

    Raises:
        Failure: It cannot be made.
    """
    python = _VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists() and not _misses(python):
        return python
    packages = ", ".join(_REQUIREMENTS)
    print(f"installing {packages} into {_VENV}", file=sys.stderr)
    try:
        venv.create(_VENV, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise Failure(f"cannot make a virtual environment in {_VENV}: {exc}") from exc
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, *_REQUIREMENTS], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise Failure(
            f"cannot install {packages} ({reason}); "
            "name an interpreter that has them with --peer-python"
        )
    return python


def check(python: Path) -> None:
    """Return if an interpreter has what is measured, and is of our version of Python.

    Raises:
        Failure: It is not, or has something else.
    """
    if misses := _misses(python):
        raise Failure(f"{python}: {'; '.join(misses)}")


def _misses(python: Path) -> list[str]:
    """Return what an interpreter should have and has not."""
    done = subprocess.run(
        [python, "-c", _PROBE], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return [f"does not run: {done.stderr.strip()[-200:]}"]
    found: dict[str, str] = json.loads(done.stdout)
    expected = {
        "Python": "{}.{}".format(*sys.version_info[:2]),
        "channels": CHANNELS,
        "channels_redis": CHANNELS_REDIS,
    }
    misses = [
        f"{name} {version} is needed, and it has {found.get(name, 'none')}"
        for name, version in expected.items()
        if found.get(name) != version
    ]
    if "hiredis" not in found:
        misses.append("hiredis is needed")
    redis = found.get("redis", "none")
    if redis == "none" or int(redis.split(".")[0]) >= _OLDEST_REDIS_TOO_NEW:
        misses.append(f"redis before {_OLDEST_REDIS_TOO_NEW} is needed, not {redis}")
    return misses
