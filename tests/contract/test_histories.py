"""What the layers for Redis do with histories beyond the contract."""

import asyncio
import json
from typing import Any

import pytest
from typing_extensions import override

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers import (
    GroupMessage,
    History,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    Resumed,
)
from fast_channels.layers.serializers import BaseMessageSerializer, registry
from tests.redis_servers.server import RedisServer

LAYERS = {"queue": RedisChannelLayer, "pub/sub": RedisPubSubChannelLayer}
HISTORY = {"room": History()}

each_layer = pytest.mark.parametrize("cls", LAYERS.values(), ids=LAYERS)


class Reversed(BaseMessageSerializer):
    """A format of an application."""

    @override
    def as_bytes(self, message: Any) -> bytes:
        return json.dumps(message)[::-1].encode()

    @override
    def from_bytes(self, data: bytes) -> Any:
        return json.loads(data.decode()[::-1])


@pytest.fixture
def formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a format for a test."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))  # pyright: ignore[reportPrivateUsage] # the registry has no way to remove one
    registry.register_serializer("reversed", Reversed)


@pytest.mark.usefixtures("formats")
@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
@pytest.mark.parametrize("name", ["msgpack", "json", "reversed"])
@each_layer
async def test_formats(
    cls: type[RedisChannelLayer | RedisPubSubChannelLayer],
    name: str,
    keys: list[str] | None,
    redis_server: RedisServer,
    prefix: str,
) -> None:
    """Every format carries positions, and is stored."""
    async with cls(
        [redis_server.url],
        prefix,
        serializer_format=name,
        symmetric_encryption_keys=keys,
        history=HISTORY,
    ) as layer:
        member = await layer.new_channel()
        joined = await layer.group_resume("room", member)
        message: dict[str, Any] = {"type": "hello", "text": "\u00fc", "list": []}
        position = await layer.group_send("room", message, once="a")
        assert await layer.group_send("room", message, once="a") == position
        back = await layer.new_channel()
        last = await layer.group_send("room", {"type": "last"})
        await layer.group_resume("room", back, since=joined.position)
        for channel in (member, back):
            for expected in (position, last):
                async with asyncio.timeout(5):
                    received = await layer.receive(channel)
                assert isinstance(received, GroupMessage)
                assert received.position == expected
        [stored, _] = await layer.group_history("room")
        assert stored == message
        assert stored.position == position


async def test_key_of_positions(redis_server: RedisServer, prefix: str) -> None:
    """A message cannot have it."""
    async with RedisPubSubChannelLayer(
        [redis_server.url], prefix, history=HISTORY
    ) as layer:
        with pytest.raises(ValueError, match="must not have the key '__asgi_position_"):
            await layer.group_send("room", {"type": "a", "__asgi_position__": ""})


async def test_plain_channels_with_capacities_of_their_own(
    redis_server: RedisServer, prefix: str
) -> None:
    """A plain channel that is a member gets its copy in a command of its own."""
    async with RedisChannelLayer(
        [redis_server.url], prefix, channel_capacity={"mail": 1}, history=HISTORY
    ) as layer:
        await layer.group_add("room", "mail")
        for _ in range(2):
            await layer.group_send("room", {"type": "a"})
        assert layer.statistics()["dropped"] == 1
        assert await layer.receive("mail") == {"type": "a"}


@each_layer
async def test_redis_that_cannot_be_reached(
    cls: type[RedisChannelLayer | RedisPubSubChannelLayer],
    own_redis_server: RedisServer,
    prefix: str,
) -> None:
    """What needs Redis raises, and the channel is in no group then."""
    async with cls(
        [own_redis_server.url],
        prefix,
        history=HISTORY,
        connection_kwargs={"socket_timeout": 0.3},
    ) as layer:
        channel = await layer.new_channel()
        own_redis_server.kill()
        with pytest.raises(RedisUnavailable):
            await layer.group_resume("room", channel, since="0123abcd.1")
        assert layer.statistics()["groups"] == 0
        with pytest.raises(RedisUnavailable):
            await layer.group_history("room")
        joined = await layer.group_resume("room", channel)
        assert joined == Resumed("", complete=True, replayed=0)
        with pytest.raises(RedisUnavailable):
            await layer.group_resume("room", channel, last=1)
        assert layer.statistics()["groups"] == 1
        own_redis_server.start()
        async with asyncio.timeout(10):
            while layer.statistics()["delivered"] == 0:
                try:
                    await layer.group_send("room", {"type": "a"})
                except RedisUnavailable:
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.01)
        assert await layer.receive(channel) == {"type": "a"}


@each_layer
async def test_connections_that_break(
    cls: type[RedisChannelLayer | RedisPubSubChannelLayer],
    own_redis_server: RedisServer,
    prefix: str,
) -> None:
    """What is sent meanwhile arrives, even if nothing follows it."""
    url = own_redis_server.url
    async with (
        cls([url], prefix, history=HISTORY) as layer,
        cls([url], prefix, history=HISTORY) as other,
    ):
        channel = await layer.new_channel()
        await layer.group_resume("room", channel)
        for number in range(20):
            own_redis_server.kill_clients()
            async with asyncio.timeout(10):
                while True:
                    try:
                        await other.group_send(
                            "room", {"type": "n", "n": number}, once=str(number)
                        )
                    except RedisUnavailable:
                        continue
                    break
                assert await layer.receive(channel) == {"type": "n", "n": number}
