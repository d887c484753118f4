"""Processes that answer each line of JSON on stdin with one on stdout."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .environments import ROOT, Failure

__all__ = ["Process", "environment"]

_TIMEOUT = 10


def environment() -> dict[str, str]:
    """Return the environment variables for the measured processes.

    The development modes of Python and asyncio cost more than anything measured here.
    """
    modes = {"PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONTRACEMALLOC"}
    return {name: value for name, value in os.environ.items() if name not in modes}


class Process:
    """A module of the benchmarks in an interpreter, for the time of a block."""

    def __init__(self, python: Path, module: str, *arguments: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 # closed by __exit__
        self._command = [str(python), "-m", f"tests.benchmarks.{module}", *arguments]
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.first = self._read()
        """The first line of its output."""

    def ask(self, order: str, *arguments: Any) -> dict[str, Any]:
        """Send an order, and return the answer.

        Raises:
            Failure: The process has failed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([order, *arguments]) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._errors.seek(0)
        reason = self._errors.read().strip().splitlines() or ["no output"]
        raise Failure(f"{' '.join(self._command)} failed: {reason[-1]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait(_TIMEOUT)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            stream.close()
