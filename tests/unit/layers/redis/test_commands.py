"""One connection for all commands, which breaks at any point."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
)
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis import commands
from fast_channels.layers.redis.commands import CommandConnection
from fast_channels.layers.redis.trouble import describe
from tests.waiting import turn, until

from .fake_server import Server


async def gather(*commands: Awaitable[Any]) -> list[Any]:
    return [*await asyncio.gather(*commands)]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    open_ = [connection for connection in server.connections if connection.open]
    assert open_ == []
    assert server.stalled == []


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[CommandConnection]:
    redis = CommandConnection(server.connect, "redis-1")
    yield redis
    await redis.close()
    assert not redis.connected


@contextlib.asynccontextmanager
async def impatient(
    server: Server, timeout: float = 0.2
) -> AsyncGenerator[CommandConnection]:
    redis = CommandConnection(server.connect, "redis-1", timeout=timeout)
    yield redis
    await redis.close()


def cause(reply: "asyncio.Future[Any]") -> BaseException | None:
    """Return why a command was in vain."""
    error = reply.exception()
    assert isinstance(error, RedisUnavailable)
    cause = error.__cause__
    assert cause is not None
    assert str(error) == f"redis-1 is not available: {describe(cause)}"
    return cause


# Rule 1: commands of one turn share a write


async def test_execute(server: Server, redis: CommandConnection) -> None:
    """The first command connects; a command gets its reply."""
    assert not redis.connected
    assert await redis.execute("SET", b"key", 1.5) == "SET key 1.5"
    assert redis.connected
    assert await redis.execute("GET", "key") == "GET key"
    assert redis.connects == len(server.connections) == 1
    assert server.writes == ["SET key 1.5;", "GET key;"]


async def test_one_write(server: Server, redis: CommandConnection) -> None:
    """Commands of one turn leave in one write, in order, as do their replies."""
    await redis.execute("PING")
    names = [str(number) for number in range(50)]
    assert await asyncio.gather(*map(redis.execute, names)) == names
    assert server.writes[1:] == [";".join(names) + ";"]


async def test_while_writing(server: Server, redis: CommandConnection) -> None:
    """Commands that come during a write leave together in the next."""
    server.stalls.add("send")
    first = redis.submit("A")
    await until(lambda: server.stalled)
    later = [redis.submit("B"), redis.submit("C")]
    await turn()
    assert server.writes == ["A;"]
    server.stalls.clear()
    server.go_on.set()
    assert await gather(first, *later) == ["A", "B", "C"]
    assert server.writes == ["A;", "B;C;"]


async def test_while_connecting(server: Server, redis: CommandConnection) -> None:
    """Commands that come while it connects leave together."""
    server.stalls.add("connect")
    first = redis.submit("A")
    await until(lambda: server.stalled)
    assert redis.connected
    second = redis.submit("B")
    server.go_on.set()
    assert await gather(first, second) == ["A", "B"]
    assert server.writes == ["A;B;"]


async def test_error_reply(server: Server, redis: CommandConnection) -> None:
    """A reply that is an error is raised for its own command only."""
    server.answers = False
    replies = [redis.submit(name) for name in "ABC"]
    await until(lambda: server.writes)
    for outcome in ("1", ResponseError("WRONGTYPE"), "3"):
        server.connection.replies.put_nowait(outcome)
    with pytest.raises(ResponseError, match=r"WRONGTYPE"):
        await replies[1]
    assert await gather(replies[0], replies[2]) == ["1", "3"]
    assert redis.connects == 1


@pytest.mark.parametrize(
    "refusal",
    [
        BusyLoadingError("Redis is loading the dataset in memory"),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        ResponseError("BUSY Redis is busy running a script."),
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        NoPermissionError("this user has no permissions to run the 'set' command"),
        AuthenticationError("Authentication required."),
    ],
    ids=lambda refusal: type(refusal).__name__ + str(refusal)[:5],
)
async def test_refusal(
    server: Server, redis: CommandConnection, refusal: Exception
) -> None:
    """A command that the server refuses fails as if it were away, and no other does."""
    server.answers = False
    replies = [redis.submit(name) for name in "AB"]
    await until(lambda: server.writes)
    server.connection.replies.put_nowait(refusal)
    server.connection.replies.put_nowait("2")
    assert await replies[1] == "2"
    assert cause(replies[0]) is refusal
    assert redis.connects == 1


# Rule 2: whoever waits may be cancelled


@pytest.mark.parametrize("where", ["connect", "send", "read"])
async def test_cancelled(server: Server, redis: CommandConnection, where: str) -> None:
    """A command is sent though nobody waits for it, and only its reply is dropped."""
    server.stalls.add(where)
    tasks = [asyncio.create_task(redis.execute(name)) for name in "ABCD"]
    await until(lambda: server.stalled)
    for task in tasks[1:3]:
        task.cancel()
    await asyncio.wait(tasks[1:3])
    last = redis.submit("E")
    server.stalls.clear()
    server.go_on.set()
    assert await gather(tasks[0], tasks[3], last) == ["A", "D", "E"]
    assert tasks[1].cancelled()
    assert "".join(server.writes) == "A;B;C;D;E;"
    assert redis.connects == 1


# Rule 3: the connection breaks


async def test_broken(server: Server, redis: CommandConnection) -> None:
    """A command that was written fails, and the next one reconnects."""
    server.answers = False
    replies = [redis.submit("A"), redis.submit("B"), redis.submit("C")]
    replies[1].cancel()
    await until(lambda: server.writes)
    cut = RedisConnectionError("the line was cut")
    server.connection.replies.put_nowait("1")
    server.connection.fail(cut)
    assert await replies[0] == "1"
    await until(replies[2].done)
    assert cause(replies[2]) is cut
    await until(lambda: not redis.connected)
    server.answers = True
    assert await redis.execute("D") == "D"
    assert redis.connects == 2


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RedisConnectionError("cut"), id="redis-py"),
        pytest.param(OSError("cut"), id="OSError"),
        # What uvloop raises when it knows of the end and the stream does not yet.
        pytest.param(RuntimeError("the handler is closed"), id="RuntimeError"),
    ],
)
@pytest.mark.parametrize("where", ["send", "read"])
async def test_unwritten(
    server: Server, redis: CommandConnection, error: Exception, where: str
) -> None:
    """What was not written when the connection broke is sent on the next one."""
    server.answers = False
    server.stalls.add("send")
    first = redis.submit("A")
    await until(lambda: server.stalled)
    later = [redis.submit("B"), redis.submit("C")]
    if where == "send":
        server.broken_writes.append(error)
    else:
        server.connection.fail(error)
        await turn()
    server.answers = True
    server.stalls.clear()
    server.go_on.set()
    assert await asyncio.gather(*later) == ["B", "C"]
    assert cause(first) is error
    assert server.writes == ["A;", "B;C;"]
    assert [connection.open for connection in server.connections] == [False, True]


async def test_broken_in_the_same_turn(
    server: Server, redis: CommandConnection
) -> None:
    """A command that comes as the connection breaks is sent on the next one."""
    await redis.execute("A")
    server.connection.fail()
    # Whoever reads has seen it now, and nobody else.
    await asyncio.sleep(0)
    assert await redis.execute("B") == "B"
    assert server.writes == ["A;", "B;"]
    assert redis.connects == 2


async def test_broken_while_idle(server: Server, redis: CommandConnection) -> None:
    """A connection that breaks while it is not used is made again when it is."""
    await redis.execute("A")
    server.connection.fail()
    await until(lambda: not redis.connected)
    assert len(server.attempts) == 1
    assert await redis.execute("B") == "B"


async def test_reply_to_nothing(server: Server, redis: CommandConnection) -> None:
    """A reply that no command asked for breaks the connection, not its order."""
    await redis.execute("A")
    server.connection.replies.put_nowait("surprise")
    await until(lambda: not redis.connected)
    assert await redis.execute("B") == "B"
    assert redis.connects == 2


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ReadOnlyError("You can't write"), id="command"),
        # As a script says it before Redis 7.
        pytest.param(
            ResponseError("Error running script: @user_script: 1: -READONLY You can't"),
            id="script",
        ),
    ],
)
async def test_replica(
    server: Server, redis: CommandConnection, error: Exception
) -> None:
    """A master that has become a replica is left, and commands go to a new one."""
    server.answers = False
    replies = [redis.submit("A"), redis.submit("B")]
    await until(lambda: server.writes)
    server.connection.replies.put_nowait(error)
    await asyncio.wait(replies)
    assert [cause(reply) for reply in replies] == [error] * 2
    server.answers = True
    assert await redis.execute("C") == "C"
    assert [connection.open for connection in server.connections] == [False, True]


# Rule 3: reconnect()


@pytest.mark.parametrize("where", ["send", "read"])
@pytest.mark.parametrize("times", [1, 2])
async def test_reconnect(
    server: Server, redis: CommandConnection, where: str, times: int
) -> None:
    """It fails what was written, and sends the rest on a new connection."""
    server.stalls.add(where)
    first = redis.submit("A")
    await until(lambda: server.stalled)
    second = redis.submit("B")
    if where == "read":
        await until(lambda: server.writes == ["A;", "B;"])
    for _ in range(times):
        redis.reconnect()
    third = redis.submit("C")
    server.stalls.clear()
    assert await third == "C"
    assert str(cause(first)) == "the connection was dropped"
    if where == "read":
        assert isinstance(cause(second), ConnectionAbortedError)
    else:
        assert await second == "B"
    assert [connection.open for connection in server.connections] == [False, True]
    assert redis.connects == 2


async def test_reconnect_while_connecting(
    server: Server, redis: CommandConnection
) -> None:
    """It begins again to connect, since that may lead to another server now."""
    server.stalls.add("connect")
    reply = redis.submit("A")
    await until(lambda: server.stalled)
    redis.reconnect()
    server.stalls.clear()
    assert await reply == "A"
    assert len(server.attempts) == 2
    assert redis.connects == 1


async def test_reconnect_while_idle(server: Server, redis: CommandConnection) -> None:
    """It closes a connection that nobody uses; the next command opens one."""
    redis.reconnect()
    await redis.execute("A")
    redis.reconnect()
    await until(lambda: not redis.connected)
    redis.reconnect()
    assert len(server.attempts) == 1
    assert await redis.execute("B") == "B"
    assert redis.connects == 2


async def test_reconnect_while_it_breaks(
    server: Server, redis: CommandConnection
) -> None:
    """It may be called in any turn in which the connection breaks."""
    for turns in range(6):
        await redis.execute("A")
        reply = redis.submit("B")
        server.connection.fail()
        await turn(turns)
        redis.reconnect()
        await turn(1)
        redis.reconnect()
        await asyncio.wait([reply])
        assert await redis.execute("C") == "C"


async def test_close_and_reconnect(server: Server, redis: CommandConnection) -> None:
    """close() wins over it, in whatever order they come."""
    server.answers = False
    for turns in range(4):
        reply = redis.submit("A")
        await until(lambda: server.writes)
        closing = asyncio.create_task(redis.close())
        # The task that closes begins after the first of them.
        await turn(turns)
        redis.reconnect()
        await closing
        assert isinstance(cause(reply), ConnectionAbortedError)
        assert not redis.connected
        server.writes.clear()


# Rule 4: commands wait for a bounded time


@pytest.mark.parametrize(
    "error", [RedisConnectionError("refused"), OSError("refused")], ids=["redis", "os"]
)
async def test_comes_back(
    server: Server, redis: CommandConnection, error: Exception
) -> None:
    """Commands wait while the server is away for a moment."""
    server.refusals.extend([error] * 3)
    assert await gather(redis.execute("A"), redis.execute("B")) == ["A", "B"]
    assert len(server.attempts) == 4
    assert redis.connects == 1


async def test_stays_away(server: Server) -> None:
    """It tries again, ever less often; then all commands fail, and it is usable."""
    refused = RedisConnectionError("refused")
    server.refusals.extend([refused] * 100)
    async with impatient(server, 0.3) as redis:
        first = redis.submit("A")
        await until(lambda: len(server.attempts) > 1)
        replies = [first, redis.submit("B")]
        await asyncio.wait(replies)
        assert [cause(reply) for reply in replies] == [refused] * 2
        assert not redis.connected
        assert redis.connects == 0
        times = server.attempts
        assert 2 <= len(times) <= 7
        # Delays double from 0.01 s, and are shortened by up to a half.
        pauses = [end - start for start, end in itertools.pairwise(times)]
        shortest = [0.005 * 2**number for number in range(len(pauses))]
        # Clocks of event loops are a millisecond wrong.
        assert all(map(lambda was, least: was > least - 0.002, pauses, shortest))
        server.refusals.clear()
        assert await redis.execute("C") == "C"


async def test_commands_fail_sooner_while_the_server_is_away(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent after all attempts have failed is given up after fewer of them."""
    monkeypatch.setattr(commands, "_SHORT", 0.005)
    server.refusals.extend([RedisConnectionError("refused")] * 100)
    async with impatient(server) as redis:
        with pytest.raises(RedisUnavailable, match=r"refused"):
            await redis.execute("A")
        before = len(server.attempts)
        assert before > 1
        with pytest.raises(RedisUnavailable, match=r"refused"):
            await redis.execute("B")
        assert len(server.attempts) == before + 1
        server.refusals.clear()
        assert await redis.execute("C") == "C"
        server.refusals.extend([RedisConnectionError("refused")] * 2)
        redis.reconnect()
        assert await redis.execute("D") == "D"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(AuthenticationError("invalid username-password"), id="password"),
        pytest.param(ResponseError("DB index is out of range"), id="db"),
        pytest.param(TypeError("connect() is no function of ours"), id="bug"),
    ],
)
async def test_refused_for_good(
    server: Server, redis: CommandConnection, error: Exception
) -> None:
    """What another attempt would not mend is raised at once."""
    server.refusals.append(error)
    replies = [redis.submit("A"), redis.submit("B")]
    await asyncio.wait(replies)
    assert [cause(reply) for reply in replies] == [error] * 2
    assert len(server.attempts) == 1


