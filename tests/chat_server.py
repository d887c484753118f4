"""Run the example application in its own process, as a user would."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["ChatServer", "start_chat"]

_CHECKOUT = Path(__file__).parents[1]


def start_chat(
    *arguments: str, redis_url: str | None = None, redis_layer: str | None = None
) -> subprocess.Popen[str]:
    """Start ``python -m examples`` with arguments.

    Args:
        *arguments: Arguments for the command line.
        redis_url: The value of REDIS_URL; None leaves it unset.
        redis_layer: The value of REDIS_LAYER; None leaves it unset.
    """
    own = {"REDIS_URL": redis_url, "REDIS_LAYER": redis_layer}
    environment = {k: v for k, v in os.environ.items() if k not in own}
    environment |= {k: v for k, v in own.items() if v is not None}
    return subprocess.Popen(
        [sys.executable, "-m", "examples", *arguments],
        cwd=_CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class ChatServer:
    """The chat, served while the ``with`` block runs.

    The server can be stopped and restarted on the same port within the block.
    """

    def __init__(
        self, redis_url: str | None = None, redis_layer: str | None = None
    ) -> None:
        self.redis_url = redis_url
        """The value of REDIS_URL; None leaves it unset."""
        self.redis_layer = redis_layer
        """The value of REDIS_LAYER; None leaves it unset."""
        self.url = ""
        """The address that the process prints."""
        self.layer = ""
        """The printed description of its layer."""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self.stop()

    def start(self) -> None:
        """Start the process; clients can connect once this returns."""
        port = self.url.rpartition(":")[2] or "0"
        self._process = start_chat(
            "--port", port, redis_url=self.redis_url, redis_layer=self.redis_layer
        )
        assert self._process.stdout is not None
        lines = self._process.stdout.readline(), self._process.stdout.readline()
        if not lines[0].startswith("Chat: http://"):
            _, stderr = self._process.communicate()
            raise AssertionError(f"the chat did not start: {lines}{stderr}")
        self.url = lines[0].removeprefix("Chat: ").rstrip("\n")
        self.layer = lines[1].removeprefix("Layer: ").rstrip("\n")

    def kill(self) -> None:
        """Kill the process, as if its machine had failed."""
        assert self._process is not None
        process, self._process = self._process, None
        process.kill()
        process.communicate()

    def stop(self) -> tuple[int, str, str]:
        """Press Ctrl-C; return the exit code and the output on stdout and stderr."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(signal.SIGINT)
        try:
            stdout, stderr = process.communicate(timeout=10)
        finally:
            process.kill()
        return process.returncode, stdout, stderr
