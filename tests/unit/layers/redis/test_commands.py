"""One connection for all commands, which breaks at any point."""

import asyncio
import contextlib
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
)
from typing import Any

import pytest
from redis.exceptions import BusyLoadingError, OutOfMemoryError

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis.commands import CommandConnection, NotSent
from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.wire import (
    AuthenticationError,
    Connection,
    NoPermissionError,
    ReadOnlyError,
    RedisConnectionError,
    ResponseError,
    describe,
)
from tests.waiting import PAUSE, turn, until

from .fake_server import NO_PAUSE, EchoServer


async def gather(*commands: Awaitable[Any]) -> list[Any]:
    return [*await asyncio.gather(*commands)]


@pytest.fixture
async def server() -> AsyncIterator[EchoServer]:
    server = EchoServer()
    yield server
    assert server.open == []
    assert server.stalled == []


@pytest.fixture
async def redis(server: EchoServer) -> AsyncIterator[CommandConnection]:
    redis = CommandConnection(server.connect, "redis-1")
    yield redis
    await redis.close()
    assert not redis.connected


@contextlib.asynccontextmanager
async def impatient(
    server: EchoServer,
    timeout: float = 0.2,
    timing: Timing = CommandConnection.timing,
) -> AsyncGenerator[CommandConnection]:
    redis = CommandConnection(server.connect, "redis-1", timeout=timeout, timing=timing)
    yield redis
    await redis.close()


def cause(reply: "asyncio.Future[Any]") -> BaseException | None:
    """Return the error of a command."""
    error = reply.exception()
    assert isinstance(error, RedisUnavailable)
    cause = error.__cause__
    assert cause is not None
    assert str(error) == f"redis-1 is not available: {describe(cause)}"
    return cause


# Rule 1: commands of one turn share a write


async def test_the_first_command_connects_and_each_gets_its_reply(
    server: EchoServer, redis: CommandConnection
) -> None:
    assert not redis.connected
    assert await redis.execute("SET", b"key", 1.5) == "SET key 1.5"
    assert redis.connected
    assert await redis.execute("GET", "key") == "GET key"
    assert redis.connects == len(server.connections) == 1
    assert server.writes == ["SET key 1.5;", "GET key;"]


async def test_commands_of_one_turn_leave_in_one_write_in_order(
    server: EchoServer, redis: CommandConnection
) -> None:
    await redis.execute("PING")
    names = [str(number) for number in range(50)]
    assert await asyncio.gather(*map(redis.execute, names)) == names
    assert server.writes[1:] == [";".join(names) + ";"]


async def test_commands_issued_during_a_write_leave_together_in_the_next(
    server: EchoServer, redis: CommandConnection
) -> None:
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


async def test_commands_issued_while_it_connects_leave_together(
    server: EchoServer, redis: CommandConnection
) -> None:
    server.stalls.add("connect")
    first = redis.submit("A")
    await until(lambda: server.stalled)
    assert redis.connected
    second = redis.submit("B")
    server.go_on.set()
    assert await gather(first, second) == ["A", "B"]
    assert server.writes == ["A;B;"]


async def test_an_error_reply_is_raised_for_its_own_command_only(
    server: EchoServer, redis: CommandConnection
) -> None:
    server.answers = False
    replies = [redis.submit(name) for name in "ABC"]
    await until(lambda: server.writes)
    for outcome in ("1", ResponseError("WRONGTYPE"), "3"):
        server.connection.reply(outcome)
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
async def test_a_command_that_is_refused_fails_as_if_the_server_were_away(
    server: EchoServer, redis: CommandConnection, refusal: Exception
) -> None:
    """The commands next to it get their replies."""
    server.answers = False
    replies = [redis.submit(name) for name in "AB"]
    await until(lambda: server.writes)
    server.connection.reply(refusal)
    server.connection.reply("2")
    assert await replies[1] == "2"
    assert cause(replies[0]) is refusal
    assert redis.connects == 1


# Rule 2: a caller can be cancelled


@pytest.mark.parametrize("where", ["connect", "send", "read"])
async def test_cancelling_drops_the_reply_and_not_the_command(
    server: EchoServer, redis: CommandConnection, where: str
) -> None:
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


async def test_commands_that_were_written_fail_when_the_connection_breaks(
    server: EchoServer, redis: CommandConnection
) -> None:
    """The next command connects again."""
    server.answers = False
    replies = [redis.submit("A"), redis.submit("B"), redis.submit("C")]
    replies[1].cancel()
    await until(lambda: server.writes)
    cut = RedisConnectionError("the line was cut")
    server.connection.reply("1")
    server.connection.fail(cut)
    assert await replies[0] == "1"
    await until(replies[2].done)
    assert cause(replies[2]) is cut
    await until(lambda: not redis.connected)
    server.answers = True
    assert await redis.execute("D") == "D"
    assert redis.connects == 2