@pytest.mark.parametrize("where", ["connect", "send", "read"])
async def test_frozen(server: Server, where: str) -> None:
    """Commands fail when the server is silent for too long, wherever it froze."""
    server.answers = where != "read"
    server.stalls.add(where)
    async with impatient(server, 0.5) as redis:
        replies = [redis.submit("A"), redis.submit("B")]
        await asyncio.wait(replies)
        assert [type(cause(reply)) for reply in replies] == [TimeoutError] * 2
        server.stalls.clear()
        server.answers = True
        # Another command may still fail with the attempt that is being given up.
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(RedisUnavailable):
                    assert await redis.execute("C") == "C"
                    break


async def test_frozen_after_a_refusal(server: Server) -> None:
    """A server that refused and then says nothing is reported as the one it was."""
    refused = RedisConnectionError("refused")
    server.refusals.append(refused)
    async with impatient(server) as redis:
        reply = redis.submit("A")
        await until(lambda: server.attempts)
        server.stalls.add("connect")
        await asyncio.wait([reply])
        assert cause(reply) is refused
        server.stalls.clear()


async def test_frozen_while_used(server: Server) -> None:
    """New commands do not make it wait longer for a server that is silent."""
    server.answers = False
    async with impatient(server) as redis:
        first = redis.submit("A")
        while not first.done():
            redis.submit("B").cancel()
            await asyncio.sleep(0)
        assert isinstance(cause(first), TimeoutError)
        assert str(cause(first)) == "it did not reply for 0.2 seconds"


