"""The pub/sub layer: names, sizes, what it tells of itself, and event loops."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis import RedisPubSubChannelLayer
from fast_channels.layers.redis.pubsub import endpoint as pubsub_client
from fast_channels.layers.redis.serializers import MsgPackSerializer
from tests.clock import Clock, stop_time_in_memory
from tests.unit.layers.redis.queue.fake_redis import turn, until

from .fake_pubsub import FakeHosts, FakePubSub

MESSAGE = {"type": "test.message"}


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> FakeHosts:
    return FakeHosts(monkeypatch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the clock by which messages expire."""
    clock = stop_time_in_memory(monkeypatch)
    monkeypatch.setattr(pubsub_client, "time", clock)
    return clock


@pytest.fixture
async def layer(
    request: pytest.FixtureRequest, hosts: FakeHosts
) -> AsyncIterator[RedisPubSubChannelLayer]:
    """Give a test a layer with options of its choice, which leaves nothing behind."""
    options: dict[str, Any] = getattr(request, "param", {})
    async with RedisPubSubChannelLayer(serializer_format="json", **options) as layer:
        yield layer
    [server] = hosts.of(layer)
    assert server.open == []
    held = layer.statistics()
    assert (held["channels"], held["groups"], held["waiting"]) == (0, 0, 0)


@pytest.fixture
def server(layer: RedisPubSubChannelLayer, hosts: FakeHosts) -> FakePubSub:
    [server] = hosts.of(layer)
    return server


def ignore() -> None:
    """Listen to a mailbox."""


# What it is made with


def test_order_of_arguments() -> None:
    """Arguments may be given by position, in the order of RedisChannelLayer."""
    layer = RedisPubSubChannelLayer(
        ["redis://one"], "p", 5, 50, 7, {"a*": 3}, ["secret"], 4, "msgpack"
    )
    assert [str(host) for host in layer.hosts] == ["redis://one:6379/0"]
    assert (layer.prefix, layer.expiry, layer.group_expiry) == ("p", 5, 50)
    assert (layer.capacity, layer.get_capacity("abc")) == (7, 3)
    assert isinstance(layer.serializer, MsgPackSerializer)
    assert layer.serializer.random_prefix_length == 0
    assert layer.serializer.crypter is not None


def test_defaults() -> None:
    """By default it is for this machine, as RedisChannelLayer is."""
    layer = RedisPubSubChannelLayer()
    assert [str(host) for host in layer.hosts] == ["redis://localhost:6379/0"]
    assert (layer.prefix, layer.expiry, layer.capacity) == ("asgi", 60, 100)
    assert layer.extensions == ["groups", "flush"]


def test_capacity() -> None:
    """Globs are about names as they are, or as they follow the prefix."""
    layer = RedisPubSubChannelLayer(
        prefix="app.", capacity=9, channel_capacity={"http.*": 2, "mails": 3}
    )
    expected = {"app.http.x!1": 2, "http.x": 2, "mails": 3, "app.specific.x!1": 9}
    assert {name: layer.get_capacity(name) for name in expected} == expected


async def test_report(layer: RedisPubSubChannelLayer) -> None:
    """What it holds, and has counted, is in its statistics and its repr."""
    first, second = [await layer.new_channel() for _ in range(2)]
    for group, channel in (("x", first), ("x", second), ("y", first)):
        await layer.group_add(group, channel)
    layer.attach(first, ignore)
    layer.attach(second, ignore)
    await layer.group_send("x", MESSAGE)
    await until(lambda: layer.statistics()["waiting"] == 2)
    assert layer.statistics() == {
        "channels": 2,
        "groups": 2,
        "waiting": 2,
        "delivered": 2,
        "dropped": 0,
        "undecodable": 0,
        "reconnects": 0,
    }
    assert repr(layer) == (
        "<RedisPubSubChannelLayer [redis://localhost:6379/0, prefix 'asgi', "
        "2 channels, 2 groups, 2 messages waiting, 0 dropped]>"
    )
    await layer.delete_channel(first)
    await layer.delete_channel(second)


def test_secrets() -> None:
    """Neither its repr nor its statistics tell a password or a key."""
    layer = RedisPubSubChannelLayer(
        ["redis://user:hunter2@one", {"host": "two", "password": "sesame"}],
        symmetric_encryption_keys=["key-of-keys"],
    )
    told = f"{layer!r} {layer.statistics()}"
    assert "redis://user:***@one:6379/0" in told
    for secret in ("hunter2", "sesame", "key-of-keys"):
        assert secret not in told


