"""Opening a connection to a server that does not answer, answers late, or refuses."""

import asyncio
from typing import cast

import pytest
from redis.asyncio.connection import AbstractConnection

from fast_channels.layers.redis import attempts as module
from fast_channels.layers.redis.attempts import open_connection
from tests.waiting import turn, until


class Connection:
    """A connection that a test opens when it likes."""

    def __init__(self) -> None:
        # Whether the server has accepted, and when the greeting is over.
        self.is_connected = False
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connecting = False

    async def connect(self) -> None:
        self.connecting = True
        try:
            await self.greeted
        finally:
            self.connecting = False
        self.is_connected = True

    async def disconnect(self, nowait: bool) -> None:
        assert nowait
        self.is_connected = False


class Server:
    """Where connections are made."""

    def __init__(self) -> None:
        self.made: list[Connection] = []

    def connect(self) -> AbstractConnection:
        self.made.append(Connection())
        return cast("AbstractConnection", self.made[-1])

    @property
    def connecting(self) -> list[int]:
        """Which attempts are being made."""
        return [number for number, each in enumerate(self.made) if each.connecting]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN", 0.001)


@pytest.fixture
def server() -> Server:
    return Server()


async def test_one_attempt(server: Server) -> None:
    """A server that accepts gets one connection, however long its greeting takes."""
    opening = asyncio.create_task(open_connection(server.connect, 10))
    await until(lambda: server.connecting)
    [connection] = server.made
    connection.is_connected = True
    # Several times as long as it would take to try again.
    await asyncio.sleep(0.01)
    connection.greeted.set_result(None)
    assert await opening is cast("AbstractConnection", connection)
    assert len(server.made) == 1
    assert connection.is_connected


@pytest.mark.parametrize("which", [0, -1], ids=["the first", "the latest"])
async def test_attempts_that_hang(server: Server, which: int) -> None:
    """New attempts are made beside the first, and the one that succeeds is left."""
    opening = asyncio.create_task(open_connection(server.connect, 10))
    await until(lambda: len(server.made) >= 5 and server.made[-1].connecting)
    assert server.connecting[0] == 0
    assert len(server.connecting) <= 3
    connection = server.made[which]
    connection.greeted.set_result(None)
    assert await opening is cast("AbstractConnection", connection)
    assert server.connecting == []
    assert [each for each in server.made if each.is_connected] == [connection]


async def test_two_that_succeed_at_once(server: Server) -> None:
    """One of two connections that open in the same moment is closed again."""
    opening = asyncio.create_task(open_connection(server.connect, 10))
    await until(lambda: len(server.connecting) > 1)
    for number in server.connecting:
        server.made[number].greeted.set_result(None)
    connection = await opening
    left = [each for each in server.made if each.is_connected]
    assert left == [cast("Connection", connection)]


async def test_refusal(server: Server) -> None:
    """The first attempt that fails ends all."""
    opening = asyncio.create_task(open_connection(server.connect, 10))
    await until(lambda: len(server.connecting) > 1)
    server.made[-1].greeted.set_exception(ConnectionRefusedError("refused"))
    with pytest.raises(ConnectionRefusedError, match="refused"):
        await opening
    assert server.connecting == []


async def test_timeout(server: Server) -> None:
    """Nothing is left of attempts that nothing has answered in time."""
    with pytest.raises(TimeoutError):
        await open_connection(server.connect, 0.02)
    assert server.made
    assert server.connecting == []


async def test_cancellation(server: Server) -> None:
    """Cancelling ends all attempts."""
    opening = asyncio.create_task(open_connection(server.connect, 10))
    await until(lambda: len(server.connecting) > 1)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    assert server.connecting == []
    await turn()
    assert not any(each.is_connected for each in server.made)