async def test_slow(server: Server) -> None:
    """A server that replies slowly, but steadily, keeps its connection.

    Commands that it is too slow for fail, and their late replies go to no others.
    """
    server.answers = False
    async with impatient(server, 0.5) as redis:
        replies = [redis.submit(str(number)) for number in range(14)]
        await until(lambda: server.writes)
        for _ in replies:
            # So slow that all replies together take longer than one command waits.
            await asyncio.sleep(0.05)
            server.connection.replies.put_nowait("OK")
        assert await replies[0] == "OK"
        assert isinstance(cause(replies[-1]), TimeoutError)
        server.answers = True
        assert await redis.execute("A") == "A"
        assert redis.connects == 1


async def test_one_deadline(server: Server) -> None:
    """A command fails in time although it waited for two connections, one by one."""
    server.stalls.add("send")
    loop = asyncio.get_running_loop()
    async with impatient(server, 0.4) as redis:
        first = redis.submit("A")
        await until(lambda: server.stalled)
        end = loop.time() + 0.2
        await until(lambda: loop.time() > end)
        second = redis.submit("B")
        server.stalls = {"send", "connect"}
        await asyncio.wait([first])
        # The connection is dropped, and the next one is never opened.
        await until(lambda: server.stalled == ["connect"])
        assert not second.done()
        await asyncio.wait([second])
        assert isinstance(cause(second), TimeoutError)
        # Had its time begun anew, the server would still be connected to.
        assert server.stalled == ["connect"]
        server.stalls.clear()
        server.go_on.set()
        assert await redis.execute("C") == "C"
        assert server.writes == ["A;", "C;"]


