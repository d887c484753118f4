"""What the pub/sub layer has in one event loop, and what it does with messages."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.redis import RedisPubSubChannelLayer, subscriber
from fast_channels.layers.redis import pubsub_client as module
from fast_channels.layers.redis.pubsub_client import PubSubClient
from tests.clock import Clock, stop_time_in_memory

from .fake_pubsub import FakeHosts, FakePubSub
from .fake_redis import turn, until

OWN = "asgispecific.me.1!"
SENTINEL = {"sentinels": [("127.0.0.1", 26379)], "master_name": "main"}
TWO_HOSTS = ["redis://one", "redis://two"]


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(subscriber, "_BACKOFF", (0, 0))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the clock by which messages expire."""
    clock = stop_time_in_memory(monkeypatch)
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> FakeHosts:
    return FakeHosts(monkeypatch)


@pytest.fixture
def layer(request: pytest.FixtureRequest) -> RedisPubSubChannelLayer:
    options: dict[str, Any] = {"capacity": 2, "serializer_format": "json"}
    return RedisPubSubChannelLayer(**(options | getattr(request, "param", {})))


@pytest.fixture
async def client(
    layer: RedisPubSubChannelLayer, hosts: FakeHosts
) -> AsyncIterator[PubSubClient]:
    """Give a test a client that leaves nothing when it is closed."""
    client = PubSubClient(layer, "me.1", "on.disconnect", "on.reconnect")
    yield client
    await client.close()
    assert client.groups == {}
    assert [server.open for server in hosts.of(layer)] == [[] for _ in layer.hosts]


@pytest.fixture
async def server(layer: RedisPubSubChannelLayer, hosts: FakeHosts) -> FakePubSub:
    """Give a test the only server of the client."""
    [server] = hosts.of(layer)
    return server


def packed(number: int) -> bytes:
    return json.dumps({"number": number}).encode()


def ignore() -> None:
    """Listen to a mailbox."""


def taken(mailbox: Mailbox) -> list[Any]:
    """Take the messages out of a mailbox: the numbers in them, or their types."""
    found: list[Any] = []
    while (message := mailbox.take()) is not None:
        found.extend(message.values())
    return found


# Channels of the process


@pytest.mark.parametrize("layer", [{"hosts": TWO_HOSTS}], indirect=True)
async def test_own_channels(
    layer: RedisPubSubChannelLayer, client: PubSubClient, hosts: FakeHosts
) -> None:
    """All channels of a process are one subscription at each host, taken literally."""
    for _ in range(2):
        await client.listen_to_own(r"x[a-c]*?^\.me.1!")
    mailbox = client.attach(r"x[a-c]*?^\.me.1!1", ignore)
    for server in hosts.of(layer):
        assert server.told == [["PSUBSCRIBE", r"x\[a\-c\]\*\?\^\\.me.1!*"]]
        assert server.publish(r"x[a-c]*?^\.me.1!1", packed(1)) == 1
        assert server.publish(r"xa1?^\.me.1!1", packed(2)) == 0
    await until(lambda: layer.counters.delivered == 2)
    assert taken(mailbox) == [1, 1]


async def test_listener(
    layer: RedisPubSubChannelLayer, client: PubSubClient, server: FakePubSub
) -> None:
    """Whoever has attached is told of each message; what finds no room is counted."""
    calls: list[None] = []
    mailbox = client.attach(f"{OWN}a", lambda: calls.append(None))
    await client.listen_to_own(OWN)
    for number in range(3):
        server.publish(f"{OWN}a", packed(number))
    await until(lambda: layer.counters.dropped)
    assert taken(mailbox) == [0, 1]
    assert len(calls) == layer.counters.delivered == 2


