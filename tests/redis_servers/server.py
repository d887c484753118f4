"""Real servers on the loopback interface that end together with the tests."""

import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.resp import Connection, Reply, ReplyError

HOST = "127.0.0.1"
START_TIMEOUT = 15.0

# The kernel kills the server when the thread that started it ends (PR_SET_PDEATHSIG is
# 1), so that a test process that is killed leaves no server behind. This is done by a
# program, as preexec_fn is unsafe with other threads: pytest-timeout has one.
_DIE_WITH_PARENT = """
import ctypes, os, sys
parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""
# The thread that starts servers lives as long as the process.
_starter = ThreadPoolExecutor(1, "redis-servers")


def wait_until(
    condition: Callable[[], bool], what: str, timeout: float, *, pause: float = 0.002
) -> None:
    """Check until a condition holds; a server that does not answer counts as false.

    Args:
        condition: Returns true when it holds.
        what: Describes the condition in the error.
        timeout: Maximum seconds to wait.
        pause: Seconds between two checks.

    Raises:
        TimeoutError: The condition did not hold in time.
    """
    end = time.monotonic() + timeout
    while True:
        last: Exception | None = None
        try:
            if condition():
                return
        except (OSError, ReplyError) as error:
            last = error
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout} s in vain: {what}") from last
        time.sleep(pause)


def free_port(host: str = HOST) -> int:
    """Choose a port that nothing listens on.

    The port is below the range that the kernel assigns to clients. Within that range, a
    client that reconnects to a stopped server can be assigned the server's port as its
    own; it is then connected to itself, and the server cannot restart.
    """
    while True:
        # Not from random, which a test may have seeded: two runs of the tests at the
        # same time would choose the same ports.
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket(_family(host)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def text(reply: Reply) -> str:
    """Decode a reply that is a single string."""
    assert isinstance(reply, bytes)
    return reply.decode()


class RedisServer:
    """A server with its own port and folder, which starts empty.

    As a context manager, it runs inside the ``with`` block. Its data is lost when it
    ends, unless `persist` is true.
    """

    # The parent of its folder; by default the one for temporary files.
    _place: Path | None = None

    def __init__(
        self,
        binary: ServerBinary,
        *,
        host: str = HOST,
        persist: bool = False,
        password: str | None = None,
        unix_socket: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        self.binary = binary
        self.host = host
        self.persist = persist
        self.password = password
        self.options = tuple(options)
        self.port = 0
        self.paused = False
        self.folder = Path(tempfile.mkdtemp(prefix="fast-channels-", dir=self._place))
        self.socket_path = self.folder / "redis.sock" if unix_socket else None
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "not running"
        return f"<{type(self).__name__} {self.host}:{self.port}, {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis://{secret}{host}:{self.port}"

    @property
    def unix_url(self) -> str:
        assert self.socket_path is not None, "unix_socket=True opens one"
        secret = f":{self.password}@" if self.password else ""
        return f"unix://{secret}{self.socket_path}"

    @property
    def running(self) -> bool:
        """Whether the process exists, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was never started"
        return self._process.pid

    # Starting and stopping

    def start(self) -> None:
        """Start, on the previous port if there was one, and wait until it answers.

        Raises:
            RuntimeError: The server ends at once; the message has its last output.
        """
        end = time.monotonic() + START_TIMEOUT
        first = self.port == 0
        if first:
            self.port = free_port(self.host)
        while not self.try_start():
            if time.monotonic() > end:
                raise RuntimeError(f"another process listens on port {self.port}")
            if first:
                self.port = free_port(self.host)

    def try_start(self) -> bool:
        """Start on the port that is set; return whether the port was free.

        Raises:
            RuntimeError: The server ends at once; the message has its last output.
        """
        assert not self.running, f"{self!r} runs already"
        self._process = self._spawn()
        wait_until(self._started_or_ended, "the server answers", START_TIMEOUT)
        if self.running:
            return True
        words = self._log.read_text(errors="replace")
        if "in use" not in words:
            raise RuntimeError(f"{self.binary} did not start:\n{words[-2000:]}")
        return False

    def restart(
        self, *, wipe: bool = False, options: Sequence[str] | None = None
    ) -> None:
        """Stop, unless it is dead already, and start on the same port.

        Args:
            wipe: Delete the persisted data.
            options: Options for the command line, from now on.
        """
        self.stop()
        if wipe:
            shutil.rmtree(self._data, ignore_errors=True)
        if options is not None:
            self.options = tuple(options)
        self.start()

    def pause(self) -> None:
        """Freeze the process: its port accepts connections, but nothing answers."""
        assert self.running, f"{self!r} cannot be paused"
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)
        self.paused = True

    def resume(self) -> None:
        """Resume a paused process."""
        self._signal(signal.SIGCONT)
        self.paused = False

    def kill(self) -> None:
        """Kill the process, as a crash would."""
        self._signal(signal.SIGKILL)
        self._wait()
        self.paused = False

    def stop(self) -> None:
        """Terminate the process, and wait until it has ended."""
        self.resume()
        self._signal(signal.SIGTERM)
        self._wait()

    def close(self) -> None:
        """Stop the server for good, and remove its folder."""
        atexit.unregister(self.close)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # Commands

    def connect(self, *, timeout: float = 5) -> Connection:
        """Open a connection for several commands."""
        connection = Connection(self.host, self.port, timeout=timeout)
        if self.password is not None:
            try:
                connection.command("AUTH", self.password)
            except BaseException:
                connection.close()
                raise
        return connection

    def command(self, *words: str | bytes | int) -> Reply:
        """Send one command on a new connection."""
        with self.connect() as connection:
            return connection.command(*words)

    def info(self, section: str) -> dict[str, str]:
        lines = text(self.command("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def command_counts(self) -> dict[str, int]:
        """Count the calls of each command since the start, by lower-case name."""
        stats = self.info("commandstats").items()
        return {
            name.removeprefix("cmdstat_"): int(_fields(values, ",")["calls"])
            for name, values in stats
        }

    def clients(self) -> list[dict[str, str]]:
        """List the connected clients, without the one that sends this command."""
        with self.connect() as connection:
            own = str(connection.command("CLIENT", "ID"))
            lines = text(connection.command("CLIENT", "LIST")).splitlines()
        found = [_fields(line, " ") for line in lines]
        return [client for client in found if client["id"] != own]

    def kill_clients(self) -> None:
        """Close every other connection, as a broken network would."""
        for kind in ("normal", "pubsub"):
            self.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def keys(self, prefix: str) -> list[bytes]:
        """List the keys that begin with a prefix, which must not contain wildcards."""
        found: set[bytes] = set()
        cursor = b"0"
        with self.connect() as connection:
            while True:
                reply = connection.command(
                    "SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 1000
                )
                match reply:
                    case [bytes(cursor), list(page)]:
                        found.update(key for key in page if isinstance(key, bytes))
                    case _:
                        raise AssertionError(f"not the reply to SCAN: {reply!r}")
                if cursor == b"0":
                    return sorted(found)

    def delete_keys(self, prefix: str) -> None:
        """Delete the keys that begin with a prefix."""
        # In a cluster, a command can have keys of one slot only.
        if unlinks := [("UNLINK", key) for key in self.keys(prefix)]:
            with self.connect() as connection:
                connection.pipeline(*unlinks)

    # The process

    def _arguments(self) -> list[str]:
        arguments = ["--port", str(self.port), "--bind", self.host]
        arguments += ["--dir", str(self._data)]
        arguments += ["--save", "", "--appendonly", "yes" if self.persist else "no"]
        # Acknowledged data has been written, so it survives a killed process.
        arguments += ["--appendfsync", "no", "--repl-diskless-sync-delay", "0"]
        # The server checks this often per second whether it should stop.
        arguments += ["--hz", "50"]
        if self.password is not None:
            arguments += ["--requirepass", self.password]
        if self.socket_path is not None:
            arguments += ["--unixsocket", str(self.socket_path)]
        return [*arguments, *self.options]

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._data.mkdir(exist_ok=True)
        command = [str(self.binary.path), *self._arguments()]
        if sys.platform == "linux":
            python = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT]
            command = [*python, str(os.getpid()), *command]
        with self._log.open("wb") as log:
            return _starter.submit(
                subprocess.Popen[bytes],
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            ).result()

    def _started_or_ended(self) -> bool:
        if not self.running:
            return True
        # Another server may have taken the port and be the one that answers.
        ours = self.info("server")["process_id"] == str(self.pid)
        return ours and self.command("PING") == "PONG"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _wait(self) -> None:
        if self._process is not None:
            self._process.wait(15)


def _fields(line: str, separator: str) -> dict[str, str]:
    """Parse a line of the form name=value, name=value."""
    return dict(field.split("=", 1) for field in line.split(separator))
