"""What the pub/sub layer has in one event loop, and what it does with messages."""

import asyncio
import functools
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.notices import Notice
from fast_channels.layers.redis import RedisPubSubChannelLayer
from fast_channels.layers.redis.pubsub import endpoint as module
from fast_channels.layers.redis.pubsub.endpoint import PubSubEndpoint
from tests.clock import Clock, stop_time_in_memory
from tests.unit.layers.redis.queue.fake_redis import turn, until

from .fake_pubsub import ONCE, FakeHosts, FakePubSub

OWN = "asgispecific.me.1!"
SENTINEL = {"sentinels": [("127.0.0.1", 26379)], "master_name": "main"}
TWO_HOSTS = ["redis://one", "redis://two"]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the clock by which messages expire."""
    clock = stop_time_in_memory(monkeypatch)
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def hosts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeHosts:
    return FakeHosts(monkeypatch, getattr(request, "param", ONCE))


@pytest.fixture
def layer(request: pytest.FixtureRequest) -> RedisPubSubChannelLayer:
    options: dict[str, Any] = {"capacity": 2, "serializer_format": "json"}
    return RedisPubSubChannelLayer(**(options | getattr(request, "param", {})))


@pytest.fixture
async def client(
    layer: RedisPubSubChannelLayer, hosts: FakeHosts
) -> AsyncIterator[PubSubEndpoint]:
    """Give a test a client that leaves nothing when it is closed."""
    client = PubSubEndpoint(layer, "me.1", "on.disconnect", "on.reconnect")
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
    layer: RedisPubSubChannelLayer, client: PubSubEndpoint, hosts: FakeHosts
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
    layer: RedisPubSubChannelLayer, client: PubSubEndpoint, server: FakePubSub
) -> None:
    """Listeners are called for each message; dropped messages are counted."""
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
    client: PubSubEndpoint,
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [("x", "KeyError: 'x'"), ("x" * 500, "KeyError: '" + "x" * 189 + "...")],
    ids=["short", "long"],
)
async def test_messages_that_break_something(
    layer: RedisPubSubChannelLayer,
    client: PubSubEndpoint,
    server: FakePubSub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str,
    shown: str,
) -> None:
    """Whatever a message does, it is counted, and the connection and others go on."""

    def break_down(_: object) -> Any:
        raise KeyError(text)

    await client.join("room", "a")
    await client.join("room", "b")
    await client.listen_to_own(OWN)
    mailbox = client.attach(f"{OWN}a", ignore)
    monkeypatch.setattr(module, "copies_of", break_down)
    for _ in range(5):
        server.publish("room", packed(1))
    server.publish(f"{OWN}a", packed(2))
    await until(lambda: mailbox)
    assert taken(mailbox) == [2]
    assert layer.counters.undecodable == 5
    assert layer.counters.reconnects == 0
    assert len(server.attempts) == 1
    # The 1st, 2nd and 4th.
    assert [record.exc_info for record in caplog.records] == [None] * 3
    assert caplog.messages[0] == (
        f"a message that came through 'room' of prefix 'asgi' was dropped, 1 so far: "
        f"{shown}"
    )


async def test_long_names_are_shortened_in_the_log(
    client: PubSubEndpoint, server: FakePubSub, caplog: pytest.LogCaptureFixture
) -> None:
    """Names can be of any length, and come from other processes."""
    await client.listen_to_own(OWN)
    server.publish(OWN + "x" * 1000, b"?")
    await until(lambda: caplog.messages)
    shown = f"{OWN}{'x' * (200 - len(OWN))}..."
    assert f"through {shown!r} of prefix" in caplog.messages[0]


# Plain channels


class Timers:
    """Stands in for an event loop, as far as timers go, which a test fires."""

    def __init__(self) -> None:
        self.pending: list[Timer] = []

    def call_later(
        self, delay: float, callback: Callable[..., None], *args: object
    ) -> "Timer":
        timer = Timer(delay, functools.partial(callback, *args))
        self.pending.append(timer)
        return timer

    def fire(self) -> None:
        """Let so much time pass that each timer fires once."""
        pending, self.pending = self.pending, []
        for timer in pending:
            if not timer.cancelled:
                timer.callback()


@dataclass
class Timer:
    delay: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


async def test_plain_channel(
    client: PubSubEndpoint, server: FakePubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listened to as long as it is read, and until its expiry after that."""
    timers = Timers()
    monkeypatch.setattr(client, "loop", timers)
    mailbox = client.plain.open("jobs")
    for _ in range(2):
        client.listen_for_reader("jobs")
    await until(lambda: server.subscribed)
    for _ in range(3):
        timers.fire()
    await turn()
    assert server.told == [["SUBSCRIBE", "jobs"]]
    client.plain.close("jobs", mailbox)
    await turn()
    assert server.told == [["SUBSCRIBE", "jobs"]]
    timers.fire()
    await until(lambda: not server.subscribed)
    assert server.told[1:] == [["UNSUBSCRIBE", "jobs"]]
    assert timers.pending == []

    for _ in range(2):
        client.listen_for_reader("jobs")
    await until(lambda: server.subscribed)
    server.publish("jobs", packed(1))
    await until(client.plain.waiting)
    timers.fire()
    await until(lambda: not server.subscribed)
    client.listen_for_reader("jobs")
    [timer] = timers.pending
    assert timer.delay == 60
    await client.close()
    assert timer.cancelled