async def test_undecodable_messages(
    layer: RedisPubSubChannelLayer,
    client: PubSubClient,
    server: FakePubSub,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What cannot be read is counted and logged, and those after it arrive."""
    await client.listen_to_own(OWN)
    mailbox = client.attach(f"{OWN}a", ignore)
    server.publish(f"{OWN}a", b"\xc1")
    server.publish(f"{OWN}a", packed(1))
    await until(lambda: layer.counters.delivered)
    assert taken(mailbox) == [1]
    assert layer.counters.undecodable == len(caplog.messages) == 1
    assert f"through '{OWN}a' of prefix 'asgi' was dropped" in caplog.messages[0]


# Plain channels


@pytest.mark.parametrize("layer", [{"expiry": 0.03}], indirect=True)
async def test_plain_channel(
    client: PubSubClient, server: FakePubSub, caplog: pytest.LogCaptureFixture
) -> None:
    """It is listened to as long as it is read, and until its expiry after that."""
    mailbox = client.plain.open("jobs")
    for _ in range(2):
        client.listen_for_reader("jobs")
    await until(lambda: server.subscribed)
    # This is about time itself: several times somebody looks whether it is read.
    await asyncio.sleep(0.1)
    assert server.told == [["SUBSCRIBE", "jobs"]]
    client.plain.close("jobs", mailbox)
    await until(lambda: not server.subscribed)
    assert server.told[1:] == [["UNSUBSCRIBE", "jobs"]]

    for _ in range(2):
        client.listen_for_reader("jobs")
    await until(lambda: server.subscribed)
    server.publish("jobs", packed(1))
    await until(client.plain.waiting)
    await until(lambda: not server.subscribed)
    client.listen_for_reader("jobs")
    await client.close()
    # Nobody looks any more.
    await asyncio.sleep(0.05)
    assert caplog.messages == []


# Groups


async def test_members(client: PubSubClient, server: FakePubSub) -> None:
    """A group is listened to from its first member on, until its last one has left."""
    for channel in "aba":
        await client.join("room", channel)
    assert client.groups == {"room": {"a", "b"}}
    assert server.told == [["SUBSCRIBE", "room"]]
    for group, channel in (("room", "a"), ("room", "a"), ("room", "x"), ("y", "b")):
        await client.leave(group, channel)
    await turn()
    assert server.subscribed == ["room"]
    await client.leave("room", "b")
    # Redis has not been told yet.
    server.publish("room", packed(1))
    await until(lambda: not server.subscribed)
    assert client.groups == {}
    assert client.plain.by_channel == {}


async def test_joining_waits(
    client: PubSubClient, server: FakePubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who joins, or makes a channel, waits until Redis confirms that it is heard."""
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    server.holds = True
    joining = [asyncio.create_task(client.join("room", channel)) for channel in "ab"]
    own = asyncio.create_task(client.listen_to_own(OWN))
    # Longer than it waits before it looks whether Redis is away.
    await asyncio.wait([*joining, own], timeout=0.03)
    assert not any(task.done() for task in (*joining, own))
    server.release(2)
    async with asyncio.timeout(5):
        await asyncio.gather(*joining, own)


async def test_group_message(
    layer: RedisPubSubChannelLayer,
    client: PubSubClient,
    server: FakePubSub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is decoded once, and each member gets a dict of its own."""
    decoded: list[bytes] = []
    deserialize = layer.serializer.deserialize

    def count(data: bytes) -> Any:
        decoded.append(data)
        return deserialize(data)

    monkeypatch.setattr(layer.serializer, "deserialize", count)
    channels = [f"{OWN}{name}" for name in "abc"]
    mailboxes = [client.attach(channel, ignore) for channel in channels]
    for channel in channels[:2]:
        await client.join("room", channel)
    server.publish("room", b'{"nested": [1]}')
    await until(lambda: decoded)
    first, second, third = (mailbox.take() for mailbox in mailboxes)
    assert first is not None
    assert second is not None
    assert first == second == {"nested": [1]}
    assert first["nested"] is not second["nested"]
    assert third is None
    assert len(decoded) == 1

    await client.leave("room", channels[1])
    server.publish("room", packed(1))
    await until(lambda: len(decoded) == 2)
    assert list(map(taken, mailboxes)) == [[1], [], []]


async def test_deleted_channel(
    layer: RedisPubSubChannelLayer, client: PubSubClient, server: FakePubSub
) -> None:
    """It leaves its groups, and nothing comes through it any more."""
    first, second = (f"{OWN}{layer.mailboxes.new_name()}" for _ in range(2))
    await client.listen_to_own(OWN)
    for channel in (first, second):
        await client.join("room", channel)
    await client.join("other", first)
    await client.delete(first)
    await client.delete("unknown")
    assert client.groups == {"room": {second}}
    await until(lambda: server.subscribed == [f"{OWN}*", "room"])

    await client.join("room", first)
    mailboxes = [layer.mailboxes.open(channel) for channel in (first, second)]
    server.publish(first, packed(1))
    server.publish("room", packed(2))
    await until(lambda: mailboxes[1])
    assert list(map(taken, mailboxes)) == [[], [2]]


async def test_deleted_plain_channel(client: PubSubClient, server: FakePubSub) -> None:
    """It leaves its groups, and is listened to again when it is received from."""
    await client.join("room", "a")
    client.listen_for_reader("a")
    await until(lambda: sorted(server.subscribed) == ["a", "room"])
    await client.delete("a")
    await until(lambda: not server.subscribed)
    assert server.publish("a", packed(1)) == 0
    client.listen_for_reader("a")
    mailbox = client.plain.open("a")
    await until(lambda: server.subscribed)
    server.publish("a", packed(2))
    await until(lambda: mailbox)
    assert taken(mailbox) == [2]
    await client.delete("a")
    assert server.subscribed == ["a"], "a reader is still there"


# Redis goes and comes


async def test_deleted_channel_of_many_groups(
    client: PubSubClient, server: FakePubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others get their turns while a channel leaves its groups."""
    monkeypatch.setattr(module, "_CHUNK", 2)
    for number in range(5):
        await client.join(f"group.{number}", OWN + "1")
    deleting = asyncio.create_task(client.delete(OWN + "1"))
    await turn(2)
    assert not deleting.done()
    await deleting
    assert client.groups == {}


async def test_telling_everybody(
    layer: RedisPubSubChannelLayer, client: PubSubClient, server: FakePubSub
) -> None:
    """All channels of the process are told of a break, and when it is over."""
    mailboxes = [
        client.attach(f"{OWN}attached", ignore),
        layer.mailboxes.open(f"{OWN}awaited"),
        client.plain.open("jobs"),
        client.plain.open("member"),
    ]
    for channel in (f"{OWN}deleted", f"{OWN}attached", "member"):
        await client.join("room", channel)
    client.listen_for_reader("jobs")
    await client.delete(f"{OWN}deleted")
    server.cut()
    await until(lambda: len(mailboxes[0]) == 2)
    types = ["on.disconnect", "on.reconnect"]
    assert [taken(mailbox) for mailbox in mailboxes] == [types] * 4
    assert layer.counters.reconnects == 1
    assert f"{OWN}deleted" not in layer.mailboxes.by_channel


async def test_joining_while_redis_is_away(
    client: PubSubClient, server: FakePubSub
) -> None:
    """Whoever joins does not wait for Redis to come back, and is heard when it is."""
    server.unreachable = True
    async with asyncio.timeout(5):
        await client.join("room", "a")
        await client.listen_to_own(OWN)
    server.unreachable = False
    await until(lambda: server.subscribed == [f"{OWN}*", "room"])


@pytest.mark.parametrize("layer", [{"hosts": TWO_HOSTS}], indirect=True)
async def test_shards(
    layer: RedisPubSubChannelLayer, client: PubSubClient, hosts: FakeHosts
) -> None:
    """Each name has its host: to listen to as to publish on."""
    await client.join("asgi__group__a", "x")
    client.listen_for_reader("mails")
    for name in ("asgi__group__a", "mails"):
        await client.publish(name, packed(1))
    told = [{tuple(words[:2]) for words in each.told} for each in hosts.of(layer)]
    assert sorted(told, key=sorted) == [
        {("SUBSCRIBE", name), ("PUBLISH", name)} for name in ("asgi__group__a", "mails")
    ]


@pytest.mark.parametrize("layer", [{"hosts": [SENTINEL]}], indirect=True)
@pytest.mark.parametrize("use", ["publish", "join", "own", "plain"])
async def test_new_master(
    client: PubSubClient,
    server: FakePubSub,
    hosts: FakeHosts,
    monkeypatch: pytest.MonkeyPatch,
    use: str,
) -> None:
    """Who listens, or sends for longer than a moment, learns of a new master."""
    [watch] = hosts.watches
    await client.publish("a", packed(1))
    assert not watch.started
    monkeypatch.setattr(module, "SHORT", -1)
    if use == "publish":
        await client.publish("a", packed(1))
    elif use == "join":
        await client.join("room", "a")
    elif use == "own":
        await client.listen_to_own(OWN)
    else:
        client.listen_for_reader("jobs")
    assert watch.started
    await client.join("another", "a")
    before = server.open
    watch.switched()
    await client.publish("a", packed(1))
    await until(lambda: len(server.open) == 2)
    await until(lambda: "another" in server.subscribed)
    assert not {*before} & {*server.open}
    await client.close()
    assert watch.closed
