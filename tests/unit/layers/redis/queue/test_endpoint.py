"""What the queue layer has in one event loop, and what it does with messages."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.exceptions import ResponseError

from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.redis import RedisChannelLayer, RedisUnavailable
from fast_channels.layers.redis.hosts import Host
from fast_channels.layers.redis.queue import endpoint as module
from fast_channels.layers.redis.queue.endpoint import CHANNEL_KEY, Held, QueueEndpoint
from fast_channels.layers.redis.scripts import SEND
from fast_channels.layers.redis.sentinel import Master
from tests.clock import stop_time_in_memory

from .fake_redis import FakeRedis, RedisConnection, turn, until

SENTINEL = {"sentinels": [("127.0.0.1", 26379)], "master_name": "main"}


class Watch:
    """Stands in for who watches for a new master."""

    def __init__(self, master: Master, switched: Callable[[], None]) -> None:
        assert master.host.kind == "sentinel"
        self.switched = switched
        self.started = False
        self.closed = False

    def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def watches(monkeypatch: pytest.MonkeyPatch) -> list[Watch]:
    """Give every client that is made from now on watches that do nothing."""
    made: list[Watch] = []

    def make(master: Master, switched: Callable[[], None]) -> Watch:
        made.append(Watch(master, switched))
        return made[-1]

    monkeypatch.setattr(module, "MasterWatch", make)
    return made


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> FakeRedis:
    """Give every client that is made from now on this server."""
    server = FakeRedis()

    def make_connection(_: Host | Master) -> RedisConnection:
        return server.connect()

    monkeypatch.setattr(module, "make_connection", make_connection)
    return server


@pytest.fixture
def layer() -> RedisChannelLayer:
    return RedisChannelLayer(
        [SENTINEL],
        prefix="asgi:",
        expiry=20,
        capacity=2,
        random_prefix_length=0,
        serializer_format="json",
    )


@pytest.fixture
async def client(
    layer: RedisChannelLayer, server: FakeRedis
) -> AsyncIterator[QueueEndpoint]:
    client = QueueEndpoint(layer, "me.1", 0)
    yield client
    await client.close()
    assert server.open == []


def packed(number: int, *channels: object) -> bytes:
    message: dict[str, Any] = {"number": number}
    if channels:
        message[CHANNEL_KEY] = channels[0] if len(channels) == 1 else list(channels)
    return json.dumps(message).encode()


def numbers(mailbox: Mailbox) -> list[int]:
    """Take the messages out of a mailbox."""
    found: list[int] = []
    while (message := mailbox.take()) is not None:
        found.append(message["number"])
    return found


def ignore() -> None:
    """Listen to a mailbox."""


# Channels of the process


async def test_delivering(
    server: FakeRedis, client: QueueEndpoint, layer: RedisChannelLayer
) -> None:
    """A message goes to every channel it is for, until a mailbox is full."""
    first, second = (client.attach(f"x.me.1!{name}", ignore) for name in "ab")
    server.add("asgi:x.me.1!", packed(1, "x.me.1!a"), packed(2, "x.me.1!a", "x.me.1!b"))
    server.add("asgi:x.me.1!", packed(3, "x.me.1!a", "x.me.1!b"))
    await until(lambda: layer.counters.delivered == 4)
    assert numbers(first) == [1, 2]
    assert numbers(second) == [2, 3]
    assert layer.counters.dropped == 1


async def test_messages_for_nobody(
    server: FakeRedis,
    client: QueueEndpoint,
    layer: RedisChannelLayer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What cannot be decoded, or is for others, is counted, and logged now and then."""
    mailbox = client.attach("x.me.1!a", ignore)
    server.add("asgi:x.me.1!", b"1 is no message")
    server.add("asgi:x.me.1!", packed(2, "x.you.1!a"), packed(3, 5))
    server.add("asgi:x.me.1!", packed(4, "x.you.1!b", "x.me.1!a", ["x.me.1!a"]))
    await until(lambda: layer.counters.undecodable == 5)
    assert numbers(mailbox) == [4]
    assert layer.statistics()["undecodable"] == 5
    # asyncio logs what was slow.
    logged = [text for name, _, text in caplog.record_tuples if name != "asyncio"]
    assert ["so far: JSONSerializer" in message for message in logged] == [
        True,
        False,
        False,
    ]
    assert "2 so far: it is for channel 'x.you.1!a'" in logged[1]
    assert "4 so far: it is for channel 'x.you.1!b'" in logged[2]


