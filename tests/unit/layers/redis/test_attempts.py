"""Opening a connection to a server that is silent, slow, or refuses."""

import asyncio
import functools
from typing import Any

import pytest

from fast_channels.layers.redis.attempts import open_connection as open_slowly
from tests.waiting import turn, until

from .fake_server import EchoServer, FakeConnection, FakeServer

open_connection = functools.partial(open_slowly, another=0.001)


class Connection(FakeConnection):
    """A connection that opens when the test says so."""

    def __init__(self, server: FakeServer[Any]) -> None:
        super().__init__(server)
        # Until the greeting is over; the server may have accepted before that.
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connecting = False

    async def connect(self) -> None:
        self.connecting = True
        try:
            await self.greeted
        finally:
            self.connecting = False
        self.is_connected = True


class Server(EchoServer):
    """Makes the connections."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Connection] = []

    def connect(self) -> Connection:
        self.made.append(Connection(self))
        return self.made[-1]

    @property
    def connecting(self) -> list[int]:
        """The attempts in progress."""
        return [number for number, each in enumerate(self.made) if each.connecting]


@pytest.fixture
async def server() -> Server:
    return Server()


async def test_a_server_that_accepts_gets_one_connection(server: Server) -> None:
    """This holds however long its greeting takes."""
    opening = asyncio.create_task(open_connection(server.connect, 10))
    await until(lambda: server.connecting)
    [connection] = server.made
    connection.is_connected = True
    # Several times as long as the pause before another attempt.
    await asyncio.sleep(0.01)
    connection.greeted.set_result(None)
    assert await opening is connection
    assert len(server.made) == 1
    assert connection.is_connected


@pytest.mark.parametrize("which", [0, -1], ids=["the first", "the latest"])
async def test_new_attempts_start_while_others_hang(server: Server, which: int) -> None:
    """The one that succeeds remains."""
    opening = asyncio.create_task(open_connection(server.connect, 10))
    await until(lambda: len(server.made) >= 5 and server.made[-1].connecting)
    assert server.connecting[0] == 0
    assert len(server.connecting) <= 3
    connection = server.made[which]
    connection.greeted.set_result(None)
    assert await opening is connection
    assert server.connecting == []
    assert [each for each in server.made if each.is_connected] == [connection]


async def test_one_of_two_connections_that_open_at_once_is_closed_again(
    server: Server,
) -> None:
    opening = asyncio.create_task(open_connection(server.connect, 10))
    await until(lambda: len(server.connecting) > 1)
    for number in server.connecting:
        server.made[number].greeted.set_result(None)
    connection = await opening
    left = [each for each in server.made if each.is_connected]
    assert left == [connection]


async def test_the_first_attempt_that_fails_ends_all(server: Server) -> None:
    opening = asyncio.create_task(open_connection(server.connect, 10))
    await until(lambda: len(server.connecting) > 1)
    server.made[-1].greeted.set_exception(ConnectionRefusedError("refused"))
    with pytest.raises(ConnectionRefusedError, match="refused"):
        await opening
    assert server.connecting == []


async def test_attempts_without_an_answer_in_time_leave_nothing(server: Server) -> None:
    with pytest.raises(TimeoutError):
        await open_connection(server.connect, 0.02)
    assert server.made
    assert server.connecting == []


async def test_cancelling_ends_all_attempts(server: Server) -> None:
    opening = asyncio.create_task(open_connection(server.connect, 10))
    await until(lambda: len(server.connecting) > 1)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    assert server.connecting == []
    await turn()
    assert not any(each.is_connected for each in server.made)