@pytest.mark.parametrize("where", ["send", "read"])
async def test_commands_that_were_not_written_are_sent_on_the_next_connection(
    server: EchoServer, redis: CommandConnection, where: str
) -> None:
    error = RedisConnectionError("cut")
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
    assert [each.is_connected for each in server.connections] == [
        False,
        True,
    ]


async def test_a_command_that_comes_as_the_connection_breaks_is_sent_on_the_next_one(
    server: EchoServer, redis: CommandConnection
) -> None:
    await redis.execute("A")
    server.connection.fail()
    # By now the reader has seen it, but no other task.
    await asyncio.sleep(0)
    assert await redis.execute("B") == "B"
    assert server.writes == ["A;", "B;"]
    assert redis.connects == 2


async def test_a_connection_that_breaks_while_idle_is_replaced_when_it_is_needed(
    server: EchoServer, redis: CommandConnection
) -> None:
    await redis.execute("A")
    server.connection.fail()
    await until(lambda: not redis.connected)
    assert len(server.attempts) == 1
    assert await redis.execute("B") == "B"


async def test_a_reply_without_a_command_breaks_the_connection_and_not_the_order(
    server: EchoServer, redis: CommandConnection
) -> None:
    await redis.execute("A")
    server.connection.reply("surprise")
    await until(lambda: not redis.connected)
    assert await redis.execute("B") == "B"
    assert redis.connects == 2


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ReadOnlyError("You can't write"), id="command"),
        # Scripts get this error before Redis 7.
        pytest.param(
            ResponseError("Error running script: @user_script: 1: -READONLY You can't"),
            id="script",
        ),
    ],
)
async def test_a_connection_to_a_replica_is_replaced(
    server: EchoServer, redis: CommandConnection, error: Exception
) -> None:
    server.answers = False
    replies = [redis.submit("A"), redis.submit("B")]
    await until(lambda: server.writes)
    server.connection.reply(error)
    await asyncio.wait(replies)
    assert [cause(reply) for reply in replies] == [error] * 2
    server.answers = True
    assert await redis.execute("C") == "C"
    assert [each.is_connected for each in server.connections] == [
        False,
        True,
    ]


# Rule 3: reconnect()


@pytest.mark.parametrize("where", ["send", "read"])
@pytest.mark.parametrize("times", [1, 2])
async def test_reconnect_fails_what_was_written_and_sends_the_rest_again(
    server: EchoServer, redis: CommandConnection, where: str, times: int
) -> None:
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
    assert [each.is_connected for each in server.connections] == [
        False,
        True,
    ]
    assert redis.connects == 2


async def test_reconnect_begins_to_connect_anew(server: EchoServer) -> None:
    """It can lead to another server, which gets as much time to accept."""
    server.stalls.add("connect")
    loop = asyncio.get_running_loop()
    began = loop.time()
    # Long enough for a busy machine to be a second late with each step.
    async with impatient(server, 2, Timing(retry=2)) as redis:
        reply = redis.submit("A", deadline=began + 10)
        await until(lambda: loop.time() > began + 1, pause=PAUSE)
        redis.reconnect()
        await until(lambda: loop.time() > began + 2, pause=PAUSE)
        server.go_on.set()
        assert await reply == "A"
        assert len(server.attempts) == 2
        assert redis.connects == 1


async def test_reconnect_closes_an_idle_connection_and_opens_none(
    server: EchoServer, redis: CommandConnection
) -> None:
    redis.reconnect()
    await redis.execute("A")
    redis.reconnect()
    await until(lambda: not redis.connected)
    redis.reconnect()
    assert len(server.attempts) == 1
    assert await redis.execute("B") == "B"
    assert redis.connects == 2


# Rule 4: commands wait for a bounded time


async def test_commands_wait_while_the_server_is_briefly_away(
    server: EchoServer, redis: CommandConnection
) -> None:
    server.refusals.extend([RedisConnectionError("refused"), OSError(), OSError("no")])
    assert await gather(redis.execute("A"), redis.execute("B")) == ["A", "B"]
    assert len(server.attempts) == 4
    assert redis.connects == 1


async def test_all_commands_fail_when_the_server_stays_away(server: EchoServer) -> None:
    """Commands sent after its return succeed."""
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
        assert len(server.attempts) <= 7
        server.refusals.clear()
        assert await redis.execute("C") == "C"