async def test_shared_deadline(server: Server, redis: CommandConnection) -> None:
    """A command can have less time than others, which are sent all the same."""
    server.answers = False
    patient = redis.submit("A")
    hasty = redis.submit("B", deadline=redis.deadline() - 4.9)
    with pytest.raises(RedisUnavailable, match=r"it did not reply"):
        await hasty
    assert not patient.done()
    for reply in "12":
        server.connection.replies.put_nowait(reply)
    assert await patient == "1"


class Ended(asyncio.Future[None]):
    """Stands for a task that has ended before it was returned."""

    def set_name(self, _: object) -> None:
        """Do as a task does, which some Pythons name after it was made."""


async def test_refused_arguments_and_eager_tasks() -> None:
    """A connection that cannot be made fails its command where tasks start eagerly."""

    def connect() -> AbstractConnection:
        raise TypeError("an unknown argument")

    def start(loop: asyncio.AbstractEventLoop, work: Any, **_: Any) -> Any:
        with pytest.raises(StopIteration):
            work.send(None)
        task = Ended(loop=loop)
        task.set_result(None)
        return task

    redis = CommandConnection(connect, "redis-1")
    loop = asyncio.get_running_loop()
    for _ in range(2):
        loop.set_task_factory(start)
        reply = redis.submit("A")
        loop.set_task_factory(None)
        with pytest.raises(RedisUnavailable, match=r"an unknown argument"):
            await reply
        assert not redis.connected


