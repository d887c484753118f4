"""A blocking client that is small enough to be trusted.

Tests inspect and break servers with this client. It doesn't share code with the
client of fast_channels, so it cannot hide that client's faults.
"""

import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeAlias

Reply: TypeAlias = "str | int | bytes | list[Reply] | None"
"""A status is a str, and stored data is bytes."""


class ReplyError(Exception):
    """The server answered with an error."""


class Connection:
    """A connection that sends one command and waits for its reply."""

    def __init__(self, host: str, port: int, *, timeout: float = 5) -> None:
        self._socket = socket.create_connection((host, port), timeout)
        self._replies = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    def command(self, *words: str | bytes | int) -> Reply:
        """Send one command.

        Raises:
            ReplyError: The server refuses the command.
            OSError: The server is gone, or does not answer in time.
        """
        return self.pipeline(words)[0]

    def pipeline(self, *commands: Sequence[str | bytes | int]) -> list[Reply]:
        """Send several commands at once, then wait for all of the replies."""
        self._socket.sendall(b"".join(map(_encode, commands)))
        return [self.read() for _ in commands]

    def read(self) -> Reply:
        """Wait for the next value from the server, a reply or a push."""
        line = self._replies.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+":
                return rest.decode()
            case b"-":
                raise ReplyError(rest.decode())
            case b":":
                return int(rest)
            case b"$" if rest != b"-1":
                return self._read_bytes(int(rest))
            case b"*" if rest != b"-1":
                return [self.read() for _ in range(int(rest))]
            case b"$" | b"*":
                return None
            case _:
                raise ConnectionError(f"not a reply: {line!r}")

    def _read_bytes(self, length: int) -> bytes:
        data = self._replies.read(length + 2)
        if len(data) < length + 2:
            raise ConnectionError("the server closed the connection in a reply")
        return data[:-2]


def _encode(command: Sequence[str | bytes | int]) -> bytes:
    words = [
        word if isinstance(word, bytes) else str(word).encode() for word in command
    ]
    sized = (b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    return b"*%d\r\n%b" % (len(words), b"".join(sized))
