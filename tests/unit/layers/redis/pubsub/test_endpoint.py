"""The pub/sub layer's state in one event loop, and its handling of messages."""

import asyncio
import functools
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.notices import Notice
from fast_channels.layers.redis import RedisPubSubChannelLayer
from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.pubsub import endpoint as module
from fast_channels.layers.redis.pubsub.endpoint import PubSubEndpoint
from fast_channels.layers.redis.pubsub.subscriber import Subscriber
from fast_channels.layers.redis.wire import ResponseError
from tests.clock import Clock, stop_time_in_memory
from tests.unit.layers.redis.fake_hosts import FakeHosts
from tests.waiting import turn, until

from .fake_pubsub import ONCE, FakePubSub

OWN = "asgispecific.me.1!"
SENTINEL = {"sentinels": [("127.0.0.1", 26379)], "master_name": "main"}
TWO_HOSTS = ["redis://one", "redis://two"]
# More groups than a channel leaves in one step.
VERY_MANY = [f"group{number}" for number in range(50)]


@pytest.fixture
def timing() -> Timing:
    return ONCE


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the clock that messages expire by."""
    clock = stop_time_in_memory(monkeypatch)
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch, timing: Timing) -> FakeHosts[FakePubSub]:
    monkeypatch.setattr(Subscriber, "timing", timing)
    return FakeHosts(monkeypatch, FakePubSub)


@pytest.fixture
def layer(request: pytest.FixtureRequest) -> RedisPubSubChannelLayer:
    options: dict[str, Any] = {"capacity": 2, "serializer_format": "json"}
    return RedisPubSubChannelLayer(**(options | getattr(request, "param", {})))


@pytest.fixture
async def endpoint(
    layer: RedisPubSubChannelLayer, hosts: FakeHosts[FakePubSub]
) -> AsyncIterator[PubSubEndpoint]:
    """Give a test an endpoint that must be empty when it is closed."""
    endpoint = PubSubEndpoint(
        layer, "me.1", "on.disconnect", "on.reconnect", patience=0.01, step=10
    )
    yield endpoint
    await endpoint.close()
    assert endpoint.groups.by_group == {}
    assert [server.open for server in hosts.of(layer)] == [[] for _ in layer.hosts]


@pytest.fixture
async def server(
    layer: RedisPubSubChannelLayer, hosts: FakeHosts[FakePubSub]
) -> FakePubSub:
    """Give a test the endpoint's only server."""
    [server] = hosts.of(layer)
    return server


def packed(number: int) -> bytes:
    return json.dumps({"number": number}).encode()


def ignore() -> None:
    """Listen to a mailbox."""


def taken(mailbox: Mailbox) -> list[Any]:
    """Take the messages out of a mailbox, and return their numbers or types."""
    found: list[Any] = []
    while (message := mailbox.take()) is not None:
        found.extend(message.values())
    return found


# Channels of the process


@pytest.mark.parametrize("layer", [{"hosts": TWO_HOSTS}], indirect=True)
async def test_channels_of_a_process_are_one_subscription(
    layer: RedisPubSubChannelLayer,
    endpoint: PubSubEndpoint,
    hosts: FakeHosts[FakePubSub],
) -> None:
    """Every host has the subscription, and wildcards in the prefix are literal."""
    for _ in range(2):
        await endpoint.listen_to_own(r"x[a-c]*?^\.me.1!")
    mailbox = endpoint.attach(r"x[a-c]*?^\.me.1!1", ignore)
    for server in hosts.of(layer):
        assert server.told == [["PSUBSCRIBE", r"x\[a\-c\]\*\?\^\\.me.1!*"]]
        assert server.publish(r"x[a-c]*?^\.me.1!1", packed(1)) == 1
        assert server.publish(r"xa1?^\.me.1!1", packed(2)) == 0
    await until(lambda: layer.counters.delivered == 2)
    assert taken(mailbox) == [1, 1]