async def test_blocked_loop(server: Server) -> None:
    """A reply that came while the event loop was blocked is not given up."""
    server.answers = False
    async with impatient(server) as redis:
        reply = redis.submit("A")
        await until(lambda: server.writes)
        await turn()
        loop = asyncio.get_running_loop()
        # As uvloop does: it looks at clocks before it looks at sockets.
        loop.call_later(0.21, server.connection.replies.put_nowait, "OK")
        time.sleep(0.25)  # noqa: ASYNC251 # it is what blocks
        assert await reply == "OK"
        server.answers = True
        assert await redis.execute("B") == "B"
        assert redis.connects == 1


async def test_idle(server: Server) -> None:
    """A server that was asked nothing may be silent for as long as it likes."""
    async with impatient(server) as redis:
        loop = asyncio.get_running_loop()
        await redis.execute("A")
        end = loop.time() + 0.3
        await until(lambda: loop.time() > end)
        assert await redis.execute("B") == "B"
        assert redis.connects == 1


# close()


@pytest.mark.parametrize("where", ["start", "connect", "send", "read"])
async def test_close(server: Server, redis: CommandConnection, where: str) -> None:
    """close() fails what waits, wherever it waits; then it can be used again."""
    server.stalls.add(where)
    replies = [redis.submit("A"), redis.submit("B")]
    if where != "start":
        await until(lambda: server.stalled)
        replies.append(redis.submit("C"))
    await redis.close()
    for reply in replies:
        assert isinstance(cause(reply), ConnectionAbortedError)
    assert not redis.connected
    server.stalls.clear()
    assert await redis.execute("D") == "D"
    assert server.writes[-1] == "D;"


async def test_close_while_it_waits_to_retry(
    server: Server, redis: CommandConnection
) -> None:
    """close() ends the attempts to connect."""
    server.refusals.extend([RedisConnectionError("refused")] * 100)
    reply = redis.submit("A")
    await until(lambda: len(server.attempts) > 2)
    await redis.close()
    assert isinstance(cause(reply), ConnectionAbortedError)


async def test_submit_while_closing(redis: CommandConnection) -> None:
    """A command of any turn in which it closes gets its reply or fails."""
    await redis.execute("A")
    closing = asyncio.create_task(redis.close())
    replies: list[asyncio.Future[Any]] = []
    while not closing.done():
        replies.append(redis.submit(str(len(replies))))
        await asyncio.sleep(0)
    await asyncio.wait(replies)
    for number, reply in enumerate(replies):
        if reply.exception() is None:
            assert reply.result() == str(number)
        else:
            assert isinstance(cause(reply), ConnectionAbortedError)
    assert any(reply.exception() for reply in replies)
    assert await redis.execute("B") == "B"


async def test_submit_while_closing_unstarted(redis: CommandConnection) -> None:
    """It is the same when it closes before it could begin to connect."""
    replies: list[asyncio.Future[Any]] = []
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: replies.append(redis.submit("B")))
    replies.append(redis.submit("A"))
    await redis.close()
    assert [type(cause(reply)) for reply in replies] == [ConnectionAbortedError] * 2


async def test_close_twice(server: Server, redis: CommandConnection) -> None:
    """close() may be called at once by several, again, and before anything else."""
    await redis.close()
    server.answers = False
    reply = redis.submit("A")
    await until(lambda: server.writes)
    await asyncio.gather(redis.close(), redis.close())
    assert isinstance(cause(reply), ConnectionAbortedError)
    await redis.close()
    assert len(server.attempts) == 1
