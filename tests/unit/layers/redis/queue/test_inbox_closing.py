"""The inbox: it is told to connect again, or to close, whatever goes on."""

import pytest

from tests.waiting import turn, until

from .fake_redis import REFUSED, WRONG_TYPE, FakeRedis
from .reader import Logged, Reader

PLAIN = "asgi:plain"


async def begin(state: str, server: FakeRedis, reader: Reader) -> None:
    """Bring an inbox into a state in which somebody wants to read a plain channel."""
    server.unreachable = state == "connecting"
    server.refusals.extend([OSError("refused")] * (state == "failing"))
    server.silent.update(["EVALSHA"] * (state == "popping"))
    if state == "polling":
        server.refuses["CLIENT TRACKING"] = REFUSED
    if state != "unused":
        reader.inbox.want("plain")
    if state != "starting":
        await turn()
    if state.startswith("reconnecting"):
        reader.inbox.reconnect()
        reader.inbox.reconnect()
        await turn(int(state.removeprefix("reconnecting-")))
    server.unreachable = False
    server.silent.clear()


in_every_state = pytest.mark.parametrize(
    "state",
    [
        "unused",
        "starting",
        "connecting",
        "failing",
        "popping",
        "sleeping",
        "polling",
        # Drops its connections, in a few turns of the event loop.
        *[f"reconnecting-{turns}" for turns in range(4)],
    ],
)


@in_every_state
async def test_reconnect(
    server: FakeRedis, reader: Reader, logged: Logged, state: str
) -> None:
    """reconnect() opens new connections, whatever goes on, and logs nothing."""
    await begin(state, server, reader)
    before, connected, noted = server.open, reader.connected, logged()
    reader.inbox.reconnect()
    reader.inbox.want("plain")
    await until(lambda: reader.connected > connected)
    await until(lambda: not any(connection.open for connection in before))
    server.add(PLAIN, b"message")
    await until(lambda: reader.got)
    assert server.popper not in before
    assert reader.connected == connected + 1
    assert logged()[: len(noted)] == noted
    assert not [text for _, text in logged()[len(noted) :] if "cannot" in text]


@in_every_state
async def test_close(server: FakeRedis, reader: Reader, state: str) -> None:
    """close() gives back what was not acknowledged, and the inbox can be used again."""
    server.add(PLAIN, b"1", b"2", b"3")
    await begin(state, server, reader)
    for popped in reader.got[:1]:
        popped.acknowledge(soon=False)
    await reader.inbox.close()
    await reader.commands.close()
    assert server.open == []
    left = [b"1", b"2", b"3"]
    assert sorted(server.queues[PLAIN]) == left[len(reader.got[:1]) :]
    reader.inbox.want("plain")
    await until(lambda: server.open)


async def test_close_refused(server: FakeRedis, reader: Reader) -> None:
    """close() gives all queues back, even if Redis refuses one."""
    server.add("asgi:wrong", b"1")
    server.add(PLAIN, b"2")
    for name in ("wrong", "plain", "empty!"):
        reader.inbox.want(name)
    await until(lambda: len(reader.got) == 2)
    server.refused["asgi:wrong"] = WRONG_TYPE
    await reader.inbox.close()
    assert list(server.queues["asgi:wrong"]) == []
    assert list(server.queues[PLAIN]) == [b"2"]


async def test_close_while_a_batch_is_on_its_way(
    server: FakeRedis, idle: Reader
) -> None:
    """A batch whose reply did not come in time is delivered before close() returns."""
    server.silent.add("ZCARD")
    server.add("asgi:mine!", b"1")
    await until(lambda: server.queues["asgi::inflight:{asgi:mine!}:me"])
    server.silent.clear()
    await idle.inbox.close()
    assert idle.values == [b"1"]


async def test_acknowledging_after_close(server: FakeRedis, reader: Reader) -> None:
    """What is acknowledged too late for Redis to learn of it opens no connection."""
    server.add(PLAIN, b"1")
    reader.inbox.want("plain")
    await until(lambda: reader.got)
    await reader.inbox.close()
    await reader.commands.close()
    reader.got[0].acknowledge()
    await turn()
    assert server.open == []
    assert list(server.queues[PLAIN]) == [b"1"]
