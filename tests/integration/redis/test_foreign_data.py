"""Data that other programs write to Redis, and custom serializers."""

import asyncio
import functools
import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs] # comes without types
import pytest

from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.layers.redis.serializers import JSONSerializer, registry
from tests.redis_servers.server import RedisServer

Layer: TypeAlias = RedisChannelLayer | RedisPubSubChannelLayer
MakeLayer: TypeAlias = Callable[..., Layer]
LIMIT = 10
MESSAGE = {"type": "test.message"}
LAYERS = pytest.mark.parametrize(
    "layer_class", [RedisChannelLayer, RedisPubSubChannelLayer], ids=["queue", "pubsub"]
)
_packb = cast("Callable[[object], bytes]", msgpack.packb)  # pyright: ignore[reportUnknownMemberType] # untyped
ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "msgpack": _packb,
    "json": lambda message: json.dumps(message).encode(),
}


def nested(depth: int) -> list[Any]:
    """Return this many nested lists."""
    return functools.reduce(lambda inner, _: [inner], range(depth - 1), list[Any]())


def send_raw(
    server: RedisServer, layer: Layer, channels: list[str], value: bytes
) -> None:
    """Send bytes to channels of a layer, as another program would."""
    if isinstance(layer, RedisPubSubChannelLayer):
        server.command("PUBLISH", f"{layer.prefix}__group__room", value)
    else:
        key = layer.prefix + layer.non_local_name(channels[0])
        server.command("ZADD", key, "1e10", value)
        server.command("EXPIRE", key, 60)


@LAYERS
@pytest.mark.parametrize("format_name", ENCODERS)
@pytest.mark.parametrize("depth", [110, 300, 500])
async def test_deep_messages_of_other_programs(
    redis_server: RedisServer,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
    layer_class: type[Layer],
    format_name: str,
    depth: int,
) -> None:
    """Deeply nested messages are counted and logged briefly, and do no harm."""
    options: dict[str, Any] = {"prefix": prefix, "serializer_format": format_name}
    if layer_class is RedisChannelLayer:
        options["random_prefix_length"] = 0
    async with layer_class([redis_server.url], **options) as layer:
        channels = [await layer.new_channel() for _ in range(2)]
        for channel in channels:
            await layer.group_add("room", channel)
        message = {"type": "a", "deep": nested(depth), "__asgi_channel__": channels}
        for _ in range(3):
            send_raw(redis_server, layer, channels, ENCODERS[format_name](message))
            await layer.group_send("room", MESSAGE)
            async with asyncio.timeout(LIMIT):
                assert [await layer.receive(channel) for channel in channels] == [
                    MESSAGE,
                    MESSAGE,
                ]
            # Equal bytes are in a queue only once.
            await layer.group_send("room", MESSAGE)
            async with asyncio.timeout(LIMIT):
                for channel in channels:
                    await layer.receive(channel)
        statistics = layer.statistics()
    assert statistics["undecodable"] == 3
    assert statistics["reconnects"] == 0
    assert all("100 levels deep" in text for text in caplog.messages)
    assert sum(map(len, caplog.messages)) < 2000


class Signed:
    """A custom serializer: JSON with a digest after or before it."""

    behind = True

    def __init__(self, **options: object) -> None:
        self.options = options

    def serialize(self, message: Any) -> bytes:
        """Encode a message."""
        data = json.dumps(message).encode()
        digest = hashlib.sha256(data).hexdigest().encode()
        return data + digest if self.behind else digest + data

    def deserialize(self, data: bytes) -> Any:
        """Decode a message if its digest is correct."""
        digest, data = (
            (data[-64:], data[:-64]) if self.behind else (data[:64], data[64:])
        )
        assert hashlib.sha256(data).hexdigest().encode() == digest
        return json.loads(data)


class SignedBefore(Signed):
    """With the digest first, so that the bytes end as in JSON."""

    behind = False


class Sealed(JSONSerializer):
    """The same as a subclass of a serializer of the library."""

    def as_bytes(self, message: Any) -> bytes:
        """Encode a message."""
        data = super().as_bytes(message)
        return hashlib.sha256(data).digest() + data

    def from_bytes(self, data: bytes) -> Any:
        """Decode a message if its digest is correct."""
        assert hashlib.sha256(data[32:]).digest() == data[:32]
        return super().from_bytes(data[32:])


@pytest.fixture(params=[Signed, SignedBefore, Sealed], ids=lambda each: each.__name__)
def own_format(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Register a serializer for one test."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))  # pyright: ignore[reportPrivateUsage] # there is no way to unregister one
    registry.register_serializer("own", request.param)
    return "own"


@LAYERS
async def test_serializer_of_an_application(
    redis_server: RedisServer,
    prefix: str,
    layer_class: type[Layer],
    own_format: str,
) -> None:
    """Any class with both methods works, whatever bytes it writes."""
    async with layer_class(
        [redis_server.url], prefix=prefix, serializer_format=own_format
    ) as layer:
        channels = [await layer.new_channel() for _ in range(2)]
        for channel in channels:
            await layer.group_add("room", channel)
        await layer.send(channels[0], MESSAGE)
        await layer.group_send("room", {**MESSAGE, "items": [1]})
        send_raw(redis_server, layer, channels, b"x" * 70 + b"{}")
        await layer.group_send("room", {**MESSAGE, "items": [2]})
        async with asyncio.timeout(LIMIT):
            assert await layer.receive(channels[0]) == MESSAGE
            for number in (1, 2):
                for channel in channels:
                    received = await layer.receive(channel)
                    assert received == {**MESSAGE, "items": [number]}
        with pytest.raises(TypeError, match=r"100 levels deep"):
            await layer.group_send("room", {**MESSAGE, "items": nested(101)})
        if isinstance(layer, RedisPubSubChannelLayer):
            assert layer.statistics()["undecodable"] == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"serializer_format": "json"},
        {"symmetric_encryption_keys": ["secret"]},
        {"channel_capacity": {"a": 1}},
    ],
    ids=str,
)
async def test_names_that_no_channel_has(
    redis_server: RedisServer, prefix: str, options: dict[str, Any]
) -> None:
    """A group member that is not a valid channel does not affect the others."""
    async with RedisChannelLayer([redis_server.url], prefix=prefix, **options) as layer:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        own = layer.non_local_name(channel).encode()
        for name in (b"\xff\xfe", own + b"\xff", own + "\u00e9".encode()):
            redis_server.command("ZADD", f"{prefix}:group:room", "1e10", name)
        await layer.group_send("room", MESSAGE)
        async with asyncio.timeout(LIMIT):
            assert await layer.receive(channel) == MESSAGE
        assert layer.statistics()["undecodable"] == 0


async def test_drops_in_redis_are_counted_exactly(
    redis_server: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With many group_send() at once, each dropped copy is counted and logged."""
    async with (
        RedisChannelLayer([redis_server.url], prefix, process_capacity=10) as idle,
        RedisChannelLayer([redis_server.url], prefix, process_capacity=10) as sender,
    ):
        channel = await idle.new_channel()
        await idle.group_add("room", channel)
        await asyncio.gather(*[sender.group_send("room", MESSAGE) for _ in range(400)])
        assert sender.statistics()["dropped"] == 390
    assert len(caplog.records) == (390).bit_length()
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    name = idle.non_local_name(channel)
    assert f"queue {name!r} is full, so a message to group 'room'" in caplog.messages[0]
