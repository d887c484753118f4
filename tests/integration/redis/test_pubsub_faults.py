"""The pub/sub layer while connections break, and servers stop and restart."""

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Protocol

import pytest

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers import RedisPubSubChannelLayer, register_channel_layer
from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.pubsub.subscriber import Subscriber
from fast_channels.testing import WebsocketCommunicator
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.sentinel import Sentinels
from tests.redis_servers.server import RedisServer
from tests.waiting import PAUSE, until

from .faults.killer import Client, any_client, kill
from .links import LossyLink, slow_link

MESSAGE = {"type": "test.message"}
# Notices about a connection, which channels receive.
TOLD = {"on_disconnect": "gone", "on_reconnect": "back"}
ALIAS = "pubsub"
# Seconds after which a message counts as lost.
LIMIT = 10
# Seconds until messages arrive again: from a restarted server, from a new master.
BACK = 0.5
BACK_AT_NEW_MASTER = 2.0


class MakeLayer(Protocol):
    """Creates a layer for another process."""

    def __call__(
        self, where: RedisServer | Sentinels | str, **options: Any
    ) -> RedisPubSubChannelLayer: ...


@pytest.fixture
async def make_layer(prefix: str) -> AsyncIterator[MakeLayer]:
    """Give a test layers with chosen options; when closed they must be empty."""
    layers: list[RedisPubSubChannelLayer] = []

    def make_layer(
        where: RedisServer | Sentinels | str, **options: Any
    ) -> RedisPubSubChannelLayer:
        if isinstance(where, Sentinels):
            options["sentinels"] = where.addresses
            options["service_name"] = where.service_name
        else:
            options["hosts"] = [where if isinstance(where, str) else where.url]
        layers.append(RedisPubSubChannelLayer(prefix=prefix, **options))
        return layers[-1]

    yield make_layer
    for layer in layers:
        await layer.close()
        held = layer.statistics()
        left = {name: held[name] for name in ("channels", "groups", "waiting")}
        assert not any(left.values()), f"{layer!r} still holds {left}"


class Listener(AsyncWebsocketConsumer):
    """Sends its client the messages of its group, and notices about its connection."""

    channel_layer_alias = ALIAS
    groups = ["crowd"]

    async def gone(self, message: dict[str, Any]) -> None:
        await self.send(message["type"])

    back = test_message = gone


async def next_of(layer: RedisPubSubChannelLayer, channel: str) -> str:
    """Return the type of the next message of a channel."""
    async with asyncio.timeout(LIMIT):
        message = await layer.receive(channel)
    kind: str = message["type"]
    return kind


async def send_until(
    receiving: asyncio.Task[Any], sender: RedisPubSubChannelLayer, group: str = "crowd"
) -> float:
    """Send to a group until a message arrives; return the seconds that this took."""
    begun = time.monotonic()
    while not receiving.done():
        with contextlib.suppress(RedisUnavailable):
            await sender.group_send(group, MESSAGE)
        await asyncio.wait([receiving], timeout=0.005)
    await receiving
    return time.monotonic() - begun


def listens(client: Client) -> bool:
    """Return whether a connection has a subscription."""
    return "P" in client["flags"]


# Connections that break


@pytest.mark.parametrize("chosen", [listens, any_client])
async def test_killed_while_channels_are_added(
    own_redis_server: RedisServer,
    make_layer: MakeLayer,
    monkeypatch: pytest.MonkeyPatch,
    chosen: Callable[[Client], bool],
) -> None:
    """Adding channels never fails, and all of them work afterwards."""
    # Many connections in a row can be killed before they work.
    timing = replace(Subscriber.timing, backoff=(0.01, 0.05))
    monkeypatch.setattr(Subscriber, "timing", timing)
    layer, other = make_layer(own_redis_server), make_layer(own_redis_server)
    channels = [await layer.new_channel("kind0")]
    storm = True

    async def add() -> None:
        while storm:
            number = len(channels)
            channels.append(await layer.new_channel(f"kind{number % 10}"))
            await layer.group_add(f"group{number}", channels[number])
            await layer.group_add("crowd", channels[number])

    def kill_once() -> None:
        if any(map(listens, own_redis_server.clients())):
            kill(own_redis_server, chosen)

    async with asyncio.timeout(2 * LIMIT), asyncio.TaskGroup() as tasks:
        tasks.create_task(add())
        pause, seen = 0.001, 0
        while (reconnects := layer.statistics()["reconnects"]) < 10:
            # A busy machine needs longer than that for a connection to work.
            pause = max(0.001, pause * (0.5 if reconnects > seen else 1.5))
            seen = reconnects
            await asyncio.to_thread(kill_once)
            await asyncio.sleep(pause)
        await until(lambda: len(channels) >= 40)
        storm = False
    # The last command to the server.
    await until(lambda: own_redis_server.command("PUBSUB", "NUMPAT") == 10, pause=PAUSE)
    for number, channel in enumerate(channels[1:], 1):
        await other.send(channel, MESSAGE)
        await other.group_send(f"group{number}", MESSAGE)
        for _ in range(2):
            assert await next_of(layer, channel) == "test.message"
    await other.group_send("crowd", MESSAGE)
    for channel in channels[1:]:
        assert await next_of(layer, channel) == "test.message"
        await layer.delete_channel(channel)


