"""The pub/sub layer's commands and subscriptions on a real server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.layers import RedisPubSubChannelLayer, register_channel_layer
from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.pubsub.subscriber import Subscriber
from fast_channels.testing import WebsocketCommunicator
from tests.redis_servers.proxy import RoundTripProxy
from tests.redis_servers.server import RedisServer
from tests.waiting import PAUSE, until

MESSAGE = {"type": "test.message"}
ALIAS = "pubsub"


@pytest.fixture
async def layer(
    redis_server: RedisServer, prefix: str
) -> AsyncIterator[RedisPubSubChannelLayer]:
    """Give a test the layer of a process, and check that it is empty when closed."""
    async with RedisPubSubChannelLayer(
        [redis_server.url], prefix, expiry=0.2, capacity=10
    ) as layer:
        register_channel_layer(ALIAS, layer)
        yield layer
    held = layer.statistics()
    assert (held["channels"], held["groups"], held["waiting"]) == (0, 0, 0)


@pytest.fixture
async def other(
    redis_server: RedisServer, prefix: str
) -> AsyncIterator[RedisPubSubChannelLayer]:
    """Give a test the layer of another process."""
    async with RedisPubSubChannelLayer([redis_server.url], prefix) as layer:
        yield layer


def listeners(server: RedisServer, name: str) -> int:
    """Return the number of subscribers of a Redis channel."""
    reply = server.command("PUBSUB", "NUMSUB", name)
    assert isinstance(reply, list)
    assert isinstance(reply[1], int)
    return reply[1]


# Round trips


async def test_each_operation(round_trips: RoundTripProxy, prefix: str) -> None:
    """Sending takes one round trip, joining one for each group, and receiving none."""
    async with RedisPubSubChannelLayer([round_trips.url], prefix) as layer:

        async def costs(group: str) -> dict[str, int]:
            found: dict[str, int] = {}

            async def count(name: str, operation: Awaitable[Any]) -> Any:
                before = round_trips.round_trips
                async with asyncio.timeout(10):
                    result = await operation
                found[name] = round_trips.round_trips - before
                return result

            channel = await count("new_channel", layer.new_channel())
            another = await layer.new_channel()
            await count("send", layer.send(channel, MESSAGE))
            await count("receive", layer.receive(channel))
            await count("group_add", layer.group_add(group, channel))
            await count("second member", layer.group_add(group, another))
            await count("group_send", layer.group_send(group, MESSAGE))
            await count("receive from a group", layer.receive(another))
            await count("group_discard", layer.group_discard(group, another))
            many = [layer.send(channel, MESSAGE) for _ in range(50)]
            await count("50 at once", asyncio.gather(*many))
            joining = [layer.group_add(f"{group}{n}", channel) for n in range(50)]
            await count("50 groups at once", asyncio.gather(*joining))
            return found

        # The first time it connects.
        await costs("warm")
        assert await costs("room") == {
            "new_channel": 0,
            "send": 1,
            "receive": 0,
            "group_add": 1,
            "second member": 0,
            "group_send": 1,
            "receive from a group": 0,
            "group_discard": 0,
            "50 at once": 1,
            "50 groups at once": 1,
        }


# Subscriptions


async def test_nothing_is_missed_after_joining(
    layer: RedisPubSubChannelLayer, other: RedisPubSubChannelLayer
) -> None:
    """Messages sent after group_add() has returned arrive, even after leaving."""
    channel = await layer.new_channel()

    async def join_and_hear(name: str) -> None:
        own = await layer.new_channel(name)
        for number in range(20):
            await layer.group_add(name, own)
            await other.group_send(name, {"type": "number", "number": number})
            assert (await layer.receive(own))["number"] == number
            await layer.group_discard(name, own)

    async with asyncio.timeout(10):
        await asyncio.gather(*[join_and_hear(f"room{n}") for n in range(20)])
        await other.send(channel, MESSAGE)
        assert await layer.receive(channel) == MESSAGE


@pytest.mark.parametrize(
    "part", ["!", "*", "[a-z]", "^?", "\\", "\\*", " ", "\U0001f30d"]
)
async def test_prefixes(redis_server: RedisServer, prefix: str, part: str) -> None:
    """With any prefix, a process receives for its own channels and no others."""
    prefix += part
    async with (
        RedisPubSubChannelLayer([redis_server.url], prefix) as layer,
        RedisPubSubChannelLayer([redis_server.url], prefix) as other,
    ):
        channel, foreign = await layer.new_channel(part), await other.new_channel(part)
        await layer.group_add(part, channel)
        for sender in (layer, other):
            await sender.send(foreign, {"type": "for.the.other"})
            await sender.send(channel.replace(part, "a"), {"type": "for.nobody"})
            await sender.send(channel, MESSAGE)
            await sender.group_send(part, MESSAGE)
        async with asyncio.timeout(10):
            assert [await layer.receive(channel) for _ in range(4)] == [MESSAGE] * 4
            for _ in range(2):
                await other.receive(foreign)
        for each in (layer, other):
            assert each.statistics()["waiting"] == 0


async def test_plain_channel(
    layer: RedisPubSubChannelLayer,
    other: RedisPubSubChannelLayer,
    redis_server: RedisServer,
    prefix: str,
) -> None:
    """A plain channel is subscribed while it is received from, and some time longer."""
    name = f"{prefix}jobs"
    receiving = asyncio.create_task(layer.receive(name))
    await until(lambda: listeners(redis_server, name), pause=PAUSE)
    # This tests time itself: the layer checks several times for a reader.
    await asyncio.sleep(0.7)
    await other.send(name, MESSAGE)
    assert await receiving == MESSAGE
    await until(lambda: not listeners(redis_server, name), pause=PAUSE)


async def test_connection_without_subscriptions(
    redis_server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle connection is kept open while the server answers."""
    monkeypatch.setattr(Subscriber, "timing", Timing(idle=0.02, patience=0.1))
    async with RedisPubSubChannelLayer([redis_server.url], prefix) as layer:
        await layer.group_add("room", "member")
        await layer.group_discard("room", "member")
        before = redis_server.command_counts().get("ping", 0)
        await until(
            lambda: redis_server.command_counts()["ping"] > before + 3, pause=PAUSE
        )
        await layer.group_add("room", "member")
        assert layer.statistics()["reconnects"] == 0


