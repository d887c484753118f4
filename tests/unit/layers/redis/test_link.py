"""The life of a connection, whatever it is used for."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from fast_channels.layers.redis.link import Link, Timing
from fast_channels.layers.redis.outage import Outage
from fast_channels.layers.redis.progress import Progress
from fast_channels.layers.redis.wire import (
    AuthenticationError,
    RedisConnectionError,
    ResponseError,
    pack,
)
from tests.waiting import turn, until

from .fake_server import NO_PAUSE, EchoServer, FakeConnection

_logger = logging.getLogger("fast_channels.test")

IMPATIENT = replace(NO_PAUSE, idle=0.02, patience=0.03)
TRYING = "trying again until it can"
AGAIN = "redis-1 can be used again"


class User:
    """Sends and reads on the connections of a link."""

    def __init__(self, server: EchoServer, timing: Timing, *, suspicious: bool) -> None:
        self.server = server
        self.suspicions = 0
        self.wanted = True
        self.outbox: list[str] = []
        # The words it has read; why connections ended; how often the link was closed.
        self.read: list[str] = []
        self.ends: list[Exception | None] = []
        self.closed = 0
        self.connects = 0
        # Seconds to wait for a connection.
        self.timeout: float | None = None
        self.outage = Outage(_logger, "redis-1", "used")
        self.link = Link(
            self._use,
            timing=timing,
            outage=self.outage,
            wanted=lambda: self.wanted,
            ended=self.ends.append,
            closed=self._count_closing,
            suspect=self._suspect if suspicious else None,
        )

    def send(self, words: str) -> None:
        self.outbox.append(words)
        self.link.wake()

    async def _use(self) -> None:
        connection = self.server.connect()
        self.link.own(connection)
        async with asyncio.timeout(self.timeout):
            await connection.connect()
        self.connects += 1
        self.link.works()
        reader = self.link.spawn(self._read(connection))
        self.link.spawn(self.link.keep_alive(connection, Progress(connection)))
        while not reader.done():
            if self.outbox:
                packed = pack((self.outbox.pop(0),))
                await connection.send_packed_command(packed, check_health=False)
            else:
                await self.link.sleeper()
        await reader

    async def _read(self, connection: FakeConnection) -> None:
        while True:
            self.read.append(await connection.read_response(disconnect_on_error=False))

    def _suspect(self) -> None:
        self.suspicions += 1

    def _count_closing(self) -> None:
        self.closed += 1


@pytest.fixture
async def server() -> EchoServer:
    return EchoServer()


@contextlib.asynccontextmanager
async def using(
    server: EchoServer, timing: Timing = NO_PAUSE, *, suspicious: bool = False
) -> AsyncGenerator[User]:
    """Make a link, and check that it leaves no connection and no task."""
    before = asyncio.all_tasks()
    user = User(server, timing, suspicious=suspicious)
    try:
        yield user
    finally:
        await user.link.close()
    assert not user.link.running
    assert server.open == []
    assert asyncio.all_tasks() == before


async def works(user: User) -> None:
    """Check that a command gets its reply."""
    user.read.clear()
    user.send("ECHO")
    await until(lambda: "ECHO" in user.read)
    assert len(user.server.open) == 1


# 1. One task, one connection after the other


async def test_it_connects_when_it_is_woken_and_stays_connected(
    server: EchoServer,
) -> None:
    async with using(server) as user:
        await turn()
        assert not user.link.running
        for _ in range(3):
            await works(user)
        assert user.link.running
        assert len(server.attempts) == 1


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("cut"),
        OSError("cut"),
        # uvloop raises it when it has noticed the end before the stream has.
        RuntimeError("the handler is closed"),
        ResponseError("NOAUTH Authentication required"),
        ValueError("a bug"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("where", ["connect", "send", "read"])
async def test_a_connection_that_breaks_for_any_reason_is_replaced(
    server: EchoServer, where: str, error: Exception
) -> None:
    async with using(server) as user:
        if where == "connect":
            server.refusals.append(error)
        else:
            await works(user)
        if where == "send":
            server.broken_writes.append(error)
            user.send("LOST")
        elif where == "read":
            server.connection.fail(error)
            await until(lambda: user.ends)
        await works(user)
        assert user.ends == [error]
        assert len(server.attempts) == 2


async def test_tasks_of_a_connection_end_with_it(
    server: EchoServer,
) -> None:
    """This holds even if it never opened, or is still opening."""
    used: list[tuple[FakeConnection, asyncio.Task[None]]] = []

    async def use() -> None:
        connection = server.connect()
        connection.is_connected = True
        link.own(connection)
        used.append((connection, link.spawn(asyncio.sleep(1000))))
        await connection.connect()

    server.refusals.append(OSError())
    link = Link(use, timing=NO_PAUSE)
    link.wake()
    await until(lambda: len(used) > 1)
    connection, task = used[0]
    assert task.cancelled()
    assert not connection.is_connected
    await link.close()


async def test_it_ends_when_it_is_not_wanted_and_starts_again(
    server: EchoServer,
) -> None:
    async with using(server, Timing(backoff=(1000, 1000))) as user:
        await works(user)
        user.wanted = False
        server.cut()
        await until(lambda: not user.link.running)
        assert user.closed == 1
        await turn()
        assert len(server.attempts) == 1
        user.wanted = True
        await works(user)


# 2. Dropping a connection

STATES = ["connect", "send", "read", "idle", "pause"]
in_every_state = pytest.mark.parametrize("state", STATES)


@contextlib.asynccontextmanager
async def state_of_link(server: EchoServer, state: str) -> AsyncGenerator[User]:
    """Bring a link into a state that it stays in."""
    pauses = Timing(backoff=(1000, 1000)) if state == "pause" else NO_PAUSE
    async with using(server, pauses) as user:
        if state == "pause":
            server.refusals.append(RedisConnectionError("refused"))
        elif state != "idle":
            server.stalls.add(state)
        user.send("A")
        if state == "idle":
            await until(lambda: user.read)
        else:
            await until(lambda: server.stalled or user.ends)
        server.stalls.clear()
        user.ends.clear()
        yield user


@in_every_state
async def test_drop_replaces_a_connection_in_every_state(
    server: EchoServer, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Deliberate disconnections are not logged."""
    async with state_of_link(server, state) as user:
        before = len(server.attempts)
        caplog.clear()
        for _ in range(2):
            user.link.drop()
        await until(lambda: len(server.attempts) > before)
        await works(user)
        assert user.ends == [None] * (state != "pause")
        assert len(server.attempts) == before + 1
        assert "cannot" not in caplog.text


