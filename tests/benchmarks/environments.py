"""A virtual environment for each peer, kept in ``.venv-benchmarks``."""

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

__all__ = ["BEFORE", "CHANNELS", "CHANNELS_REDIS", "ROOT", "Failure", "find_python"]

BEFORE = "FAST_CHANNELS_BENCHMARKS_BEFORE"
"""The variable that names another checkout of this library, to compare with."""
CHANNELS = "4.3.2"
CHANNELS_REDIS = "4.3.0"
ROOT = Path(__file__).parents[2]
_FOLDER = ROOT / ".venv-benchmarks"
# All servers have the same releases, as do the packages that several peers share.
_SERVER = ("httptools", "uvicorn", "uvloop", "websockets")
_REDIS = ("hiredis", "redis")
_REQUIREMENTS = {
    "before": (os.environ.get(BEFORE, ""), "msgpack", "starlette", *_SERVER, *_REDIS),
    "bare": ("starlette", *_SERVER, *_REDIS),
    "broadcaster": ("broadcaster[redis]==0.3.1", "starlette", *_SERVER, *_REDIS),
    # With redis-py 8, an idle reader of channels_redis fails with a timeout after 5
    # seconds. It is also slower with it, so redis-py 7 is the fair choice.
    "channels": (
        f"channels=={CHANNELS}",
        f"channels_redis=={CHANNELS_REDIS}",
        "hiredis",
        "redis<8",
        *_SERVER,
    ),
    "clients": ("picows>=2", "uvloop"),
    "litestar": ("litestar>=2.20", *_SERVER, *_REDIS),
    "picows": ("picows>=2", "uvloop", *_REDIS),
    "plots": ("matplotlib>=3.9",),
    "socketio": ("python-socketio>=5.11", *_SERVER, *_REDIS),
}


class Failure(Exception):
    """A failure, with a one-line reason."""


def find_python(name: str) -> Path:
    """Return the interpreter of an environment, which is created if necessary.

    Args:
        name: The name of the environment; empty for the current one.

    Raises:
        Failure: The environment cannot be created.
    """
    if not name:
        return Path(sys.executable)
    requirements = [
        f"{requirement}=={version(requirement)}"
        if requirement.isalpha()
        else requirement
        for requirement in _REQUIREMENTS[name]
    ]
    folder = _FOLDER / name
    python = folder / "bin" / "python"
    installed = folder / "installed.json"
    wanted = json.dumps([sys.version, *requirements])
    if installed.exists() and installed.read_text() == wanted:
        return python
    print(f"installing {', '.join(requirements)}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    # The first takes seconds; the second is part of Python.
    if uv := shutil.which("uv"):
        _run([uv, "venv", "-q", "--python", sys.executable, str(folder)])
        install = [uv, "pip", "install", "-q", "--python", str(python)]
    else:
        venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-q"]
    _run([*install, *requirements])
    installed.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise Failure(f"{' '.join(command)} failed: {reason}")