async def test_commands_fail_sooner_while_the_server_is_away(
    server: EchoServer,
) -> None:
    server.refusals.extend([RedisConnectionError("refused")] * 100)
    async with impatient(server, timing=Timing(retry=0.005)) as redis:
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
async def test_commands_fail_at_once_if_another_attempt_would_not_help(
    server: EchoServer, redis: CommandConnection, error: Exception
) -> None:
    server.refusals.append(error)
    replies = [redis.submit("A"), redis.submit("B")]
    await asyncio.wait(replies)
    assert [cause(reply) for reply in replies] == [error] * 2
    assert len(server.attempts) == 1


@pytest.mark.parametrize("where", ["connect", "send", "read"])
async def test_commands_fail_when_the_server_freezes_at_any_step(
    server: EchoServer, where: str
) -> None:
    server.answers = where != "read"
    server.stalls.add(where)
    async with impatient(server, 0.5) as redis:
        replies = [redis.submit("A"), redis.submit("B")]
        await asyncio.wait(replies)
        assert [type(cause(reply)) for reply in replies] == [TimeoutError] * 2
        server.stalls.clear()
        server.answers = True
        # Another command can still fail with the attempt that is being given up.
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(RedisUnavailable):
                    assert await redis.execute("C") == "C"
                    break


async def test_a_refusal_is_reported_rather_than_the_silence_after_it(
    server: EchoServer,
) -> None:
    refused = RedisConnectionError("refused")
    server.refusals.append(refused)
    async with impatient(server) as redis:
        reply = redis.submit("A")
        await until(lambda: server.attempts)
        server.stalls.add("connect")
        await asyncio.wait([reply])
        assert cause(reply) is refused
        server.stalls.clear()


async def test_new_commands_do_not_prolong_the_wait_for_a_silent_server(
    server: EchoServer,
) -> None:
    server.answers = False
    async with impatient(server) as redis:
        first = redis.submit("A")
        while not first.done():
            redis.submit("B").cancel()
            await asyncio.sleep(0)
        assert isinstance(cause(first), TimeoutError)
        assert str(cause(first)) == "it did not reply for 0.2 seconds"


async def test_a_slow_server_keeps_its_connection(server: EchoServer) -> None:
    """Late commands fail, and their replies go to no other command."""
    server.answers = False
    async with impatient(server, 0.5) as redis:
        replies = [redis.submit(str(number)) for number in range(14)]
        await until(lambda: server.writes)
        for _ in replies:
            # So slow that all replies together take longer than one command waits.
            await asyncio.sleep(0.05)
            server.connection.reply("OK")
        assert await replies[0] == "OK"
        assert isinstance(cause(replies[-1]), TimeoutError)
        server.answers = True
        assert await redis.execute("A") == "A"
        assert redis.connects == 1


async def test_a_command_has_one_deadline_for_all_its_connections(
    server: EchoServer,
) -> None:
    server.stalls.add("send")
    loop = asyncio.get_running_loop()
    # Long enough for a busy machine to be late with each step.
    async with impatient(server, 1.6) as redis:
        first = redis.submit("A")
        await until(lambda: server.stalled)
        end = loop.time() + 0.8
        await until(lambda: loop.time() > end)
        second = redis.submit("B")
        server.stalls = {"send", "connect"}
        await asyncio.wait([first])
        # The connection is dropped, and the next one is never opened.
        await until(lambda: server.stalled == ["connect"])
        assert not second.done()
        await asyncio.wait([second])
        assert isinstance(cause(second), TimeoutError)
        # If the time had started anew, the server would still be connected to.
        assert server.stalled == ["connect"]
        server.stalls.clear()
        server.go_on.set()
        assert await redis.execute("C") == "C"
        assert server.writes == ["A;", "C;"]


async def test_a_command_can_have_less_time_than_others(
    server: EchoServer, redis: CommandConnection
) -> None:
    """It is sent all the same."""
    server.answers = False
    patient = redis.submit("A")
    hasty = redis.submit("B", deadline=redis.deadline() - 4.9)
    with pytest.raises(RedisUnavailable, match=r"it did not reply"):
        await hasty
    assert not patient.done()
    for reply in "12":
        server.connection.reply(reply)
    assert await patient == "1"


class Ended(asyncio.Future[None]):
    """A task that has ended before it was returned."""

    def set_name(self, _: object) -> None:
        """Behave like a task, which some Pythons name only after creating it."""


async def test_a_connection_that_cannot_be_made_fails_commands_of_eager_tasks_too() -> (
    None
):
    def connect() -> Connection:
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