async def test_a_connection_can_be_dropped_for_a_reason(
    server: EchoServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with using(server) as user:
        await works(user)
        why = OSError("it is slow")
        user.link.drop(why)
        await until(lambda: user.ends)
        await works(user)
        assert user.ends == [why]
        assert caplog.messages[0] == f"redis-1 cannot be used: it is slow; {TRYING}"


async def test_drop_does_nothing_without_a_connection(server: EchoServer) -> None:
    async with using(server) as user:
        user.link.drop()
        await works(user)
        await user.link.close()
        user.link.drop()
        await turn()
        assert len(server.attempts) == 1


async def test_a_connection_can_be_dropped_as_it_breaks(
    server: EchoServer,
) -> None:
    async with using(server) as user:
        for turns in range(6):
            await works(user)
            server.connection.fail()
            await turn(turns)
            user.link.drop()
            await turn(1)
            user.link.drop()


# close()


@in_every_state
@pytest.mark.parametrize("times", [1, 2])
async def test_close_ends_a_link_in_every_state(
    server: EchoServer, state: str, times: int
) -> None:
    """Several tasks can call it at once; afterwards, the link can be used again."""
    async with state_of_link(server, state) as user:
        before = len(server.attempts)
        await asyncio.gather(*(user.link.close() for _ in range(times)))
        assert not user.link.running
        assert server.open == []
        assert user.closed == 1
        await turn()
        assert len(server.attempts) == before
        await works(user)


async def test_close_before_the_start(server: EchoServer) -> None:
    async with using(server) as user:
        await user.link.close()
        assert user.closed == 0
        user.link.wake()
        await user.link.close()
        assert user.closed == 1
        assert server.attempts == []
        await works(user)


async def test_close_wins_over_drop(server: EchoServer) -> None:
    async with using(server) as user:
        for turns in range(4):
            await works(user)
            closing = asyncio.create_task(user.link.close())
            await turn(turns)
            user.link.drop()
            await closing
            assert not user.link.running
            assert server.open == []


async def test_a_link_is_woken_in_any_turn_of_closing(server: EchoServer) -> None:
    """It is closed, or starts again: it never stays half closed."""
    async with using(server) as user:
        for turns in range(6):
            await works(user)
            closing = asyncio.create_task(user.link.close())
            await turn(turns)
            user.link.wake()
            await closing
            await works(user)


# 3. Pauses


async def test_pauses_grow_until_a_connection_works(server: EchoServer) -> None:
    pauses: list[float] = []

    def jitter(least: float, most: float) -> float:
        assert (least, most) == (0.5, 1)
        pauses.append(user.link.pause)
        return 0

    async with using(server, Timing(jitter=jitter)) as user:
        server.refusals.extend([RedisConnectionError("refused")] * 8)
        user.link.wake()
        await until(lambda: user.connects == 1)
        server.cut()
        await until(lambda: user.connects == 2)
    assert pauses == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5, 0.01]


async def test_pauses_pass_between_attempts(server: EchoServer) -> None:
    clock = asyncio.get_running_loop().time
    pauses: list[tuple[float, float, int]] = []

    def jitter(*_: float) -> float:
        pauses.append((clock(), user.link.pause, len(server.attempts)))
        return 1

    async with using(server, Timing(backoff=(0.01, 0.04), jitter=jitter)) as user:
        server.refusals.extend([RedisConnectionError("refused")] * 5)
        user.link.wake()
        await until(lambda: user.connects)
    assert pauses
    for began, pause, attempts in pauses:
        # uvloop's clock has a resolution of a millisecond.
        assert server.attempts[attempts] - began > pause - 0.002


