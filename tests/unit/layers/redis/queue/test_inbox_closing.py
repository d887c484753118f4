"""The inbox: reconnect() and close() in every state."""

import pytest

from tests.waiting import turn, until

from .fake_redis import REFUSED, WRONG_TYPE, FakeRedis
from .reader import Logged, Reader

PLAIN = "asgi:plain"


async def begin(state: str, server: FakeRedis, reader: Reader) -> None:
    """Bring an inbox into a state while a reader waits for a plain channel."""
    server.stalls = {"connect"} if state == "connecting" else set()
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
    server.stalls.clear()
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
        # Drops its connections within a few turns of the event loop.
        *[f"reconnecting-{turns}" for turns in range(4)],
    ],
)


@in_every_state
async def test_reconnect_opens_new_connections_in_every_state(
    server: FakeRedis, reader: Reader, logged: Logged, state: str
) -> None:
    """Nothing is logged."""
    await begin(state, server, reader)
    before, connected, noted = server.open, reader.connected, logged()
    reader.inbox.reconnect()
    reader.inbox.want("plain")
    await until(lambda: reader.connected > connected)
    await until(lambda: not any(connection.is_connected for connection in before))
    server.add(PLAIN, b"message")
    await until(lambda: reader.got)
    assert server.popper not in before
    assert reader.connected == connected + 1
    assert logged()[: len(noted)] == noted
    assert not [text for _, text in logged()[len(noted) :] if "cannot" in text]


@in_every_state
async def test_close_gives_back_what_was_not_acknowledged_in_every_state(
    server: FakeRedis, reader: Reader, state: str
) -> None:
    """The inbox can be used again."""
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


async def test_close_gives_all_queues_back_even_if_one_is_refused(
    server: FakeRedis, reader: Reader
) -> None:
    server.add("asgi:wrong", b"1")
    server.add(PLAIN, b"2")
    for name in ("wrong", "plain", "empty!"):
        reader.inbox.want(name)
    await until(lambda: len(reader.got) == 2)
    server.refused["asgi:wrong"] = WRONG_TYPE
    await reader.inbox.close()
    assert list(server.queues["asgi:wrong"]) == []
    assert list(server.queues[PLAIN]) == [b"2"]


async def test_a_batch_in_flight_is_delivered_before_close_returns(
    server: FakeRedis, idle: Reader
) -> None:
    server.silent.add("ZCARD")
    server.add("asgi:mine!", b"1")
    await until(lambda: server.queues["asgi::inflight:{asgi:mine!}:me"])
    server.silent.clear()
    await idle.inbox.close()
    assert idle.values == [b"1"]


async def test_a_late_acknowledgement_opens_no_connection(
    server: FakeRedis, reader: Reader
) -> None:
    server.add(PLAIN, b"1")
    reader.inbox.want("plain")
    await until(lambda: reader.got)
    await reader.inbox.close()
    await reader.commands.close()
    reader.got[0].acknowledge()
    await turn()
    assert server.open == []
    assert list(server.queues[PLAIN]) == [b"1"]