async def test_a_reply_that_came_while_the_event_loop_was_blocked_counts(
    server: EchoServer,
) -> None:
    server.answers = False
    async with impatient(server) as redis:
        reply = redis.submit("A")
        await until(lambda: server.writes)
        await turn()
        loop = asyncio.get_running_loop()
        # uvloop does this: it runs timers before it reads sockets.
        loop.call_later(0.21, server.connection.reply, "OK")
        time.sleep(0.25)  # noqa: ASYNC251 # blocks on purpose
        assert await reply == "OK"
        server.answers = True
        assert await redis.execute("B") == "B"
        assert redis.connects == 1


async def test_a_server_without_commands_can_be_silent(server: EchoServer) -> None:
    async with impatient(server) as redis:
        loop = asyncio.get_running_loop()
        await redis.execute("A")
        end = loop.time() + 0.3
        await until(lambda: loop.time() > end)
        assert await redis.execute("B") == "B"
        assert redis.connects == 1


# close()


@pytest.mark.parametrize("where", ["start", "connect", "send", "read", "pause"])
async def test_close_fails_all_commands_in_every_state(
    server: EchoServer, redis: CommandConnection, where: str
) -> None:
    """The connection can be used again."""
    server.stalls.add(where)
    server.unreachable = where == "pause"
    replies = [redis.submit("A"), redis.submit("B")]
    if where != "start":
        await until(lambda: server.stalled or len(server.attempts) > 2)
        replies.append(redis.submit("C"))
    await redis.close()
    for reply in replies:
        assert isinstance(cause(reply), ConnectionAbortedError)
    assert not redis.connected
    server.stalls.clear()
    server.unreachable = False
    assert await redis.execute("D") == "D"
    assert server.writes[-1] == "D;"


async def test_a_command_issued_while_it_closes_gets_its_reply_or_fails(
    redis: CommandConnection,
) -> None:
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


async def test_a_command_issued_while_it_closes_before_its_start_fails(
    redis: CommandConnection,
) -> None:
    replies: list[asyncio.Future[Any]] = []
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: replies.append(redis.submit("B")))
    replies.append(redis.submit("A"))
    await redis.close()
    assert [type(cause(reply)) for reply in replies] == [ConnectionAbortedError] * 2


# For the owner of several connections


@pytest.mark.parametrize("where", ["connect", "send", "read"])
async def test_an_error_says_whether_a_command_was_sent(
    server: EchoServer, redis: CommandConnection, where: str
) -> None:
    """One that was not can be sent elsewhere."""
    server.stalls.add(where)
    reply = redis.submit("A")
    await until(lambda: server.stalled)
    await redis.close("another server is the master")
    assert isinstance(reply.exception(), NotSent) == (where == "connect")
    assert str(reply.exception()) == (
        "redis-1 is not available: another server is the master"
    )
    server.stalls.clear()


async def test_each_failure_is_reported_to_the_owner(server: EchoServer) -> None:
    """By then, the commands that fail are still pending."""
    broken: list[tuple[str, bool]] = []

    def note(why: Exception) -> None:
        broken.append((str(why), commands.pending))

    commands = CommandConnection(
        server.connect, "redis-1", timing=NO_PAUSE, broken=note
    )
    server.refusals.append(RedisConnectionError("refused"))
    assert await commands.execute("A") == "A"
    server.cut()
    await until(lambda: len(broken) == 2)
    server.silent.add("B")
    reply = commands.submit("B")
    await until(lambda: len(server.told) == 2)
    server.cut()
    with pytest.raises(RedisUnavailable, match=r"the line was cut"):
        await reply
    cut = "the line was cut"
    assert broken == [("refused", True), (cut, False), (cut, True)]
    await commands.close()


async def test_errors_that_its_owner_handles_are_raised(server: EchoServer) -> None:
    redis = CommandConnection(server.connect, "redis-1", refuses=lambda _: False)
    server.refuses["A"] = ResponseError("BUSY Redis is busy running a script")
    with pytest.raises(ResponseError, match=r"BUSY"):
        await redis.execute("A")
    await redis.close()


@pytest.mark.parametrize("where", ["connect", "read"])
async def test_silence_lasts_from_the_last_reply(
    server: EchoServer, redis: CommandConnection, where: str
) -> None:
    """Or from the beginning of an attempt to connect; it needs a pending command."""
    assert (redis.silence(), redis.pending) == (0, False)
    if where == "read":
        await redis.execute("A")
        server.silent.add("B")
    else:
        server.stalls.add("connect")
    assert redis.silence() == 0
    reply = redis.submit("B")
    assert redis.silence() == 0
    await until(lambda: server.stalled or server.asked("B"))
    assert redis.pending
    before = redis.silence()
    await until(lambda: redis.silence() > before)
    server.stalls.clear()
    server.go_on.set()
    if where == "read":
        server.connection.reply("B")
    assert await reply == "B"
    assert (redis.silence(), redis.pending) == (0, False)