async def test_listener_is_called_for_each_message(
    layer: RedisPubSubChannelLayer, endpoint: PubSubEndpoint, server: FakePubSub
) -> None:
    """Messages for which there is no room are dropped and counted."""
    calls: list[None] = []
    mailbox = endpoint.attach(f"{OWN}a", lambda: calls.append(None))
    await endpoint.listen_to_own(OWN)
    for number in range(3):
        server.publish(f"{OWN}a", packed(number))
    await until(lambda: layer.counters.dropped)
    assert taken(mailbox) == [0, 1]
    assert len(calls) == layer.counters.delivered == 2


async def test_undecodable_message_is_counted_and_logged(
    layer: RedisPubSubChannelLayer,
    endpoint: PubSubEndpoint,
    server: FakePubSub,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Later messages arrive."""
    await endpoint.listen_to_own(OWN)
    mailbox = endpoint.attach(f"{OWN}a", ignore)
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
async def test_message_whose_handling_fails_is_counted(
    layer: RedisPubSubChannelLayer,
    endpoint: PubSubEndpoint,
    server: FakePubSub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str,
    shown: str,
) -> None:
    """The connection stays open, and other messages arrive."""

    def break_down(_: object) -> Any:
        raise KeyError(text)

    await endpoint.join("room", "a")
    await endpoint.join("room", "b")
    await endpoint.listen_to_own(OWN)
    mailbox = endpoint.attach(f"{OWN}a", ignore)
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
    endpoint: PubSubEndpoint, server: FakePubSub, caplog: pytest.LogCaptureFixture
) -> None:
    """Names can be of any length, as other processes choose them."""
    await endpoint.listen_to_own(OWN)
    server.publish(OWN + "x" * 1000, b"?")
    await until(lambda: caplog.messages)
    shown = f"{OWN}{'x' * (200 - len(OWN))}..."
    assert f"through {shown!r} of prefix" in caplog.messages[0]


# Plain channels


class Timers:
    """A fake event loop with timers that a test fires."""

    def __init__(self) -> None:
        self.pending: list[Timer] = []

    def call_later(
        self, delay: float, callback: Callable[..., None], *args: object
    ) -> "Timer":
        timer = Timer(delay, functools.partial(callback, *args))
        self.pending.append(timer)
        return timer

    def fire(self) -> None:
        """Let enough time pass for each timer to fire once."""
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


async def test_plain_channel_is_listened_to_while_it_is_read(
    endpoint: PubSubEndpoint, server: FakePubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ignored when it has had no reader for the expiry."""
    timers = Timers()
    monkeypatch.setattr(endpoint, "loop", timers)
    mailbox = endpoint.plain.open("jobs")
    for _ in range(2):
        endpoint.listen_for_reader("jobs")
    await until(lambda: server.subscribed)
    for _ in range(3):
        timers.fire()
    await turn()
    assert server.told == [["SUBSCRIBE", "jobs"]]
    endpoint.plain.close("jobs", mailbox)
    await turn()
    assert server.told == [["SUBSCRIBE", "jobs"]]
    timers.fire()
    await until(lambda: not server.subscribed)
    assert server.told[1:] == [["UNSUBSCRIBE", "jobs"]]
    assert timers.pending == []

    for _ in range(2):
        endpoint.listen_for_reader("jobs")
    await until(lambda: server.subscribed)
    server.publish("jobs", packed(1))
    await until(endpoint.plain.waiting)
    timers.fire()
    await until(lambda: not server.subscribed)
    endpoint.listen_for_reader("jobs")
    [timer] = timers.pending
    assert timer.delay == 60
    await endpoint.close()
    assert timer.cancelled


async def test_time_without_a_reader_begins_when_the_last_reader_leaves(
    endpoint: PubSubEndpoint, server: FakePubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed endpoint starts no timer."""
    timers = Timers()
    monkeypatch.setattr(endpoint, "loop", timers)
    endpoint.listen_for_reader("jobs")
    [first] = timers.pending
    endpoint.reader_left("jobs")
    assert first.cancelled
    _, second = timers.pending
    assert not second.cancelled
    await endpoint.close()
    endpoint.reader_left("jobs")
    assert all(timer.cancelled for timer in timers.pending)
    assert len(timers.pending) == 2


# Groups


async def test_group_is_listened_to_while_it_has_members(
    endpoint: PubSubEndpoint, server: FakePubSub
) -> None:
    """A message that arrives after the last one has left is dropped."""
    for channel in "aba":
        await endpoint.join("room", channel)
    assert endpoint.groups.by_group == {"room": {"a": 0, "b": 0}}
    assert server.told == [["SUBSCRIBE", "room"]]
    for group, channel in (("room", "a"), ("room", "a"), ("room", "x"), ("y", "b")):
        await endpoint.leave(group, channel)
    await turn()
    assert server.subscribed == ["room"]
    await endpoint.leave("room", "b")
    # Redis has not confirmed it yet.
    server.publish("room", packed(1))
    await until(lambda: not server.subscribed)
    assert endpoint.groups.by_group == {}
    assert endpoint.plain.by_channel == {}


async def test_joining_waits_for_the_subscription(
    endpoint: PubSubEndpoint, server: FakePubSub
) -> None:
    """join() and listen_to_own() return when Redis has confirmed."""
    server.holds = True
    joining = [asyncio.create_task(endpoint.join("room", channel)) for channel in "ab"]
    own = asyncio.create_task(endpoint.listen_to_own(OWN))
    await until(lambda: len(server.held) == 2)
    # Longer than the pause after which a caller checks whether Redis is away.
    await asyncio.wait([*joining, own], timeout=0.03)
    assert not any(task.done() for task in (*joining, own))
    server.release(2)
    async with asyncio.timeout(5):
        await asyncio.gather(*joining, own)


async def test_message_to_a_group_is_decoded_once(
    layer: RedisPubSubChannelLayer,
    endpoint: PubSubEndpoint,
    server: FakePubSub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each member gets its own dict."""
    decoded: list[bytes] = []
    deserialize = layer.deserialize

    def count(data: bytes) -> Any:
        decoded.append(data)
        return deserialize(data)

    monkeypatch.setattr(layer, "deserialize", count)
    channels = [f"{OWN}{name}" for name in "abc"]
    mailboxes = [endpoint.attach(channel, ignore) for channel in channels]
    for channel in channels[:2]:
        await endpoint.join("room", channel)
    server.publish("room", b'{"nested": [1]}')
    await until(lambda: decoded)
    first, second, third = (mailbox.take() for mailbox in mailboxes)
    assert first is not None
    assert second is not None
    assert first == second == {"nested": [1]}
    assert first["nested"] is not second["nested"]
    assert third is None
    assert len(decoded) == 1

    await endpoint.leave("room", channels[1])
    server.publish("room", packed(1))
    await until(lambda: len(decoded) == 2)
    assert list(map(taken, mailboxes)) == [[1], [], []]


async def test_deleted_channel_leaves_its_groups(
    layer: RedisPubSubChannelLayer, endpoint: PubSubEndpoint, server: FakePubSub
) -> None:
    """Later messages to it are dropped, even if it joins a group again."""
    first, second = (f"{OWN}{layer.mailboxes.new_name()}" for _ in range(2))
    await endpoint.listen_to_own(OWN)
    for channel in (first, second):
        await endpoint.join("room", channel)
    await endpoint.join("other", first)
    await endpoint.delete(first)
    await endpoint.delete("unknown")
    assert endpoint.groups.by_group == {"room": {second: 0}}
    await until(lambda: server.subscribed == [f"{OWN}*", "room"])

    await endpoint.join("room", first)
    mailboxes = [layer.mailboxes.open(channel) for channel in (first, second)]
    server.publish(first, packed(1))
    server.publish("room", packed(2))
    await until(lambda: mailboxes[1])
    assert list(map(taken, mailboxes)) == [[], [2]]


async def test_deleted_plain_channel_can_be_read_again(
    endpoint: PubSubEndpoint, server: FakePubSub
) -> None:
    """It leaves its groups, and is listened to again while it has a reader."""
    await endpoint.join("room", "a")
    endpoint.listen_for_reader("a")
    await until(lambda: sorted(server.subscribed) == ["a", "room"])
    await endpoint.delete("a")
    await until(lambda: not server.subscribed)
    assert server.publish("a", packed(1)) == 0
    endpoint.listen_for_reader("a")
    mailbox = endpoint.plain.open("a")
    await until(lambda: server.subscribed)
    server.publish("a", packed(2))
    await until(lambda: mailbox)
    assert taken(mailbox) == [2]
    await endpoint.delete("a")
    assert server.subscribed == ["a"], "a reader is still there"


@pytest.mark.parametrize("end", ["delete", "forget"])
@pytest.mark.parametrize("channel", ["a", f"{OWN}a"], ids=["plain", "own"])
async def test_channel_leaves_very_many_groups_in_steps(
    endpoint: PubSubEndpoint, server: FakePubSub, channel: str, end: str
) -> None:
    """Other tasks run between the steps."""
    await asyncio.gather(*[endpoint.join(group, channel) for group in VERY_MANY])
    ending = asyncio.create_task(
        endpoint.delete(channel) if end == "delete" else endpoint.forget()
    )
    counts = [len(VERY_MANY)]
    while not ending.done():
        await asyncio.sleep(0)
        counts.append(len(endpoint.groups.by_group))
    steps = [before - after for before, after in itertools.pairwise(counts)]
    assert max(steps) == 10
    assert endpoint.groups.by_group == {}
    await until(lambda: not server.subscribed)


async def test_cancelled_deletion_can_be_repeated(
    endpoint: PubSubEndpoint, server: FakePubSub
) -> None:
    """The channel still belongs to some of its groups."""
    await asyncio.gather(*[endpoint.join(group, "a") for group in VERY_MANY])
    deleting = asyncio.create_task(endpoint.delete("a"))
    await until(lambda: len(endpoint.groups.by_group) < len(VERY_MANY))
    deleting.cancel()
    await asyncio.wait([deleting])
    assert endpoint.groups.by_group
    await endpoint.delete("a")
    assert endpoint.groups.by_group == {}
    await until(lambda: not server.subscribed)


# Redis goes away and returns


async def test_all_channels_get_notices_about_the_connection(
    layer: RedisPubSubChannelLayer, endpoint: PubSubEndpoint, server: FakePubSub
) -> None:
    """Channels that are read, attached, or members get them; deleted channels don't."""
    mailboxes = [
        endpoint.attach(f"{OWN}attached", ignore),
        layer.mailboxes.open(f"{OWN}awaited"),
        endpoint.plain.open("jobs"),
        endpoint.plain.open("member"),
    ]
    for channel in (f"{OWN}deleted", f"{OWN}attached", "member"):
        await endpoint.join("room", channel)
    endpoint.listen_for_reader("jobs")
    await endpoint.delete(f"{OWN}deleted")
    server.cut()
    await until(lambda: len(mailboxes[0]) == 2)
    types = ["on.disconnect", "on.reconnect"]
    for mailbox in mailboxes:
        messages = [mailbox.take(), mailbox.take()]
        assert messages == [{"type": name} for name in types]
        # A consumer doesn't need a handler for them.
        assert [type(message) for message in messages] == [Notice] * 2
    assert layer.counters.reconnects == 1
    assert f"{OWN}deleted" not in layer.mailboxes.by_channel


@pytest.mark.parametrize("layer", [{"hosts": TWO_HOSTS}], indirect=True)
async def test_reconnects_of_all_hosts_are_counted(
    layer: RedisPubSubChannelLayer,
    endpoint: PubSubEndpoint,
    hosts: FakeHosts[FakePubSub],
) -> None:
    """A broken connection counts once, however many attempts its replacement takes."""
    await endpoint.listen_to_own(OWN)
    for count in range(1, 6):
        for server in hosts.of(layer):
            server.refusals.extend([OSError("refused")] * count)
            server.cut()
        for server in hosts.of(layer):
            await until(lambda: len(server.connections) == count + 1)  # noqa: B023 # called at once
            await until(lambda: server.subscribed)  # noqa: B023 # as above
        assert layer.counters.reconnects == 2 * count


@pytest.mark.parametrize("timing", [replace(ONCE, patience=0.2)])
async def test_silent_server_is_waited_for_once(
    endpoint: PubSubEndpoint, server: FakePubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joining more groups does not wait again."""
    await endpoint.join("room", "a")
    server.holds = True
    begun = asyncio.get_running_loop().time()
    await endpoint.join("first", "a")
    first = asyncio.get_running_loop().time()
    assert first - begun >= 0.2
    waited: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "wait", waited.append)
        for number in range(20):
            await endpoint.join(f"group{number}", "a")
    assert waited == []
    server.holds = False
    server.cut()
    await until(lambda: len(server.subscribed) == 22)


# The limit is longer than this test: only an arriving reply ends the wait.
@pytest.mark.parametrize("timing", [replace(ONCE, patience=0.05, grace=60)])
async def test_confirmation_that_arrived_in_time_is_not_missed(
    endpoint: PubSubEndpoint, server: FakePubSub
) -> None:
    """The event loop was blocked when it arrived."""
    await endpoint.join("room", "a")
    server.holds = True
    joining = asyncio.create_task(endpoint.join("first", "a"))
    await until(lambda: server.held)
    blocked_until = asyncio.get_running_loop().time() + 0.2
    while asyncio.get_running_loop().time() < blocked_until:
        pass
    await turn()
    assert not joining.done()
    connection, reply = server.held.popleft()
    connection.reply(reply)
    await joining


async def test_joining_does_not_wait_for_a_server_that_is_away(
    endpoint: PubSubEndpoint, server: FakePubSub
) -> None:
    """Messages arrive once it is back."""
    server.unreachable = True
    async with asyncio.timeout(5):
        await endpoint.join("room", "a")
        await endpoint.listen_to_own(OWN)
    server.unreachable = False
    await until(lambda: server.subscribed == [f"{OWN}*", "room"])


@pytest.mark.parametrize("layer", [{"hosts": TWO_HOSTS}], indirect=True)
async def test_each_name_has_its_host(
    layer: RedisPubSubChannelLayer,
    endpoint: PubSubEndpoint,
    hosts: FakeHosts[FakePubSub],
) -> None:
    """A name is published on the host where it is subscribed to."""
    await endpoint.join("asgi__group__a", "x")
    endpoint.listen_for_reader("mails")
    for name in ("asgi__group__a", "mails"):
        await endpoint.publish(name, packed(1))
    told = [{tuple(words[:2]) for words in each.told} for each in hosts.of(layer)]
    assert sorted(told, key=sorted) == [
        {("SUBSCRIBE", name), ("PUBLISH", name)} for name in ("asgi__group__a", "mails")
    ]


async def test_message_to_a_node_of_a_cluster_is_refused(
    endpoint: PubSubEndpoint, server: FakePubSub
) -> None:
    """The error says what to write; checking takes no round trip of its own."""
    server.hello = [b"server", b"redis", b"mode", b"cluster"]
    for _ in range(2):
        with pytest.raises(RedisUnavailable, match=r"write cluster=\[\.\.\.\] instead"):
            await endpoint.publish("room", packed(1))
    server.refuses["PUBLISH"] = ResponseError("wrong")
    server.hello = ResponseError("unknown command 'HELLO'")
    with pytest.raises(ResponseError, match="wrong"):
        await endpoint.publish("room", packed(1))
    assert len(server.writes) == 3
    server.refuses.clear()
    for _ in range(2):
        await endpoint.publish("room", packed(1))
    assert len(server.told) == 5


@pytest.mark.parametrize("layer", [{"hosts": [SENTINEL]}], indirect=True)
@pytest.mark.parametrize("use", ["publish", "join", "own", "plain"])
async def test_using_a_layer_starts_to_watch_for_a_new_master(
    endpoint: PubSubEndpoint,
    server: FakePubSub,
    hosts: FakeHosts[FakePubSub],
    monkeypatch: pytest.MonkeyPatch,
    use: str,
) -> None:
    """A single send does not; a new master gets new connections."""
    [watch] = hosts.watches
    await endpoint.publish("a", packed(1))
    assert not watch.started
    endpoint.shards.settled_at = -1
    if use == "publish":
        await endpoint.publish("a", packed(1))
    elif use == "join":
        await endpoint.join("room", "a")
    elif use == "own":
        await endpoint.listen_to_own(OWN)
    else:
        endpoint.listen_for_reader("jobs")
    assert watch.started
    await endpoint.join("another", "a")
    before = server.open
    watch.switched()
    await endpoint.publish("a", packed(1))
    await until(lambda: len(server.open) == 2)
    await until(lambda: "another" in server.subscribed)
    assert not {*before} & {*server.open}
    await endpoint.close()
    assert watch.closed
