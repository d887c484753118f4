"""The queue layer's state in one event loop, and its handling of messages."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ResponseError

from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.redis import RedisChannelLayer, RedisUnavailable
from fast_channels.layers.redis.queue import endpoint as module
from fast_channels.layers.redis.queue.endpoint import Held, QueueEndpoint
from fast_channels.layers.redis.queue.memberships import Timing
from fast_channels.layers.redis.queue.stand_ins import NAMED, name_of
from fast_channels.layers.redis.scripts import GROUP_ADD, GROUP_DISCARD, SEND, Script
from fast_channels.layers.serializers import CHANNEL_KEY
from tests.clock import stop_time_in_memory
from tests.unit.layers.redis.fake_hosts import FakeHosts, FakeWatch
from tests.waiting import turn, until

from .fake_redis import FakeRedis

SENTINEL = {"sentinels": [("127.0.0.1", 26379)], "master_name": "main"}


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> FakeHosts[FakeRedis]:
    return FakeHosts(monkeypatch, FakeRedis)


@pytest.fixture
async def server(layer: RedisChannelLayer, hosts: FakeHosts[FakeRedis]) -> FakeRedis:
    """Return the server of the endpoint."""
    [server] = hosts.of(layer)
    return server


@pytest.fixture
def watch(endpoint: QueueEndpoint, hosts: FakeHosts[FakeRedis]) -> FakeWatch:
    """Return the watch of the endpoint's master."""
    [watch] = hosts.watches
    return watch


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


def make(layer: RedisChannelLayer, name: str) -> QueueEndpoint:
    return QueueEndpoint(layer, name, group_expiry=60, max_deliveries=0)


@pytest.fixture
async def endpoint(
    layer: RedisChannelLayer, server: FakeRedis
) -> AsyncIterator[QueueEndpoint]:
    endpoint = make(layer, "me.1")
    yield endpoint
    await endpoint.close()
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


async def test_message_goes_to_every_channel_it_is_for(
    server: FakeRedis, endpoint: QueueEndpoint, layer: RedisChannelLayer
) -> None:
    """A copy that a mailbox has no room for is dropped and counted."""
    first, second = (endpoint.attach(f"x.me.1!{name}", ignore) for name in "ab")
    server.add("asgi:x.me.1!", packed(1, "x.me.1!a"), packed(2, "x.me.1!a", "x.me.1!b"))
    server.add("asgi:x.me.1!", packed(3, "x.me.1!a", "x.me.1!b"))
    await until(lambda: layer.counters.delivered == 4)
    assert numbers(first) == [1, 2]
    assert numbers(second) == [2, 3]
    assert layer.counters.dropped == 1