# Consumers


class Member(AsyncWebsocketConsumer):
    """Is in a group, and ends or stalls on request."""

    channel_layer_alias = ALIAS
    groups = ["room"]
    go_on = asyncio.Event()

    async def stall(self, _: dict[str, Any]) -> None:
        await self.go_on.wait()

    async def fail(self, _: dict[str, Any]) -> None:
        raise ValueError("a consumer's fault")

    async def number(self, message: dict[str, Any]) -> None:
        await self.send(str(message["number"]))


async def disconnect(client: WebsocketCommunicator, _: RedisPubSubChannelLayer) -> None:
    await client.disconnect()


async def fail(client: WebsocketCommunicator, layer: RedisPubSubChannelLayer) -> None:
    await layer.group_send("room", {"type": "fail"})
    with pytest.raises(ValueError, match=r"^a consumer's fault$"):
        await client.wait()


async def cancel(client: WebsocketCommunicator, _: RedisPubSubChannelLayer) -> None:
    client.future.cancel()
    await asyncio.wait([client.future])


@pytest.mark.parametrize("end", [disconnect, fail, cancel])
async def test_consumers_that_ended(
    layer: RedisPubSubChannelLayer,
    other: RedisPubSubChannelLayer,
    redis_server: RedisServer,
    prefix: str,
    end: Callable[[WebsocketCommunicator, RedisPubSubChannelLayer], Awaitable[None]],
) -> None:
    """However a consumer ends, its process is no longer subscribed to its group."""
    group = f"{prefix}__group__room"
    client = WebsocketCommunicator(Member.as_asgi(), "/")
    assert await client.connect() == (True, None)
    assert listeners(redis_server, group) == 1
    await end(client, other)
    await until(lambda: not listeners(redis_server, group), pause=PAUSE)
    held = layer.statistics()
    assert (held["channels"], held["groups"]) == (0, 0)


async def test_consumer_that_stopped_reading(
    redis_server: RedisServer,
    prefix: str,
    other: RedisPubSubChannelLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stalled consumer's messages are limited by capacity; others miss nothing."""
    go_on = asyncio.Event()
    monkeypatch.setattr(Member, "go_on", go_on)
    async with RedisPubSubChannelLayer(
        [redis_server.url], prefix, capacity=10
    ) as layer:
        register_channel_layer(ALIAS, layer)
        slow, quick = [WebsocketCommunicator(Member.as_asgi(), "/") for _ in range(2)]
        assert await slow.connect() == (True, None)
        await other.group_send("room", {"type": "stall"})
        await until(lambda: layer.statistics()["delivered"] == 1)
        assert await quick.connect() == (True, None)
        for number in range(100):
            await other.group_send("room", {"type": "number", "number": number})
            assert await quick.receive_from() == str(number)
        state = layer.statistics()
        assert (state["waiting"], state["dropped"]) == (10, 90)
        go_on.set()
        assert [await slow.receive_from() for _ in range(10)] == [*map(str, range(10))]
        for client in (slow, quick):
            await client.disconnect()
