"""A proxy that counts round trips to a server and can limit the bandwidth."""

import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.redis_servers.server import HOST, RedisServer


@dataclass
class _Link:
    """A client's connection and the corresponding connection to the server."""

    client: socket.socket
    server: socket.socket
    answered: bool = field(default=True)
    """Whether the next bytes of the client begin a round trip."""


class RoundTripProxy:
    """Counts the round trips between clients and a server.

    Clients connect to `url`. All commands that a client sends before the first byte of
    a reply are one round trip; data that a server pushes doesn't count. A round trip is
    counted before the server receives the command.

    Data from all servers together arrives at no more than `bytes_per_second`.
    """

    host = HOST

    def __init__(self, server: RedisServer) -> None:
        self.round_trips = 0
        self.bytes_per_second = float("inf")
        self._server = server
        self._selector = selectors.DefaultSelector()
        self._links: dict[socket.socket, _Link] = {}
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._end, self._ended = socket.socketpair()
        for source in (self._listener, self._ended):
            self._selector.register(source, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
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
        return self._server.url.replace(f":{self._server.port}", f":{self.port}")

    def close(self) -> None:
        """Close all connections, and accept no more."""
        self._end.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                source = key.fileobj
                assert isinstance(source, socket.socket)
                if source is self._ended:
                    return self._close_all()
                if source is self._listener:
                    self._accept()
                # The other end may have closed the link a moment ago.
                elif source in self._links:
                    self._forward(source, self._links[source])

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection((HOST, self._server.port))
        except OSError:
            client.close()
            return
        link = _Link(client, server)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._links[end] = link
            self._selector.register(end, selectors.EVENT_READ)

    def _forward(self, source: socket.socket, link: _Link) -> None:
        try:
            data = source.recv(65_536)
            if not data:
                return self._cut(link)
            if source is link.server:
                link.answered = True
                time.sleep(len(data) / self.bytes_per_second)
                link.client.sendall(data)
                return None
            if link.answered:
                link.answered = False
                self.round_trips += 1
            link.server.sendall(data)
        except OSError:
            self._cut(link)

    def _cut(self, link: _Link) -> None:
        for end in (link.client, link.server):
            del self._links[end]
            self._selector.unregister(end)
            end.close()

    def _close_all(self) -> None:
        for link in {id(link): link for link in self._links.values()}.values():
            self._cut(link)
        self._selector.close()
        self._listener.close()
        self._ended.close()