async def test_messages_for_no_channel_are_counted_and_logged(
    server: FakeRedis,
    endpoint: QueueEndpoint,
    layer: RedisChannelLayer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They cannot be decoded, or are for channels of other processes."""
    mailbox = endpoint.attach("x.me.1!a", ignore)
    server.add("asgi:x.me.1!", b"1 is no message")
    server.add("asgi:x.me.1!", packed(2, "x.you.1!a"), packed(3, 5))
    server.add("asgi:x.me.1!", packed(4, "x.you.1!b", "x.me.1!a", ["x.me.1!a"]))
    server.add("asgi:x.me.1!", packed(5, "x.me.1!a", ["x.me.1!a"]))
    await until(lambda: layer.counters.undecodable == 6)
    assert numbers(mailbox) == [4, 5]
    assert layer.statistics()["undecodable"] == 6
    # asyncio logs slow callbacks.
    logged = [text for name, _, text in caplog.record_tuples if name != "asyncio"]
    assert ["so far: JSONSerializer" in message for message in logged] == [
        True,
        False,
        False,
    ]
    assert "2 so far: it is for channel 'x.you.1!a'" in logged[1]
    assert "4 so far: it is for channel 'x.you.1!b'" in logged[2]


async def test_message_in_flight_to_a_deleted_channel_is_dropped(
    server: FakeRedis,
    endpoint: QueueEndpoint,
    layer: RedisChannelLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This holds for the lifetime of a message, and after it."""
    clock = stop_time_in_memory(monkeypatch)
    monkeypatch.setattr(module, "time", clock)
    kept = endpoint.attach("x.me.1!kept", ignore)
    deleted = [f"x.me.1!{layer.mailboxes.new_name()}" for _ in range(2)]
    for name in deleted:
        endpoint.attach(name, ignore)
        await endpoint.delete(name)
    server.add("asgi:x.me.1!", packed(1, *deleted))
    server.add("asgi:x.me.1!", packed(2, deleted[0], "x.me.1!kept"))
    await until(lambda: layer.counters.delivered)
    assert numbers(kept) == [2]
    assert layer.statistics()["channels"] == 1
    clock.advance(layer.expiry)
    server.add("asgi:x.me.1!", packed(3, deleted[0], "x.me.1!kept"))
    await until(lambda: numbers(kept) == [3])
    assert layer.statistics()["channels"] == 1
    # A channel of another process is not a channel of this one.
    await endpoint.delete(deleted[0].replace("me", "you"))


async def test_messages_stay_in_redis_without_channels(
    server: FakeRedis, endpoint: QueueEndpoint
) -> None:
    """The process's queue is not read after its last channel was deleted."""
    for _ in range(2):
        endpoint.attach("x.me.1!a", ignore)
    await until(lambda: server.open)
    await endpoint.delete("x.me.1!a")
    await turn()
    server.add("asgi:x.me.1!", packed(1, "x.me.1!c"))
    await turn()
    assert list(server.queues["asgi:x.me.1!"]) == [packed(1, "x.me.1!c")]


# Stand-ins


def numbered(count: int) -> list[str]:
    """Return the names of channels."""
    return [f"x.me.1!{number:x}.{number:016x}" for number in range(count)]


async def test_stand_in_is_replaced_by_the_members(
    server: FakeRedis,
    endpoint: QueueEndpoint,
    layer: RedisChannelLayer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A member that the message lists as well gets one copy; drops name the group."""
    members = numbered(10)
    mailboxes = [endpoint.attach(name, ignore) for name in members]
    beside = endpoint.attach("x.me.1!beside", ignore)
    for name in members:
        await endpoint.join("room", name)
    stand_in = name_of("room", "x.me.1!")
    server.add("asgi:x.me.1!", packed(1, stand_in))
    server.add("asgi:x.me.1!", packed(2, stand_in, "x.me.1!beside", members[0]))
    await until(lambda: layer.counters.delivered == 21)
    assert [numbers(each) for each in mailboxes[1:]] == [[1, 2]] * 9
    for number in (3, 4):
        server.add("asgi:x.me.1!", packed(number, members[0], stand_in, stand_in))
    await until(lambda: layer.counters.dropped == 2)
    assert numbers(mailboxes[0]) == [1, 2]
    assert [numbers(each) for each in mailboxes[1:]] == [[3, 4]] * 9
    assert numbers(beside) == [2]
    assert (
        f"channel {members[0]!r} is full, so a message to group 'room'" in caplog.text
    )


async def test_members_of_other_queues_have_their_own_stand_in(
    server: FakeRedis, endpoint: QueueEndpoint, layer: RedisChannelLayer
) -> None:
    """A stand-in represents the channels whose names begin like its own."""
    names = [*numbered(8), "y.me.1!0.0"]
    mailboxes = [endpoint.attach(name, ignore) for name in names]
    for name in names:
        await endpoint.join("room", name)
    for number, queue in enumerate(["x.me.1!", "y.me.1!"]):
        server.add(f"asgi:{queue}", packed(number, name_of("room", queue)))
    await until(lambda: layer.counters.delivered == 9)
    assert [numbers(each) for each in mailboxes] == [[0]] * 8 + [[1]]


async def test_stand_in_without_members_stands_for_no_channel(
    server: FakeRedis, endpoint: QueueEndpoint, layer: RedisChannelLayer
) -> None:
    """The last member left while the message was in flight."""
    mailbox = endpoint.attach("x.me.1!a", ignore)
    stand_in = name_of("room", "x.me.1!")
    server.add("asgi:x.me.1!", packed(1, stand_in), packed(2, stand_in, "x.me.1!a"))
    await until(lambda: layer.counters.delivered)
    assert numbers(mailbox) == [2]
    assert layer.statistics()["channels"] == 1
    assert layer.statistics()["undecodable"] == 0


# Changes by other processes


@pytest.fixture
async def owner(
    layer: RedisChannelLayer, server: FakeRedis
) -> AsyncIterator[QueueEndpoint]:
    """Return the endpoint of a process with a name of the real form."""
    endpoint = make(layer, "0123456789ab.1")
    yield endpoint
    await endpoint.close()


def written(server: FakeRedis, script: Script) -> list[list[str]]:
    """Return the channels that scripts added to or removed from groups."""
    return [call.arguments[-1:] for kind, call in server.changes if kind is script]


async def test_change_by_another_process_reaches_the_owner(
    server: FakeRedis,
    endpoint: QueueEndpoint,
    owner: QueueEndpoint,
    layer: RedisChannelLayer,
) -> None:
    """From then on, the owner keeps the membership, or has ended it."""
    channels = [
        f"x.0123456789ab.1!{layer.mailboxes.new_name()}" for _ in range(NAMED + 3)
    ]
    for channel in channels:
        owner.attach(channel, ignore)
        await endpoint.join("room", channel)
    members = owner.groups.by_group
    await until(lambda: members.get("room", {}).keys() == {*channels})
    # Names next to a stand-in are removed.
    await until(lambda: [channels[-1]] in written(server, GROUP_DISCARD))
    await endpoint.leave("room", channels[0])
    await until(lambda: channels[0] not in members["room"])
    assert layer.statistics()["undecodable"] == 0
    assert layer.statistics()["delivered"] == 0


async def test_deleted_channel_does_not_join(
    server: FakeRedis,
    endpoint: QueueEndpoint,
    owner: QueueEndpoint,
    layer: RedisChannelLayer,
) -> None:
    """Its name is removed from the group that another process added it to."""
    deleted, other = (
        f"x.0123456789ab.1!{layer.mailboxes.new_name()}" for _ in range(2)
    )
    owner.attach(other, ignore)
    await owner.delete(deleted)
    await endpoint.join("room", deleted)
    await until(lambda: written(server, GROUP_DISCARD) == [[deleted]])
    assert owner.groups.by_group == {}


@pytest.mark.parametrize(
    "channel", ["jobs", f"specific.{'0' * 32}!{'1' * 32}", "x.0123456789ab.1!other"]
)
async def test_only_owners_that_use_this_library_are_sent_changes(
    server: FakeRedis, endpoint: QueueEndpoint, channel: str
) -> None:
    """Others, such as Django processes, use only what Redis lists."""
    await endpoint.join("room", channel)
    await endpoint.leave("room", channel)
    assert written(server, GROUP_ADD) == [[channel]]
    assert ["ZREM", "asgi::group:room", channel] in server.told
    assert not any(server.queues.values())


@pytest.mark.parametrize(
    "change",
    [
        {"group": "room", "channel": "x.you.1!0.0"},
        {"group": "room", "channel": 5},
        {"group": ["room"], "channel": "x.me.1!0.0"},
        {"group": "room", "channel": "x.me.1!0.0", "type": "chat.message"},
        {},
    ],
)
async def test_malformed_change_is_counted(
    server: FakeRedis,
    endpoint: QueueEndpoint,
    layer: RedisChannelLayer,
    change: dict[str, object],
) -> None:
    """It changes no group."""
    endpoint.attach("x.me.1!a", ignore)
    value = {"type": "group_add", **change, CHANNEL_KEY: "x.me.1!groups"}
    server.add("asgi:x.me.1!", json.dumps(value).encode())
    await until(lambda: layer.statistics()["undecodable"] == 1)
    assert endpoint.groups.by_group == {}


# Plain channels


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon give back messages without a reader, in all endpoints made from now on."""
    monkeypatch.setattr(QueueEndpoint, "timing", Timing(reader=0.005))


@pytest.mark.usefixtures("quick")
async def test_message_without_a_reader_goes_back_to_redis(
    server: FakeRedis, endpoint: QueueEndpoint
) -> None:
    """The reader of a plain channel left before it took the message."""
    endpoint.want("jobs")
    server.add("asgi:jobs", packed(1))
    await until(endpoint.plain.waiting)
    endpoint.unwant("jobs")
    await until(lambda: list(server.queues["asgi:jobs"]) == [packed(1)])
    assert endpoint.plain.waiting() == 0


async def test_messages_wait_while_readers_take_some(
    server: FakeRedis, endpoint: QueueEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time without a reader restarts with each message that is taken."""
    monkeypatch.setattr(endpoint, "timing", Timing(reader=0.1))
    mailbox = endpoint.plain.open("jobs")
    for _ in range(2):
        endpoint.want("jobs")
    started = asyncio.get_running_loop().time()
    server.add("asgi:jobs", packed(1), packed(2))
    await until(lambda: endpoint.plain.waiting() == 2)
    endpoint.unwant("jobs")
    assert mailbox.take() == {"number": 1}
    endpoint.unwant("jobs")
    await until(lambda: server.queues["asgi:jobs"])
    # Clocks of event loops are imprecise.
    assert asyncio.get_running_loop().time() - started > 0.19
    assert list(server.queues["asgi:jobs"]) == [packed(2)]
    endpoint.plain.close("jobs", mailbox)


@pytest.mark.usefixtures("quick")
async def test_message_that_was_taken_does_not_go_back(
    server: FakeRedis, endpoint: QueueEndpoint
) -> None:
    """Only waiting messages are given back."""
    mailbox = endpoint.plain.open("jobs")
    endpoint.want("jobs")
    server.add("asgi:jobs", packed(1))
    assert await mailbox.get() == {"number": 1}
    endpoint.unwant("jobs")
    endpoint.plain.close("jobs", mailbox)
    # When a later message goes back, this one would have gone back too.
    endpoint.want("others")
    server.add("asgi:others", packed(2))
    await until(endpoint.plain.waiting)
    endpoint.unwant("others")
    await until(lambda: server.queues["asgi:others"])
    assert server.queues["asgi:jobs"] == {}


async def test_closing_gives_back_what_waits(
    server: FakeRedis, endpoint: QueueEndpoint
) -> None:
    """A message that was taken and acknowledged is not given back."""
    endpoint.want("jobs")
    endpoint.want("taken")
    for number, name in enumerate(["jobs", "taken"], 1):
        server.add(f"asgi:{name}", packed(number))
    await until(lambda: endpoint.plain.waiting() == 2)
    held = endpoint.plain.by_channel["taken"].take()
    assert isinstance(held, Held)
    held.popped.acknowledge(soon=False)
    await endpoint.close()
    assert {key: list(queue) for key, queue in server.queues.items() if queue} == {
        "asgi:jobs": [packed(1)]
    }
    # No reader has received it, so its time has gone on.
    [last] = [call for call in server.takes if call.arguments[5] == "-1"][:1]
    assert last.arguments[8:] == ["0", "1", packed(1).decode()]


# Connections


async def test_closing_takes_a_moment_while_redis_is_silent(
    server: FakeRedis, layer: RedisChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """close() gives up waiting for replies, and closes the connections."""
    monkeypatch.setattr(QueueEndpoint, "timing", Timing(farewell=0))
    endpoint = make(layer, "me.1")
    endpoint.want("jobs")
    await until(lambda: server.takes)
    server.silent.add("EVALSHA")
    await endpoint.close()
    await until(lambda: server.open == [])


async def test_all_connections_are_opened_anew_for_a_new_master(
    server: FakeRedis,
    endpoint: QueueEndpoint,
    layer: RedisChannelLayer,
    watch: FakeWatch,
) -> None:
    """Those for reading count as reconnects."""
    endpoint.want("jobs")
    assert watch.started
    server.refuses["ZREM"] = ResponseError("NOPERM")
    with pytest.raises(RedisUnavailable, match=r"NOPERM"):
        await endpoint.memberships.remove("room", "x")
    await until(lambda: server.takes)
    assert layer.counters.reconnects == 0
    before = server.open
    watch.switched()
    await until(lambda: layer.counters.reconnects)
    assert [connection.is_connected for connection in before] == [False] * 3
    await endpoint.close()
    assert watch.closed


async def send(endpoint: QueueEndpoint, server: FakeRedis) -> None:
    """Send a message to a server that refuses it and the marker."""
    [shard] = endpoint.shards
    server.refuses["EVALSHA"] = server.refuses["SET"] = ResponseError("NOPERM")
    with pytest.raises(RedisUnavailable, match=r"NOPERM"):
        await endpoint.run(shard, SEND, ["asgi:jobs"], b"", 1, 60)


async def test_sending_for_a_while_watches_for_a_new_master(
    server: FakeRedis, endpoint: QueueEndpoint, watch: FakeWatch
) -> None:
    """A process that sends once and ends does not."""
    await send(endpoint, server)
    assert not watch.started
    endpoint.shards.settled_at = -1
    await send(endpoint, server)
    assert watch.started


async def test_sending_marks_the_prefix(
    server: FakeRedis, endpoint: QueueEndpoint, layer: RedisChannelLayer
) -> None:
    """The marker outlives messages; it is renewed in time, and after forget()."""
    for _ in range(2):
        await send(endpoint, server)
        assert server.asked("SET") == [["SET", "asgi::layer", "", "PX", "40000"]]
    await endpoint.forget()
    await send(endpoint, server)
    assert len(server.asked("SET")) == 2
    layer.expiry = 0.01
    hasty = make(layer, "me.2")
    async with asyncio.timeout(5):
        while len(server.asked("SET")) < 4:
            await send(hasty, server)
    await hasty.close()


async def test_message_that_arrives_during_closing_stays_in_redis(
    server: FakeRedis,
    endpoint: QueueEndpoint,
    watch: FakeWatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is left for other processes; no timer here waits for a reader any more."""
    closed = asyncio.Event()
    monkeypatch.setattr(watch, "close", closed.wait)
    endpoint.want("jobs")
    await until(lambda: bool(server.takes))
    closing = asyncio.create_task(endpoint.close())
    await asyncio.sleep(0)
    server.add("asgi:jobs", packed(1))
    await turn()
    server.add("asgi:jobs", packed(2))
    await turn()
    closed.set()
    await closing
    assert list(server.queues["asgi:jobs"]) == [packed(1), packed(2)]
    # The timer that would wait for a reader, and read on for it.
    assert vars(endpoint)["_expecting"] == {}
