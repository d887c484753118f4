"""The inbox: it is told to connect again, or to close, whatever goes on."""

import asyncio
import logging

import pytest

from .fake_redis import REFUSED, FakeRedis, turn, until
from .reader import Logged, Reader

PLAIN = "asgi:plain"


async def begin(state: str, server: FakeRedis, reader: Reader) -> None:
    """Bring an inbox into a state in which somebody wants to read a plain channel."""
    server.unreachable = state == "connecting"
    server.refusals.extend([OSError("refused")] * (state == "failing"))
    server.silent.update(["EVALSHA"] * (state == "popping"))
    if state == "blocking":
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
        "blocking",
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
    assert logging.WARNING not in [level for level, _ in logged()[len(noted) :]]


@in_every_state
async def test_close(server: FakeRedis, reader: Reader, state: str) -> None:
    """close() gives back what nobody has seen, and the inbox can be used again."""
    unseen = [b"1"] * (state == "popping")
    server.add(PLAIN, *unseen)
    await begin(state, server, reader)
    await reader.inbox.close()
    await reader.commands.close()
    assert server.open == []
    assert list(server.queues[PLAIN]) == unseen
    assert bool(server.leaves) == (state != "unused")
    reader.inbox.want("plain")
    await until(lambda: server.open)


async def test_close_refused(server: FakeRedis, reader: Reader) -> None:
    """close() tells Redis about all queues that it has read, even if one is refused."""
    server.add("asgi:wrong", b"1")
    server.add(PLAIN, b"2")
    for name in ("wrong", "plain", "empty!"):
        reader.inbox.want(name)
    await until(lambda: len(reader.got) == 2)
    for popped in reader.got:
        popped.give_back()
    server.wrong.add("asgi:wrong")
    await reader.inbox.close()
    assert [call.keys[0] for call in server.leaves] == ["asgi:wrong", PLAIN]
    assert list(server.queues[PLAIN]) == [b"2"]


async def test_close_while_unblocking(server: FakeRedis, blocking: Reader) -> None:
    """After close() it does not try again to end what has blocked."""
    server.deaf = True
    blocking.inbox.want("too!")
    await until(lambda: server.told["CLIENT UNBLOCK"])
    await turn()
    await blocking.inbox.close()
    tried, connections = len(server.told["CLIENT UNBLOCK"]), len(server.connections)
    # The next try would be after 0.01 seconds, and timers keep their order.
    await asyncio.sleep(0.02)
    await turn()
    assert len(server.told["CLIENT UNBLOCK"]) == tried
    assert len(server.connections) == connections