async def test_another_attempt_follows_a_long_one_at_once(
    server: EchoServer, caplog: pytest.LogCaptureFixture
) -> None:
    def jitter(*_: float) -> float:
        raise AssertionError("there was a pause")

    server.stalls.add("connect")
    async with using(server, Timing(backoff=(0.01, 0.02), jitter=jitter)) as user:
        user.timeout = 0.05
        user.link.wake()
        await until(lambda: user.outage.lasts)
        user.timeout = None
        server.stalls.clear()
        await until(lambda: user.connects)
    assert caplog.messages == [
        f"redis-1 cannot be used: it did not reply in time; {TRYING}",
        AGAIN,
    ]


# 4. Outages


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RedisConnectionError("refused"), "refused"),
        (OSError(), "OSError"),
        (
            AuthenticationError("WRONGPASS"),
            "it refuses the username or the password (WRONGPASS)",
        ),
    ],
    ids=repr,
)
async def test_an_outage_is_logged_once(
    server: EchoServer,
    error: Exception,
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.refusals.extend([error] * 50)
    async with using(server) as user:
        user.link.wake()
        await until(lambda: user.outage.lasts)
        await until(lambda: not user.outage.lasts)
        server.cut()
        await until(lambda: user.connects == 2)
    assert caplog.messages == [
        f"redis-1 cannot be used: {text}; {TRYING}",
        AGAIN,
        f"redis-1 cannot be used again (outage 2 in a row): the line was cut; {TRYING}",
        AGAIN,
    ]


# 5. Silence


@pytest.mark.parametrize("where", ["reply", "send"])
async def test_a_silent_server_counts_as_gone(
    server: EchoServer, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """So does one that no longer reads."""
    async with using(server, IMPATIENT) as user:
        await works(user)
        server.silent.add("PING")
        server.stalls.update(["send"] * (where == "send"))
        await until(lambda: user.ends)
        server.silent.clear()
        server.stalls.clear()
        await works(user)
    assert caplog.messages == [
        f"redis-1 cannot be used: it did not answer for 0.03 seconds; {TRYING}",
        AGAIN,
    ]
    assert len(server.attempts) == 2


async def test_a_quiet_server_that_answers_is_kept(server: EchoServer) -> None:
    async with using(server, replace(IMPATIENT, patience=5, grace=0.01)) as user:
        await works(user)
        await until(lambda: server.asked("PING"))
    async with using(server, IMPATIENT) as user:
        await works(user)
        await until(lambda: len(server.asked("PING")) > 3)
        assert user.ends == []


@pytest.mark.parametrize("sends", ["parts", "replies"])
async def test_bytes_show_that_a_server_is_alive(
    server: EchoServer, sends: str
) -> None:
    """A server that sends a large reply, or many, need not answer a PING."""
    server.silent.add("PING")
    async with using(server, replace(IMPATIENT, idle=0)) as user:
        await works(user)
        connection = server.connection
        while len(server.asked("PING")) < 3:
            if sends == "parts":
                connection.send_part()
            else:
                connection.reply("MORE")
            await asyncio.sleep(0)
        assert user.ends == []
        await until(lambda: user.ends)


async def test_a_late_answer_is_read_before_it_counts_as_missing(
    server: EchoServer,
) -> None:
    """After the event loop was blocked, replies that came in time are read late."""
    server.silent.add("PING")
    async with using(server, replace(IMPATIENT, grace=5)) as user:
        await works(user)
        await until(lambda: server.asked("PING"))
        loop = asyncio.get_running_loop()
        blocked_until = loop.time() + 0.05
        while loop.time() < blocked_until:
            pass
        await turn()
        assert user.ends == []
        server.connection.reply("PONG")
        await works(user)


# A node of a cluster


async def test_a_silent_node_is_suspected_until_it_counts_as_gone(
    server: EchoServer,
) -> None:
    """It gets a PING sooner than other servers."""
    timing = replace(
        NO_PAUSE, idle=60, suspicion=0.01, suspicions=0.005, patience=0.023
    )
    async with using(server, timing, suspicious=True) as user:
        await works(user)
        server.silent.add("PING")
        await until(lambda: user.ends)
        assert user.suspicions == 3
        assert str(user.ends[0]) == "it did not answer for 0.023 seconds"
        server.silent.clear()
        await works(user)


async def test_a_node_that_answers_late_is_suspected_no_longer(
    server: EchoServer,
) -> None:
    timing = replace(
        NO_PAUSE, suspicion=0.005, suspicions=0.005, patience=60, grace=0.001
    )
    async with using(server, timing, suspicious=True) as user:
        await works(user)
        server.silent.add("PING")
        await until(lambda: user.suspicions)
        server.silent.clear()
        server.connection.reply("PONG")
        pings = len(server.asked("PING"))
        await until(lambda: len(server.asked("PING")) > pings + 1)
        assert user.ends == []
