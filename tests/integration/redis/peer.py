"""Layers in separate processes: of Django Channels, and of the previous version.

Django Channels comes from PyPI and has its own interpreter. The previous version of
this library comes from the history of the repository and runs in this interpreter.
"""

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import subprocess
import threading
import venv
import zipfile
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, TypeAlias

from packaging.requirements import Requirement

from tests.integration.redis import peer_process
from tests.integration.redis.peer_process import decode, encode

__all__ = [
    "Message",
    "Peer",
    "PeerError",
    "PeerProcess",
    "find_python",
    "unpack_previous",
]

Message: TypeAlias = dict[str, Any]

ENVIRONMENT = "FAST_CHANNELS_TEST_PEER_PYTHON"
REQUIREMENTS = (
    "channels==4.3.2",
    "channels_redis==4.3.0",
    # From version 8 on, clients time out by default after 5 seconds without an answer:
    # channels_redis then ends each receive() that is idle for so long.
    "redis<8",
    "cryptography",
    "hiredis",
)

# The last version in which groups list every channel by name. Versions before and after
# it share groups during a rolling update.
_PREVIOUS = (
    Path(__file__).with_name("previous") / "fast_channels-2.0.0-py3-none-any.whl"
)

_ROOT = Path(__file__).parents[3]
_VENV = _ROOT / ".venv-channels"
_INSTALL_TIMEOUT = 600
_TIMEOUT = 10
_ENDED = "the process of the peer has ended"
# An incomplete installation could have the metadata too.
_PROBE = """
import json, sys
from importlib.metadata import version
import channels_redis.core, cryptography.fernet, hiredis
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


class PeerError(Exception):
    """A peer is not available, or a command failed."""


# The interpreter


def find_python() -> Path:
    """Find an interpreter with Django Channels: a named one, or the project's own.

    The project's own is created on first use, and kept in the project's folder.

    Raises:
        PeerError: There is none. The message says why and what to do.
    """
    if named := os.environ.get(ENVIRONMENT):
        if problem := _problem(Path(named)):
            raise PeerError(f"{named}, which {ENVIRONMENT} names, {problem}")
        return Path(named)
    python = _VENV / "bin/python"
    with _alone():
        if _problem(python):
            _install(python)
    return python


@contextlib.contextmanager
def _alone() -> Generator[None]:
    """Wait until no other test process is installing the interpreter."""
    _VENV.mkdir(exist_ok=True)
    # The lock is on the folder itself, which stays when its contents are replaced; it
    # ends with the process at the latest.
    folder = os.open(_VENV, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _problem(python: Path) -> str:
    """Return what is missing in an interpreter; empty if it can be used."""
    requirements = [Requirement(line) for line in REQUIREMENTS]
    names = [requirement.name for requirement in requirements]
    try:
        done = subprocess.run(
            [python, "-I", "-c", _PROBE, *names],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        return f"cannot import Django Channels: {_last_words(exc)}"
    versions: dict[str, str] = json.loads(done.stdout)
    return ", ".join(
        f"must have {requirement} and has {versions[requirement.name]}"
        for requirement in requirements
        if not requirement.specifier.contains(versions[requirement.name])
    )


def _install(python: Path) -> None:
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    try:
        venv.create(_VENV, clear=True, with_pip=True)
        subprocess.run(
            [*pip, *REQUIREMENTS],
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise PeerError(
            f"cannot install {' '.join(REQUIREMENTS)} into {_VENV}: "
            f"{_last_words(exc, lines=5)}\n"
            f"Or set {ENVIRONMENT} to an interpreter that has them."
        ) from exc
    if problem := _problem(python):
        raise PeerError(f"{python}, which was just created, {problem}")


def _last_words(exc: Exception, *, lines: int = 1) -> str:
    words = exc.stderr if isinstance(exc, subprocess.CalledProcessError) else None
    return "\n".join((words or str(exc)).strip().splitlines()[-lines:])


# The process


class Peer:
    """A layer in a separate process.

    A cancelled command is still performed.
    """

    def __init__(self, process: "PeerProcess", number: int) -> None:
        self._process = process
        self._number = number

    async def new_channel(self) -> str:
        name: str = await self._command("new_channel")
        return name

    async def send(self, channel: str, message: Message) -> None:
        await self._command("send", channel, message)

    async def receive(self, channel: str) -> Message:
        message: Message = await self._command("receive", channel)
        return message

    async def group_add(self, group: str, channel: str) -> None:
        await self._command("group_add", group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        await self._command("group_discard", group, channel)

    async def group_send(self, group: str, message: Message) -> None:
        await self._command("group_send", group, message)

    async def _command(self, name: str, *arguments: object) -> Any:
        return await self._process.command(self._number, name, *arguments)


class PeerProcess:
    """A process with any number of layers, which runs until it is closed.

    It serves several event loops, so tests can share it.

    Args:
        python: The interpreter.
        folder: The folder of a version of this library, for layers of that version.
    """

    def __init__(self, python: Path, folder: Path | None = None) -> None:
        self._process = subprocess.Popen(
            # Imports must not depend on this folder or the environment.
            [python, "-I", peer_process.__file__, *([folder] if folder else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._numbers = itertools.count()
        # Commands in flight, by number.
        self._answers: dict[int, Future[Any]] = {}
        self._ended = False
        self._reader = threading.Thread(target=self._read_answers, daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Let the process close its layers and end.

        Raises:
            PeerError: It ended with an error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            # The process may have ended already.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            code = self._process.wait(_TIMEOUT)
        finally:
            self._process.kill()
            self._reader.join()
            self._process.stdout.close()
        if code:
            raise PeerError(f"{_ENDED} with exit code {code}")

    @contextlib.asynccontextmanager
    async def layer(
        self, kind: Literal["core", "pubsub", "ours", "our pubsub"], **options: Any
    ) -> AsyncGenerator[Peer]:
        """Open a layer until the block ends.

        Args:
            kind: The module of channels_redis, or this library.
            options: Options of the layer.
        """
        number = next(self._numbers)
        await self.command(number, "open", kind, options)
        try:
            yield Peer(self, number)
        finally:
            await self.command(number, "close")

    async def command(self, layer: int, name: str, *arguments: object) -> Any:
        """Run a command on a layer, and return the result.

        Raises:
            PeerError: The command failed, or took too long.
        """
        assert self._process.stdin is not None
        number = next(self._numbers)
        answer = self._answers[number] = Future[Any]()
        if self._ended:
            raise PeerError(_ENDED)
        self._process.stdin.write(encode([number, layer, name, *arguments]))
        self._process.stdin.flush()
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await asyncio.wrap_future(answer)
        except TimeoutError:
            raise PeerError(f"{name}{arguments} took over {_TIMEOUT} s") from None

    def _read_answers(self) -> None:
        """Deliver answers to the waiting commands until the process ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            number, result, error = decode(line)
            answer = self._answers.pop(number)
            # False if the caller was cancelled.
            if answer.set_running_or_notify_cancel():
                if error is None:
                    answer.set_result(result)
                else:
                    answer.set_exception(PeerError(error))
        self._ended = True
        for answer in list(self._answers.values()):
            if answer.set_running_or_notify_cancel():
                answer.set_exception(PeerError(_ENDED))


def unpack_previous(folder: Path) -> Path:
    """Unpack the previous version into a folder, and return where it is."""
    with zipfile.ZipFile(_PREVIOUS) as wheel:
        wheel.extractall(folder)
    return folder
