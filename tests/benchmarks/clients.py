"""The clients of a workload: ``python -m tests.benchmarks.clients PEER PORT...``.

The process is ready when it has written a line. Each line of stdin is an order, a JSON
list of a name and arguments; the answer is a line of JSON when the order is done. The
answer includes the share of the time in which this process was busy.
"""

# picows, which takes less CPU for a client than its server needs, is installed only
# where this runs.
# mypy: disable-error-code="import-not-found, misc"
# pyright: basic, reportMissingImports=false

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import uvloop
from picows import WSCloseCode, WSListener, WSMsgType, ws_connect

from .peers import LEAVE, LEFT

# Connections that are opened at the same time.
_AT_ONCE = 20
_TIMEOUT = 60


class _Count:
    """Counts the messages of all clients together."""

    def __init__(self) -> None:
        self._arrived = self._wanted = 0
        self._all: asyncio.Future[None] | None = None

    def add(self) -> None:
        self._arrived += 1
        if self._arrived == self._wanted and self._all and not self._all.done():
            self._all.set_result(None)

    def expect(self, count: int) -> asyncio.Future[None]:
        """Return a future that is done after a number of further messages."""
        self._wanted = self._arrived + count
        self._all = asyncio.get_running_loop().create_future()
        return self._all


class _Client(WSListener):
    """A client in a room, which gets only the chat's frames."""

    path = "ws/{room}"

    def __init__(self, room: str, count: _Count) -> None:
        loop = asyncio.get_running_loop()
        self.room = room
        self.joined: asyncio.Future[None] = loop.create_future()
        self.has_left: asyncio.Future[None] = loop.create_future()
        self._add = count.add
        self._left = LEFT.encode()

    def on_ws_connected(self, transport: Any) -> None:
        self.transport = transport
        self.joined.set_result(None)

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.payload_size == len(self._left):
            self.has_left.set_result(None)
        elif frame.msg_type is WSMsgType.TEXT:
            self._add()

    def say(self, text: str) -> None:
        self.transport.send(WSMsgType.TEXT, text.encode())

    async def close(self) -> None:
        self.transport.send_close(WSCloseCode.OK)
        await self.transport.wait_disconnected()


class _SocketIOClient(_Client):
    """The same with the protocol of Socket.IO."""

    path = "socket.io/?EIO=4&transport=websocket"

    def __init__(self, room: str, count: _Count) -> None:
        super().__init__(room, count)
        self._left = f'42["text","{LEFT}"]'.encode()

    def on_ws_connected(self, transport: Any) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if self.joined.done():
            super().on_ws_frame(transport, frame)
            return
        text = frame.get_payload_as_utf8_text()
        if text.startswith("0"):
            transport.send(WSMsgType.TEXT, b"40")
        elif text.startswith("40"):
            transport.send(WSMsgType.TEXT, f'42["join","{self.room}"]'.encode())
        elif text == '42["joined"]':
            self.joined.set_result(None)

    def say(self, text: str) -> None:
        super().say(f'42["say",{json.dumps(text)}]')


class _Clients:
    """All clients, and their orders."""

    def __init__(self, peer: str, ports: Sequence[str]) -> None:
        self._class = _SocketIOClient if peer == "socketio" else _Client
        self._ports = itertools.cycle(ports)
        self._count = _Count()
        self._rooms: dict[str, list[_Client]] = {}

    async def _open(self, room: str) -> _Client:
        url = f"ws://127.0.0.1:{next(self._ports)}/{self._class.path.format(room=room)}"
        client: _Client
        _, client = await ws_connect(lambda: self._class(room, self._count), url)
        await client.joined
        return client

    async def connect(self, rooms: int, size: int, servers: int = 1) -> None:
        """Connect a number of clients to each room, spread over the servers."""
        names = [f"room{number}" for number in range(rooms)]
        for name in names:
            # Some peers fail if several clients join a new room at once.
            self._rooms[name] = [await self._open(name) for _ in range(servers)]
        rest = [name for name in names for _ in range(size - servers)]
        for some in _batches(rest):
            for client in await asyncio.gather(*map(self._open, some)):
                self._rooms[client.room].append(client)

    def expect(self, count: int) -> None:
        """Start counting."""
        self._expected = self._count.expect(count)

    async def arrive(self) -> None:
        """Wait until the expected number of messages has arrived."""
        await self._expected

    async def speak(self, turns: int, text: str) -> None:
        """Let one client in each room send; once all have received it, the next one."""
        everybody = sum(map(len, self._rooms.values()))
        for turn in range(turns):
            heard = self._count.expect(everybody)
            for members in self._rooms.values():
                members[turn % len(members)].say(text)
            await heard

    async def churn(self, count: int, rooms: int) -> None:
        """Connect, join, leave and disconnect a number of clients, some at once."""
        numbers = iter(range(count))

        async def come_and_go() -> None:
            for number in numbers:
                client = await self._open(f"room{number % rooms}")
                client.say(LEAVE)
                await client.has_left
                await client.close()

        await asyncio.gather(*(come_and_go() for _ in range(_AT_ONCE)))


def _batches(names: list[str]) -> list[list[str]]:
    return [names[i : i + _AT_ONCE] for i in range(0, len(names), _AT_ONCE)]


async def _main(peer: str, *ports: str) -> None:
    clients = _Clients(peer, ports)
    print("{}", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order, *arguments = json.loads(line)
        cpu, clock = time.process_time(), time.perf_counter()
        done = getattr(clients, order)(*arguments)
        if done is not None:
            await asyncio.wait_for(done, _TIMEOUT)
        seconds = time.perf_counter() - clock
        busy = (time.process_time() - cpu) / seconds
        print(json.dumps({"busy": busy, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(*sys.argv[1:]))