async def test_deleted_channels(
    server: FakeRedis,
    client: QueueEndpoint,
    layer: RedisChannelLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is under way to a deleted channel is dropped, whenever it comes."""
    clock = stop_time_in_memory(monkeypatch)
    monkeypatch.setattr(module, "time", clock)
    kept = client.attach("x.me.1!kept", ignore)
    deleted = [f"x.me.1!{layer.mailboxes.new_name()}" for _ in range(2)]
    for name in deleted:
        client.attach(name, ignore)
        await client.delete(name)
    server.add("asgi:x.me.1!", packed(1, *deleted))
    server.add("asgi:x.me.1!", packed(2, deleted[0], "x.me.1!kept"))
    await until(lambda: layer.counters.delivered)
    assert numbers(kept) == [2]
    assert layer.statistics()["channels"] == 1
    clock.advance(layer.expiry)
    server.add("asgi:x.me.1!", packed(3, deleted[0], "x.me.1!kept"))
    await until(lambda: numbers(kept) == [3])
    assert layer.statistics()["channels"] == 1
    # One of another process is none of this one.
    await client.delete(deleted[0].replace("me", "you"))


async def test_not_reading_for_a_deleted_channel(
    server: FakeRedis, client: QueueEndpoint
) -> None:
    """Messages stay in Redis once the last channel of the process is deleted."""
    for _ in range(2):
        client.attach("x.me.1!a", ignore)
    await until(lambda: server.open)
    await client.delete("x.me.1!a")
    await turn()
    server.add("asgi:x.me.1!", packed(1, "x.me.1!c"))
    await turn()
    assert list(server.queues["asgi:x.me.1!"]) == [packed(1, "x.me.1!c")]


# Plain channels


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.005)


@pytest.mark.usefixtures("quick")
async def test_giving_back(server: FakeRedis, client: QueueEndpoint) -> None:
    """A message that no reader of a plain channel comes for goes back to Redis."""
    client.want("jobs")
    server.add("asgi:jobs", packed(1))
    await until(client.plain.waiting)
    client.unwant("jobs")
    await until(lambda: list(server.queues["asgi:jobs"]) == [packed(1)])
    assert client.plain.waiting() == 0


async def test_patience(
    server: FakeRedis, client: QueueEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages wait on while readers come for them."""
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    mailbox = client.plain.open("jobs")
    for _ in range(2):
        client.want("jobs")
    started = asyncio.get_running_loop().time()
    server.add("asgi:jobs", packed(1), packed(2))
    await until(lambda: client.plain.waiting() == 2)
    client.unwant("jobs")
    assert mailbox.take() == {"number": 1}
    client.unwant("jobs")
    await until(lambda: server.queues["asgi:jobs"])
    # The clocks of event loops are a bit wrong.
    assert asyncio.get_running_loop().time() - started > 0.19
    assert list(server.queues["asgi:jobs"]) == [packed(2)]
    client.plain.close("jobs", mailbox)


@pytest.mark.usefixtures("quick")
async def test_nothing_to_give_back(server: FakeRedis, client: QueueEndpoint) -> None:
    """What readers have taken stays theirs."""
    mailbox = client.plain.open("jobs")
    client.want("jobs")
    server.add("asgi:jobs", packed(1))
    assert await mailbox.get() == {"number": 1}
    client.unwant("jobs")
    client.plain.close("jobs", mailbox)
    # By the time that a later one goes back, it would have, too.
    client.want("others")
    server.add("asgi:others", packed(2))
    await until(client.plain.waiting)
    client.unwant("others")
    await until(lambda: server.queues["asgi:others"])
    assert server.queues["asgi:jobs"] == {}


async def test_closing_gives_back(server: FakeRedis, client: QueueEndpoint) -> None:
    """What waits in plain channels goes back to Redis when the layer is closed."""
    client.want("jobs")
    client.want("taken")
    for number, name in enumerate(["jobs", "taken"], 1):
        server.add(f"asgi:{name}", packed(number))
    await until(lambda: client.plain.waiting() == 2)
    held = client.plain.by_channel["taken"].take()
    assert isinstance(held, Held)
    held.popped.acknowledge(soon=False)
    await client.close()
    assert {key: list(queue) for key, queue in server.queues.items() if queue} == {
        "asgi:jobs": [packed(1)]
    }
    # As no reader has received it, its time has gone on.
    [last] = [call for call in server.takes if call.arguments[5] == "-1"][:1]
    assert last.arguments[8:] == ["0", "1", packed(1).decode()]


# Connections


async def test_closing_while_redis_is_away(
    server: FakeRedis, client: QueueEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing takes no longer than a moment, even if Redis does not answer."""
    monkeypatch.setattr(module, "_FAREWELL", 0)
    client.want("jobs")
    await until(lambda: server.takes)
    server.silent.add("EVALSHA")
    await client.close()
    await until(lambda: server.open == [])


async def test_a_new_master(
    server: FakeRedis,
    client: QueueEndpoint,
    layer: RedisChannelLayer,
    watches: list[Watch],
) -> None:
    """All connections are opened anew when there is a new master, and counted."""
    [watch] = watches
    client.want("jobs")
    assert watch.started
    server.refuses["ZREM"] = ResponseError("NOPERM")
    with pytest.raises(RedisUnavailable, match=r"NOPERM"):
        await client.memberships.remove("room", "x")
    await until(lambda: server.takes)
    assert layer.counters.reconnects == 0
    before = server.open
    watch.switched()
    await until(lambda: layer.counters.reconnects)
    assert [connection.is_connected for connection in before] == [False] * 3
    await client.close()
    assert watch.closed


async def test_watching_for_a_new_master(
    server: FakeRedis,
    client: QueueEndpoint,
    watches: list[Watch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who only sends watches for a new master when it has done so for a while."""
    server.refuses["EVALSHA"] = server.refuses["SET"] = ResponseError("NOPERM")

    async def send() -> None:
        with pytest.raises(RedisUnavailable, match=r"NOPERM"):
            await client.run(0, SEND, ["asgi:jobs"], b"", 1, 60)

    await send()
    assert not watches[0].started
    monkeypatch.setattr(module, "SHORT", -1)
    await send()
    assert watches[0].started


async def test_the_mark_of_a_prefix(
    server: FakeRedis, client: QueueEndpoint, layer: RedisChannelLayer
) -> None:
    """Senders mark the prefix for longer than messages live, and now and then again."""
    server.refuses["EVALSHA"] = server.refuses["SET"] = ResponseError("NOPERM")

    async def send(client: QueueEndpoint) -> None:
        with pytest.raises(RedisUnavailable, match=r"NOPERM"):
            await client.run(0, SEND, ["asgi:jobs"], b"", 1, 60)

    for _ in range(2):
        await send(client)
        assert server.asked("SET") == [["SET", "asgi::layer", "", "PX", "40000"]]
    await client.forget()
    await send(client)
    assert len(server.asked("SET")) == 2
    layer.expiry = 0.01
    hasty = QueueEndpoint(layer, "me.2", 0)
    async with asyncio.timeout(5):
        while len(server.asked("SET")) < 4:
            await send(hasty)
    await hasty.close()


async def test_a_mark_that_is_given_up(
    server: FakeRedis, client: QueueEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody minds a mark that is cancelled."""
    server.refuses["EVALSHA"] = ResponseError("NOPERM")
    mark: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def submit(*_: object, **__: object) -> asyncio.Future[Any]:
        monkeypatch.undo()
        return mark

    monkeypatch.setattr(client.commands[0], "submit", submit)
    with pytest.raises(RedisUnavailable, match=r"NOPERM"):
        await client.run(0, SEND, ["asgi:jobs"], b"", 1, 60)
    assert mark.cancel()
    await turn()


async def test_what_arrives_while_it_closes(
    server: FakeRedis,
    client: QueueEndpoint,
    watches: list[Watch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message that comes in the last moment stays for others."""
    closed = asyncio.Event()
    monkeypatch.setattr(watches[0], "close", closed.wait)
    client.want("jobs")
    await until(lambda: bool(server.takes))
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    server.add("asgi:jobs", packed(1))
    await turn()
    server.add("asgi:jobs", packed(2))
    await turn()
    closed.set()
    await closing
    assert list(server.queues["asgi:jobs"]) == [packed(1), packed(2)]
    # What would look for a reader in a while, and read on for it.
    assert vars(client)["_expecting"] == {}
