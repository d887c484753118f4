"""What the servers of a layer spend, by their own figures."""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from tests.redis_servers.resp import Connection, Reply

__all__ = ["Log", "Meter", "Spent"]

_NEVER = -1
# More commands than any measurement runs.
_ENTRIES = 1_000_000
# The commands of the meter.
_OWN = {b"CONFIG", b"INFO", b"SLOWLOG"}
# The address of commands that scripts run.
_NO_CLIENT = b"?:0"
_FIGURES = (
    "used_cpu_user",
    "used_cpu_sys",
    "total_net_input_bytes",
    "total_net_output_bytes",
)


@dataclass(frozen=True)
class Spent:
    """Sums over the servers since their start, or between two readings."""

    cpu: float
    """CPU seconds, of ``INFO cpu``."""
    read: float
    """Bytes from clients, of ``INFO stats``."""
    written: float
    """Bytes to clients."""

    def __sub__(self, other: Self) -> "Spent":
        return Spent(
            self.cpu - other.cpu, self.read - other.read, self.written - other.written
        )

    def times(self, factor: float) -> "Spent":
        return Spent(self.cpu * factor, self.read * factor, self.written * factor)


@dataclass
class Log:
    """Commands that clients have sent, and the time that each took, of ``SLOWLOG``.

    Redis serves no other client meanwhile.
    """

    commands: int = 0
    longest: float = 0.0
    """Seconds that the slowest command takes. Of each command the fastest call counts,
    as the server can be interrupted on a busy machine."""


class Meter:
    """Reads the figures of servers, whose URLs are given."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._stack = contextlib.ExitStack()
        self._servers = [self._stack.enter_context(_connect(url)) for url in urls]
        for server in self._servers:
            # As by default: in the tests, servers look around more often.
            server.command("CONFIG", "SET", "hz", 10)
        # What reading itself costs, in each difference of two readings.
        self._reading = Spent(0, 0, 0)
        first, second = self._read(), self._read()
        self._reading = second - first

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _read(self) -> Spent:
        sums = dict.fromkeys(_FIGURES, 0.0)
        for server in self._servers:
            for reply in server.pipeline(["INFO", "cpu"], ["INFO", "stats"]):
                for name, value in _fields(reply):
                    if name in sums:
                        sums[name] += float(value)
        user, system, read, written = sums.values()
        return Spent(user + system, read, written)

    @contextlib.contextmanager
    def spending(self) -> Generator[list[Spent]]:
        """Yield a list that holds afterwards what was spent meanwhile."""
        result: list[Spent] = []
        start = self._read()
        yield result
        result.append(self._read() - start - self._reading)

    @contextlib.contextmanager
    def log(self, slower_than: int = 0) -> Generator[Log]:
        """Yield an object that describes afterwards the commands run meanwhile.

        Args:
            slower_than: Ignore commands that take fewer microseconds.
        """
        log = Log()
        for server in self._servers:
            server.command("CONFIG", "SET", "slowlog-max-len", _ENTRIES)
            server.command("SLOWLOG", "RESET")
        self._log_slower_than(slower_than)
        yield log
        self._log_slower_than(_NEVER)
        fastest: dict[tuple[bytes, ...], int] = {}
        for duration, words in self._entries():
            # A script is known by its hash.
            name = tuple(words[: 2 if words[0].upper().startswith(b"EVAL") else 1])
            if name[0].upper() not in _OWN:
                log.commands += 1
                fastest[name] = min(duration, fastest.get(name, duration))
        log.longest = max(fastest.values(), default=0) / 1e6

    def _log_slower_than(self, microseconds: int) -> None:
        for server in self._servers:
            server.command("CONFIG", "SET", "slowlog-log-slower-than", microseconds)

    def _entries(self) -> Iterator[tuple[int, list[bytes]]]:
        for server in self._servers:
            entries = server.command("SLOWLOG", "GET", _ENTRIES)
            assert isinstance(entries, list)
            for entry in entries:
                match entry:
                    case [_, _, int(duration), [*words], bytes(address), _]:
                        if address != _NO_CLIENT:
                            yield duration, [w for w in words if isinstance(w, bytes)]
                    case _:
                        raise AssertionError(f"not an entry of SLOWLOG: {entry!r}")
            server.command("SLOWLOG", "RESET")

    def flush(self) -> None:
        """Empty the servers."""
        for server in self._servers:
            server.command("FLUSHDB")


def _connect(url: str) -> Connection:
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    return Connection(address.hostname, address.port, timeout=60)


def _fields(reply: Reply) -> Iterator[tuple[str, str]]:
    assert isinstance(reply, bytes)
    for line in reply.decode().splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name, value