async def test_a_reader_that_comes_back_late(
    client: PubSubEndpoint, server: FakePubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time without a reader begins when the last one has its message."""
    timers = Timers()
    monkeypatch.setattr(client, "loop", timers)
    client.listen_for_reader("jobs")
    [first] = timers.pending
    client.reader_left("jobs")
    assert first.cancelled
    _, second = timers.pending
    assert not second.cancelled
    await client.close()
    client.reader_left("jobs")
    assert all(timer.cancelled for timer in timers.pending)
    assert len(timers.pending) == 2


# Groups


async def test_members(client: PubSubEndpoint, server: FakePubSub) -> None:
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
    client: PubSubEndpoint, server: FakePubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who joins, or makes a channel, waits until Redis confirms that it is heard."""
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    server.holds = True
    joining = [asyncio.create_task(client.join("room", channel)) for channel in "ab"]
    own = asyncio.create_task(client.listen_to_own(OWN))
    await until(lambda: len(server.held) == 2)
    # Longer than it waits before it looks whether Redis is away.
    await asyncio.wait([*joining, own], timeout=0.03)
    assert not any(task.done() for task in (*joining, own))
    server.release(2)
    async with asyncio.timeout(5):
        await asyncio.gather(*joining, own)


async def test_group_message(
    layer: RedisPubSubChannelLayer,
    client: PubSubEndpoint,
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
    layer: RedisPubSubChannelLayer, client: PubSubEndpoint, server: FakePubSub
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


async def test_deleted_plain_channel(
    client: PubSubEndpoint, server: FakePubSub
) -> None:
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


@pytest.mark.parametrize("end", ["delete", "forget"])
async def test_very_many_groups(
    client: PubSubEndpoint,
    server: FakePubSub,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    """Leaving very many groups at once gives others their turn all the time."""
    monkeypatch.setattr(module, "_RUN", 10)
    groups = [f"group{number}" for number in range(200)]
    await asyncio.gather(*[client.join(group, "a") for group in groups])
    ending = asyncio.create_task(
        client.delete("a") if end == "delete" else client.forget()
    )
    counts: list[int] = []
    while not ending.done():
        await asyncio.sleep(0)
        counts.append(len(client.groups))
    steps = [before - after for before, after in itertools.pairwise([200, *counts])]
    assert max(steps) == 10
    assert client.groups == {}
    await until(lambda: not server.subscribed)


async def test_deleting_is_cancelled(
    client: PubSubEndpoint, server: FakePubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion that was cancelled half-way can be made again."""
    monkeypatch.setattr(module, "_RUN", 10)
    groups = [f"group{number}" for number in range(50)]
    await asyncio.gather(*[client.join(group, "a") for group in groups])
    deleting = asyncio.create_task(client.delete("a"))
    await until(lambda: len(client.groups) < 50)
    deleting.cancel()
    await asyncio.wait([deleting])
    assert client.groups
    await client.delete("a")
    assert client.groups == {}
    await until(lambda: not server.subscribed)


# Redis goes and comes


async def test_deleted_channel_of_many_groups(
    client: PubSubEndpoint, server: FakePubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others get their turns while a channel leaves its groups."""
    monkeypatch.setattr(module, "_RUN", 2)
    for number in range(5):
        await client.join(f"group.{number}", OWN + "1")
    deleting = asyncio.create_task(client.delete(OWN + "1"))
    await turn(2)
    assert not deleting.done()
    await deleting
    assert client.groups == {}


async def test_telling_everybody(
    layer: RedisPubSubChannelLayer, client: PubSubEndpoint, server: FakePubSub
) -> None:
    """All channels of the process get a message when it disconnects and reconnects."""
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
    for mailbox in mailboxes:
        messages = [mailbox.take(), mailbox.take()]
        assert messages == [{"type": name} for name in types]
        # No consumer has to have a handler for them.
        assert [type(message) for message in messages] == [Notice] * 2
    assert layer.counters.reconnects == 1
    assert f"{OWN}deleted" not in layer.mailboxes.by_channel


@pytest.mark.parametrize("layer", [{"hosts": TWO_HOSTS}], indirect=True)
async def test_reconnects_are_counted(
    layer: RedisPubSubChannelLayer, client: PubSubEndpoint, hosts: FakeHosts
) -> None:
    """Each connection that broke counts once, at whichever host."""
    await client.listen_to_own(OWN)
    for count in range(1, 6):
        for server in hosts.of(layer):
            server.refusals.extend([OSError("refused")] * count)
            server.cut()
        for server in hosts.of(layer):
            await until(lambda: len(server.connections) == count + 1)  # noqa: B023 # at once
            await until(lambda: server.subscribed)  # noqa: B023 # as above
        assert layer.counters.reconnects == 2 * count


@pytest.mark.parametrize("hosts", [replace(ONCE, patience=0.2)], indirect=True)
async def test_joining_while_redis_is_frozen(
    client: PubSubEndpoint, server: FakePubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many groups a channel joins, it waits once for a silent server."""
    await client.join("room", "a")
    server.holds = True
    begun = asyncio.get_running_loop().time()
    await client.join("first", "a")
    first = asyncio.get_running_loop().time()
    assert first - begun >= 0.2
    waited: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "wait", waited.append)
        for number in range(20):
            await client.join(f"group{number}", "a")
    assert waited == []
    server.holds = False
    server.cut()
    await until(lambda: len(server.subscribed) == 22)


# The grace is as long as this test takes: only what is read ends the waiting.
@pytest.mark.parametrize(
    "hosts", [replace(ONCE, patience=0.05, grace=60)], indirect=True
)
async def test_joining_in_a_blocked_event_loop(
    client: PubSubEndpoint, server: FakePubSub
) -> None:
    """A confirmation that came while the event loop was blocked is waited for."""
    await client.join("room", "a")
    server.holds = True
    joining = asyncio.create_task(client.join("first", "a"))
    await until(lambda: server.held)
    blocked_until = asyncio.get_running_loop().time() + 0.2
    while asyncio.get_running_loop().time() < blocked_until:
        pass
    await turn()
    assert not joining.done()
    connection, reply = server.held.popleft()
    connection.reply(reply)
    await joining


async def test_joining_while_redis_is_away(
    client: PubSubEndpoint, server: FakePubSub
) -> None:
    """Joining does not wait for Redis; messages arrive once it is back."""
    server.unreachable = True
    async with asyncio.timeout(5):
        await client.join("room", "a")
        await client.listen_to_own(OWN)
    server.unreachable = False
    await until(lambda: server.subscribed == [f"{OWN}*", "room"])


@pytest.mark.parametrize("layer", [{"hosts": TWO_HOSTS}], indirect=True)
async def test_shards(
    layer: RedisPubSubChannelLayer, client: PubSubEndpoint, hosts: FakeHosts
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
    client: PubSubEndpoint,
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