async def test_many_channels(
    own_redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """A process whose channels are in 5000 groups reconnects with a few commands."""
    layer = make_layer(own_redis_server, **TOLD)
    other = make_layer(own_redis_server)
    channel = await layer.new_channel()
    groups = [f"group{number}" for number in range(5000)]
    await asyncio.gather(*[layer.group_add(group, channel) for group in groups])
    before = own_redis_server.command_counts()
    kill(own_redis_server, listens)
    assert await next_of(layer, channel) == "gone"
    assert await next_of(layer, channel) == "back"
    after = own_redis_server.command_counts()
    assert after["subscribe"] - before["subscribe"] == 5
    assert after["psubscribe"] - before["psubscribe"] == 1
    for group in groups[::500]:
        await other.group_send(group, MESSAGE)
        assert await next_of(layer, channel) == "test.message"


# Unavailable servers


@pytest.mark.parametrize("seconds", [0, 1.2])
async def test_restart(
    own_redis_server: RedisServer, make_layer: MakeLayer, seconds: float
) -> None:
    """Messages arrive half a second after a restart, however long the outage was."""
    layer = make_layer(own_redis_server, **TOLD)
    channel = await layer.new_channel()
    await layer.group_add("crowd", channel)
    name = f"{layer.prefix}__group__crowd"
    value = layer.serializer.serialize(MESSAGE)
    own_redis_server.kill()
    assert await next_of(layer, channel) == "gone"
    # This tests time itself: the interval between two attempts.
    await asyncio.sleep(seconds)
    await asyncio.to_thread(own_redis_server.start)
    begun = time.monotonic()
    await until(lambda: own_redis_server.command("PUBLISH", name, value), pause=PAUSE)
    assert time.monotonic() - begun < BACK
    assert [await next_of(layer, channel) for _ in range(2)] == [
        "back",
        MESSAGE["type"],
    ]


async def test_frozen_server(
    own_redis_server: RedisServer,
    make_layer: MakeLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A frozen server is detected, and messages arrive when it is resumed."""
    monkeypatch.setattr(Subscriber, "timing", Timing(idle=0.1, patience=0.2))
    layer = make_layer(
        own_redis_server, **TOLD, connection_kwargs={"socket_timeout": 0.3}
    )
    channel = await layer.new_channel()
    await layer.group_add("crowd", channel)
    own_redis_server.pause()
    try:
        assert await next_of(layer, channel) == "gone"
        async with asyncio.timeout(2):
            # This does not wait for Redis long, and takes effect later.
            await layer.group_add("later", channel)
            with pytest.raises(RedisUnavailable, match=r"is not available: "):
                await layer.group_send("crowd", MESSAGE)
    finally:
        own_redis_server.resume()
    assert await next_of(layer, channel) == "back"
    await layer.delete_channel(channel)
    channel = await layer.new_channel()
    for group in ("crowd", "later"):
        await layer.group_add(group, channel)
        await layer.group_send(group, MESSAGE)
        assert await next_of(layer, channel) == "test.message"


def crash(sentinels: Sentinels) -> RedisServer:
    return sentinels.wait_for_new_master(sentinels.kill_master())


@pytest.mark.parametrize("change", [crash, Sentinels.fail_over])
async def test_new_master(
    breakable_sentinels: Sentinels,
    make_layer: MakeLayer,
    change: Callable[[Sentinels], RedisServer],
) -> None:
    """Messages arrive through a new master within two seconds."""
    layer, other = make_layer(breakable_sentinels), make_layer(breakable_sentinels)
    channel = await layer.new_channel()
    await layer.group_add("crowd", channel)
    await other.group_send("crowd", MESSAGE)
    await next_of(layer, channel)
    old = breakable_sentinels.master
    new = await asyncio.to_thread(change, breakable_sentinels)
    assert new is not old
    receiving = asyncio.create_task(next_of(layer, channel))
    assert await send_until(receiving, other) < BACK_AT_NEW_MASTER
    await layer.delete_channel(channel)


async def test_unreachable_at_start(
    own_redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """Sending fails; consumers connect, and receive once the server is up."""
    own_redis_server.kill()
    layer = make_layer(own_redis_server, connection_kwargs={"socket_timeout": 0.5})
    register_channel_layer(ALIAS, layer)
    expected = re.escape(f"{own_redis_server.url}/0 is not available: ")
    for sending in (
        layer.send("jobs", MESSAGE),
        layer.group_send("crowd", MESSAGE),
    ):
        async with asyncio.timeout(2):
            with pytest.raises(RedisUnavailable, match=expected):
                await sending
    clients = [WebsocketCommunicator(Listener.as_asgi(), "/") for _ in range(3)]
    for client in clients:
        assert await client.connect() == (True, None)
    await asyncio.to_thread(own_redis_server.start)
    for client in clients:
        await send_until(asyncio.create_task(client.receive_from(LIMIT)), layer)
        await client.disconnect()


async def test_consumers_get_notices(
    own_redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """Consumers are notified that they may have missed messages, and stay connected."""
    layer = make_layer(own_redis_server, **TOLD)
    register_channel_layer(ALIAS, layer)
    clients = [WebsocketCommunicator(Listener.as_asgi(), "/") for _ in range(3)]
    for client in clients:
        assert await client.connect() == (True, None)
    kill(own_redis_server, listens)
    for client in clients:
        assert [await client.receive_from(LIMIT) for _ in range(2)] == ["gone", "back"]
    await layer.group_send("crowd", MESSAGE)
    for client in clients:
        assert await client.receive_from(LIMIT) == "test.message"
        await client.disconnect()


class Plain(AsyncWebsocketConsumer):
    """Has no handler for notices about its connection."""

    channel_layer_alias = ALIAS
    groups = ["crowd"]

    async def test_message(self, message: dict[str, Any]) -> None:
        await self.send(message["type"])


class WithoutMailboxes(RedisPubSubChannelLayer):
    """A layer whose consumers call ``receive()``, like a third-party layer."""

    def attach(self, channel: str, listener: Callable[[], None]) -> None:
        return None


@pytest.mark.parametrize("kind", [RedisPubSubChannelLayer, WithoutMailboxes])
async def test_notices_need_no_handler(
    own_redis_server: RedisServer, prefix: str, kind: type[RedisPubSubChannelLayer]
) -> None:
    """A consumer without a handler for notices survives a break; a typo ends one."""
    async with kind(
        [own_redis_server.url], prefix, on_disconnect="gone", on_reconnect="back"
    ) as layer:
        register_channel_layer(ALIAS, layer)
        clients = [WebsocketCommunicator(Plain.as_asgi(), "/") for _ in range(3)]
        listener = WebsocketCommunicator(Listener.as_asgi(), "/")
        for client in (*clients, listener):
            assert await client.connect() == (True, None)
        for _ in range(2):
            kill(own_redis_server, listens)
            assert [await listener.receive_from(LIMIT) for _ in range(2)] == [
                "gone",
                "back",
            ]
            await layer.group_send("crowd", MESSAGE)
            for client in (*clients, listener):
                assert await client.receive_from(LIMIT) == "test.message"
        await layer.group_send("crowd", {"type": "gnoe"})
        for client in (*clients, listener):
            with pytest.raises(ValueError, match="no handler for message type 'gnoe'"):
                await client.wait(LIMIT)


async def test_deep_message(
    own_redis_server: RedisServer,
    make_layer: MakeLayer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Messages that cannot be delivered do not affect other rooms."""
    layer = make_layer(own_redis_server, **TOLD)
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels[:2]:
        await layer.group_add("room", channel)
    await layer.group_add("other", channels[2])
    other = f"{layer.prefix}__group__other"
    room = f"{layer.prefix}__group__room"
    # 500 nested lists in msgpack.
    deep = b"\x82\xa4type\xactest.message\xa4deep" + b"\x91" * 500 + b"\x90"
    with own_redis_server.connect() as sender:
        for number in range(100):
            sender.command("PUBLISH", room, deep)
            value = layer.serializer.serialize({"type": str(number)})
            sender.command("PUBLISH", other, value)
    got = [await next_of(layer, channels[2]) for _ in range(100)]
    assert got == [str(number) for number in range(100)]
    counts = layer.statistics()
    assert counts["reconnects"] == 0
    # Each was counted for both members, or for none.
    assert counts["delivered"] + 2 * counts["undecodable"] == 100 + 200
    assert not [record for record in caplog.records if record.exc_info]
    assert all(len(message) < 500 for message in caplog.messages)
    for channel in channels:
        await layer.delete_channel(channel)


async def test_large_message_on_a_slow_link(
    own_redis_server: RedisServer,
    make_layer: MakeLayer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A message that takes longer to arrive than the limit on silence is not lost."""
    monkeypatch.setattr(Subscriber, "timing", Timing(idle=0.1, patience=0.2))
    async with slow_link(own_redis_server, rate=2_000_000) as link:
        layer = make_layer(link.url)
        channel = await layer.new_channel()
        text = "x" * 3_000_000
        await make_layer(own_redis_server).send(channel, {**MESSAGE, "text": text})
        async with asyncio.timeout(LIMIT):
            message = await layer.receive(channel)
        assert message["text"] == text
        assert layer.statistics()["reconnects"] == 0
        assert caplog.messages == []
        await layer.delete_channel(channel)
        await layer.close()


async def test_lost_packets(
    own_redis_server: RedisServer, make_layer: MakeLayer
) -> None:
    """A layer reconnects even if its attempts hang while the server is unreachable."""
    async with LossyLink(own_redis_server) as link:
        layer = make_layer(link.url, **TOLD)
        channel = await layer.new_channel()
        await layer.group_add("crowd", channel)
        for seconds in (0.5, 1.5):
            await link.lose()
            assert await next_of(layer, channel) == "gone"
            # This tests time itself: attempts to connect hang meanwhile.
            await asyncio.sleep(seconds)
            link.mend()
            assert await next_of(layer, channel) == "back"
        await layer.delete_channel(channel)
        await layer.close()


async def test_wrong_password(
    redis_binary: ServerBinary,
    make_layer: MakeLayer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A changed password is logged as the reason, once, and never shown."""
    with RedisServer(redis_binary, password=secrets.token_hex(8)) as server:
        layer = make_layer(f"redis://:sesame@{server.host}:{server.port}")
        channel = await layer.new_channel()
        await layer.group_add("crowd", channel)
        with pytest.raises(RedisUnavailable) as caught:
            await layer.group_send("crowd", MESSAGE)
        assert "sesame" not in f"{caught.value!r} {caught.value.__cause__!r}"
        [message] = caplog.messages
        assert "cannot be listened to: it refuses the username or the pass" in message
        server.command("CONFIG", "SET", "requirepass", "sesame")
        await send_until(asyncio.create_task(next_of(layer, channel)), layer)
        assert "sesame" not in caplog.text
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
        await layer.delete_channel(channel)


async def test_forbidden_channel(
    own_redis_server: RedisServer,
    make_layer: MakeLayer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A forbidden subscription is retried until it is allowed, and logged once."""
    own_redis_server.command(
        *("ACL", "SETUSER", "default", "resetchannels", "&asgi*", "&test-*")
    )
    layer = make_layer(own_redis_server)
    receiving = asyncio.create_task(next_of(layer, "jobs"))
    await until(lambda: caplog.messages)
    channel = await layer.new_channel()
    await layer.group_add("crowd", channel)
    own_redis_server.command("ACL", "SETUSER", "default", "allchannels")
    await send_until(asyncio.create_task(next_of(layer, channel)), layer)
    await layer.send("jobs", MESSAGE)
    assert await receiving == "test.message"
    began, ended = caplog.messages
    assert "cannot be listened to: " in began
    assert "can be listened to again" in ended
    await layer.delete_channel(channel)