# Names


@pytest.mark.parametrize("name", [" ", "\x00", "!", "a" * 10_000, "\U0001f30d\n", "*"])
def test_names(name: str) -> None:
    """Any str that is not empty names a channel or a group."""
    layer = RedisPubSubChannelLayer()
    assert layer.require_valid_channel_name(name)
    assert layer.require_valid_channel_name(name, receive=True)
    assert layer.require_valid_group_name(name)


@pytest.mark.parametrize("name", ["", None, b"bytes"], ids=repr)
def test_what_is_no_name(name: Any) -> None:
    """What is empty, or no str, is refused."""
    layer = RedisPubSubChannelLayer()
    for kind, require in (
        ("channel", layer.require_valid_channel_name),
        ("group", layer.require_valid_group_name),
    ):
        problem = f"{name!r} is not a {kind} name: it must be a non-empty str"
        with pytest.raises(TypeError, match=rf"^{re.escape(problem)}$"):
            require(name)


async def test_lone_surrogates(layer: RedisPubSubChannelLayer) -> None:
    """A str that cannot be encoded is refused wherever a name is taken."""
    name = "room \ud800"
    problem = r"name: it must be a str that can be encoded$"
    for use in (
        layer.new_channel(name),
        layer.send(name, MESSAGE),
        layer.receive(name),
        layer.group_add("room", name),
        layer.group_discard("room", name),
    ):
        with pytest.raises(
            TypeError, match=rf"'room \\ud800' is not a channel {problem}"
        ):
            await use
    for use in (
        layer.group_add(name, "channel"),
        layer.group_discard(name, "channel"),
        layer.group_send(name, MESSAGE),
    ):
        with pytest.raises(
            TypeError, match=rf"'room \\ud800' is not a group {problem}"
        ):
            await use


@pytest.mark.parametrize(
    "layer", [{"prefix": "app[1]*?-^\\"}], ids=["wildcards"], indirect=True
)
async def test_names_in_redis(
    layer: RedisPubSubChannelLayer, server: FakePubSub
) -> None:
    """Redis knows channels by their names, and groups by names with the prefix."""
    channel = await layer.new_channel("chat")
    assert channel.startswith("app[1]*?-^\\chat.")
    await layer.group_add("room", channel)
    await layer.send(channel, MESSAGE)
    await layer.group_send("room", MESSAGE)
    await layer.send("mails", MESSAGE)
    own, group, *published = server.told
    assert own[0] == "PSUBSCRIBE"
    assert own[1].startswith("app\\[1\\]\\*\\?\\-\\^\\\\chat.")
    assert group == ["SUBSCRIBE", "app[1]*?-^\\__group__room"]
    assert published == [
        ["PUBLISH", name, json.dumps(MESSAGE)]
        for name in (channel, "app[1]*?-^\\__group__room", "mails")
    ]
    async with asyncio.timeout(5):
        assert [await layer.receive(channel) for _ in range(2)] == [MESSAGE] * 2


# Channels


async def test_new_channel_asks_once(
    layer: RedisPubSubChannelLayer, server: FakePubSub
) -> None:
    """Redis is told of the first channel alone; the names differ."""
    names = {await layer.new_channel() for _ in range(10)}
    assert len(names) == 10
    assert len(server.told) == 1


async def test_reading_without_waiting(layer: RedisPubSubChannelLayer) -> None:
    """Only a channel that was made in this event loop has a mailbox to attach to."""
    channel = await layer.new_channel()
    mailbox = layer.attach(channel, ignore)
    assert mailbox is not None
    assert layer.attach("jobs", ignore) is None
    assert await asyncio.to_thread(asyncio.run, attach_elsewhere(layer, channel))
    await layer.delete_channel(channel)


async def attach_elsewhere(layer: RedisPubSubChannelLayer, channel: str) -> bool:
    return layer.attach(channel, ignore) is None


@pytest.mark.parametrize("layer", [{"expiry": 0.05}], ids=["short"], indirect=True)
@pytest.mark.usefixtures("clock")
async def test_plain_channel(
    layer: RedisPubSubChannelLayer, server: FakePubSub
) -> None:
    """It is listened to while it is received from, and a while longer."""
    receiving = asyncio.create_task(layer.receive("jobs"))
    await until(lambda: server.subscribed == ["jobs"])
    await layer.send("jobs", MESSAGE)
    assert await receiving == MESSAGE
    await until(lambda: server.subscribed == [])


