"""Slow or lossy links between clients and a server."""

import asyncio
import contextlib
import socket
from typing import Self

from tests.redis_servers.server import HOST, RedisServer

# Bytes to forward at once.
_PART = 16_384


class Link:
    """Relays between clients and a server while its ``with`` block runs.

    Clients connect to `url`.
    """

    def __init__(self, server: RedisServer, pause: float = 0) -> None:
        self._server = server
        self._pause = pause
        self._listener = socket.socket()
        self._listener.bind((HOST, 0))
        self._listener.listen(0)
        self._listener.setblocking(False)
        port: int = self._listener.getsockname()[1]
        self.url: str = server.url.replace(f":{server.port}", f":{port}")
        self._address = (HOST, port)
        self._accepting: asyncio.Task[None] | None = None
        self._relaying: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()
        self._listener.close()

    def _accept(self) -> None:
        self._accepting = asyncio.create_task(self._run())

    async def _stop(self) -> None:
        assert self._accepting is not None
        tasks = [self._accepting, *self._relaying]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._relaying.clear()

    async def _run(self) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            self._relaying.add(asyncio.create_task(self._relay(client)))

    async def _relay(self, client: socket.socket) -> None:
        here = await asyncio.open_connection(sock=client)
        try:
            there = await asyncio.open_connection(HOST, self._server.port)
            try:
                await asyncio.gather(
                    self._forward(here[0], there[1], 0),
                    self._forward(there[0], here[1], self._pause),
                )
            finally:
                there[1].close()
        finally:
            here[1].close()

    async def _forward(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, pause: float
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_PART):
                target.write(data)
                await target.drain()
                if len(data) == _PART:
                    await asyncio.sleep(pause)
        target.close()


def slow_link(server: RedisServer, rate: int) -> Link:
    """Return a link that delivers large replies at a number of bytes per second."""
    return Link(server, _PART / rate)


class LossyLink(Link):
    """A link that can lose packets: connections break, and attempts to connect hang.

    The queue of its listening socket is full, so the kernel drops new packets.
    """

    def __init__(self, server: RedisServer) -> None:
        super().__init__(server)
        self._waiting: list[socket.socket] = []

    async def lose(self) -> None:
        """Break all connections, and lose all packets from now on."""
        assert self._accepting is not None
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        for _ in range(3):
            client = socket.socket()
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(self._address)
            self._waiting.append(client)
        await self._stop()

    def mend(self) -> None:
        """Relay again."""
        while self._waiting:
            self._waiting.pop().close()
        self._accept()

    async def __aexit__(self, *_: object) -> None:
        while self._waiting:
            self._waiting.pop().close()
        await super().__aexit__()
