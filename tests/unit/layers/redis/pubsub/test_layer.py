"""The pub/sub layer: names, capacities, statistics, and event loops."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis import RedisPubSubChannelLayer
from fast_channels.layers.redis.pubsub import endpoint as pubsub_client
from fast_channels.layers.redis.pubsub.subscriber import Subscriber
from fast_channels.layers.serializers import MsgPackSerializer
from tests.clock import Clock, stop_time_in_memory
from tests.unit.layers.redis.fake_hosts import FakeHosts
from tests.waiting import turn, until

from .fake_pubsub import ONCE, FakePubSub

MESSAGE = {"type": "test.message"}


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> FakeHosts[FakePubSub]:
    monkeypatch.setattr(Subscriber, "timing", ONCE)
    return FakeHosts(monkeypatch, FakePubSub)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the clock that messages expire by."""
    clock = stop_time_in_memory(monkeypatch)
    monkeypatch.setattr(pubsub_client, "time", clock)
    return clock


@pytest.fixture
async def layer(
    request: pytest.FixtureRequest, hosts: FakeHosts[FakePubSub]
) -> AsyncIterator[RedisPubSubChannelLayer]:
    """Give a test layers with options of its choice, which must be empty at the end."""
    options: dict[str, Any] = getattr(request, "param", {})
    async with RedisPubSubChannelLayer(serializer_format="json", **options) as layer:
        yield layer
    [server] = hosts.of(layer)
    assert server.open == []
    held = layer.statistics()
    assert (held["channels"], held["groups"], held["waiting"]) == (0, 0, 0)


@pytest.fixture
def server(layer: RedisPubSubChannelLayer, hosts: FakeHosts[FakePubSub]) -> FakePubSub:
    [server] = hosts.of(layer)
    return server


def ignore() -> None:
    """Listen to a mailbox."""


# What it is made with


def test_options_follow_hosts_and_prefix_by_keyword() -> None:
    """Only hosts and prefix can be given by position, as in channels_redis."""
    layer = RedisPubSubChannelLayer(["redis://one"], "p", expiry=5, capacity=7)
    assert [str(host) for host in layer.hosts] == ["redis://one:6379/0"]
    assert (layer.prefix, layer.expiry, layer.capacity) == ("p", 5, 7)
    with pytest.raises(TypeError, match=r"positional argument"):
        RedisPubSubChannelLayer(["redis://one"], "p", 5)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] # the mistake


@pytest.mark.parametrize("option", ["group_expiry", "random_prefix_length"])
def test_option_without_effect_is_refused(option: str) -> None:
    """Options of the queue layer that would have no effect are refused."""
    options: dict[str, Any] = {option: 10}
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
        RedisPubSubChannelLayer(**options)


def test_messages_have_no_prefix_and_can_be_encrypted() -> None:
    """Messages need no random prefix; the serializer gets secrets but no age limit."""
    layer = RedisPubSubChannelLayer(symmetric_encryption_keys=["secret"])
    assert isinstance(layer.serializer, MsgPackSerializer)
    assert layer.serializer.random_prefix_length == 0
    assert layer.serializer.crypter is not None
    assert layer.serializer.expiry is None


def test_layer_has_the_defaults_of_the_queue_layer() -> None:
    """By default, the server is on this machine."""
    layer = RedisPubSubChannelLayer()
    assert [str(host) for host in layer.hosts] == ["redis://localhost:6379/0"]
    assert (layer.prefix, layer.expiry, layer.capacity) == ("asgi", 60, 100)
    assert layer.extensions == ["groups", "flush"]


def test_channel_capacity_matches_names_without_the_prefix() -> None:
    """A name with the layer's prefix matches too."""
    layer = RedisPubSubChannelLayer(
        prefix="app.", capacity=9, channel_capacity={"http.*": 2, "mails": 3}
    )
    expected = {"app.http.x!1": 2, "http.x": 2, "mails": 3, "app.specific.x!1": 9}
    assert {name: layer.get_capacity(name) for name in expected} == expected


async def test_layer_reports_what_it_holds_and_has_counted(
    layer: RedisPubSubChannelLayer,
) -> None:
    """Its statistics and its repr show the same numbers."""
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


# Names


@pytest.mark.parametrize("name", [" ", "\x00", "!", "a" * 10_000, "\U0001f30d\n", "*"])
def test_any_text_is_a_name(name: str) -> None:
    """Channels and groups can have any name that isn't empty."""
    layer = RedisPubSubChannelLayer()
    assert layer.require_valid_channel_name(name)
    assert layer.require_valid_channel_name(name, receive=True)
    assert layer.require_valid_group_name(name)


async def test_text_that_cannot_be_encoded_is_no_name(
    layer: RedisPubSubChannelLayer,
) -> None:
    """Every method that takes a name refuses it."""
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
async def test_names_in_redis_are_those_of_channels_redis(
    layer: RedisPubSubChannelLayer, server: FakePubSub
) -> None:
    """Channels keep their names; the names of groups get the prefix."""
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


async def test_only_the_first_new_channel_subscribes(
    layer: RedisPubSubChannelLayer, server: FakePubSub
) -> None:
    """The names differ, and one pattern matches all of them."""
    names = {await layer.new_channel() for _ in range(10)}
    assert len(names) == 10
    assert len(server.told) == 1


async def test_only_channels_of_this_event_loop_can_be_attached(
    layer: RedisPubSubChannelLayer,
) -> None:
    """Others have no mailbox here, or belong to another event loop."""
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
async def test_plain_channel_is_listened_to_for_its_expiry(
    layer: RedisPubSubChannelLayer, server: FakePubSub
) -> None:
    """The time begins when the last task stops receiving from it."""
    receiving = asyncio.create_task(layer.receive("jobs"))
    await until(lambda: server.subscribed == ["jobs"])
    await layer.send("jobs", MESSAGE)
    assert await receiving == MESSAGE
    await until(lambda: server.subscribed == [])


async def test_expired_messages_are_dropped(
    layer: RedisPubSubChannelLayer, clock: Clock
) -> None:
    """They are dropped even if no task receives from their channel."""
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


# Redis goes away and returns


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
async def test_channels_get_the_notices_that_the_layer_is_configured_to_send(
    layer: RedisPubSubChannelLayer, server: FakePubSub, types: list[str]
) -> None:
    """Without the options, no notices are sent."""
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


@pytest.mark.parametrize(
    "layer", [{"connection_kwargs": {"socket_timeout": 0.5}}], indirect=True
)
async def test_sending_raises_while_redis_is_away(
    layer: RedisPubSubChannelLayer, server: FakePubSub
) -> None:
    """new_channel() and group_add() succeed, and messages arrive once Redis is back."""
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


async def test_flush_leaves_every_group_and_drops_messages(
    layer: RedisPubSubChannelLayer, server: FakePubSub
) -> None:
    """Channels can be used afterwards."""
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


async def test_flush_does_not_wait_for_an_event_loop_that_does_not_run(
    layer: RedisPubSubChannelLayer,
) -> None:
    """That loop clears its state if it runs again."""
    another = asyncio.new_event_loop()
    await asyncio.to_thread(another.run_until_complete, layer.new_channel())
    async with asyncio.timeout(5):
        await layer.flush()
    await asyncio.to_thread(another.run_until_complete, another.shutdown_asyncgens())
    another.close()