async def test_what_nobody_fetches(
    layer: RedisPubSubChannelLayer, clock: Clock
) -> None:
    """Messages that nobody receives are forgotten some time after they have expired."""
    channel, unread = [await layer.new_channel() for _ in range(2)]
    for member in (unread, "plain"):
        await layer.group_add("room", member)
    await layer.group_send("room", MESSAGE)
    await until(lambda: layer.statistics()["waiting"] == 2)
    for seconds, waiting in ((59, 2), (61, 0)):
        clock.advance(seconds)
        await layer.send(channel, MESSAGE)
        async with asyncio.timeout(5):
            assert await layer.receive(channel) == MESSAGE
        assert layer.statistics()["waiting"] == waiting


async def test_leaving_a_group(
    layer: RedisPubSubChannelLayer, server: FakePubSub
) -> None:
    """A group is listened to until its last member in the process has left."""
    await layer.group_add("room", "member")
    assert server.subscribed == ["asgi__group__room"]
    await layer.group_discard("room", "member")
    await until(lambda: server.subscribed == [])


# Redis goes and comes


@pytest.mark.parametrize(
    ("layer", "types"),
    [
        ({}, []),
        ({"on_disconnect": "gone"}, ["gone"]),
        ({"on_reconnect": "back"}, ["back"]),
        ({"on_disconnect": "gone", "on_reconnect": "back"}, ["gone", "back"]),
    ],
    ids=["neither", "disconnect", "reconnect", "both"],
    indirect=["layer"],
)
async def test_messages_about_the_connection(
    layer: RedisPubSubChannelLayer, server: FakePubSub, types: list[str]
) -> None:
    """Channels get those messages about the connection that the layer is to send."""
    channel = await layer.new_channel()
    mailbox = layer.attach(channel, ignore)
    assert mailbox is not None
    server.cut()
    await until(lambda: len(server.connections) == 2 and len(mailbox) == len(types))
    await turn()
    got = [mailbox.take() for _ in range(len(mailbox))]
    assert got == [{"type": name} for name in types]
    assert layer.statistics()["reconnects"] == 1
    await layer.delete_channel(channel)


async def test_redis_is_away(
    layer: RedisPubSubChannelLayer,
    server: FakePubSub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who sends is told; who makes a channel and joins is not, and is heard later."""
    monkeypatch.setattr(pubsub_client, "TIMEOUT", 0.5)
    server.unreachable = True
    unavailable = r"^redis://localhost:6379/0 is not available: refused$"
    with pytest.raises(RedisUnavailable, match=unavailable):
        await layer.send("jobs", MESSAGE)
    with pytest.raises(RedisUnavailable, match=unavailable):
        await layer.group_send("room", MESSAGE)
    async with asyncio.timeout(5):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
    server.unreachable = False
    await until(lambda: len(server.subscribed) == 2)
    await layer.group_send("room", MESSAGE)
    assert await layer.receive(channel) == MESSAGE


# The whole layer


async def test_flush(layer: RedisPubSubChannelLayer, server: FakePubSub) -> None:
    """Flushing leaves every group and drops what waits; channels live on."""
    channel = await layer.new_channel()
    for group, member in (("room", channel), ("room", "member"), ("other", channel)):
        await layer.group_add(group, member)
    await layer.group_send("room", MESSAGE)
    await until(lambda: layer.statistics()["waiting"] == 2)
    await layer.flush()
    assert layer.statistics()["waiting"] == 0
    await until(lambda: len(server.subscribed) == 1)
    await layer.group_send("room", MESSAGE)
    await layer.send(channel, {"type": "next"})
    assert await layer.receive(channel) == {"type": "next"}


async def test_flush_while_another_event_loop_rests(
    layer: RedisPubSubChannelLayer,
) -> None:
    """Flushing does not wait for an event loop that does not run."""
    another = asyncio.new_event_loop()
    await asyncio.to_thread(another.run_until_complete, layer.new_channel())
    async with asyncio.timeout(5):
        await layer.flush()
    await asyncio.to_thread(another.run_until_complete, another.shutdown_asyncgens())
    another.close()
