"""A server that temporarily refuses commands: no memory, no replicas, a busy script."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Generator, Iterator

import pytest

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.layers import RedisChannelLayer, register_channel_layer
from fast_channels.layers.redis import RedisUnavailable
from fast_channels.layers.redis.queue import group_writer
from fast_channels.testing import WebsocketCommunicator
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.server import RedisServer
from tests.waiting import PAUSE, until

_MESSAGE = {"type": "number", "number": 1}
_REFUSALS = {
    "NOREPLICAS": ("min-replicas-to-write", "1", "0"),
    "OOM": ("maxmemory", "1", "0"),
}
_PREFIX = "refusals"


@pytest.fixture(scope="module")
def server(redis_binary: ServerBinary) -> Iterator[RedisServer]:
    with RedisServer(redis_binary) as server:
        yield server


@pytest.fixture
async def layer(server: RedisServer) -> AsyncGenerator[RedisChannelLayer]:
    async with RedisChannelLayer([server.url], _PREFIX) as layer:
        yield layer
        await layer.flush()


@contextlib.contextmanager
def refusing(server: RedisServer, code: str) -> Generator[None]:
    name, refused, allowed = _REFUSALS[code]
    server.command("CONFIG", "SET", name, refused)
    try:
        yield
    finally:
        server.command("CONFIG", "SET", name, allowed)


def members(server: RedisServer, group: str) -> object:
    return server.command("ZRANGE", f"{_PREFIX}:group:{group}", 0, -1)


@pytest.mark.parametrize("code", _REFUSALS)
async def test_a_refused_send_raises_the_reason(
    server: RedisServer, layer: RedisChannelLayer, code: str
) -> None:
    """A send is refused with the reason, and succeeds once the cause is gone."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    with refusing(server, code):
        for sending in (
            layer.send(channel, _MESSAGE),
            layer.send("jobs", _MESSAGE),
            layer.group_send("room", _MESSAGE),
        ):
            with pytest.raises(RedisUnavailable, match=r"is not available: \w+"):
                await sending
    await layer.group_send("room", _MESSAGE)
    async with asyncio.timeout(5):
        assert await layer.receive(channel) == _MESSAGE


@pytest.mark.parametrize("code", _REFUSALS)
async def test_channels_join_and_leave_while_redis_refuses(
    server: RedisServer,
    layer: RedisChannelLayer,
    code: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Channels can join and leave; Redis learns of it when it accepts commands again.

    However many groups there are, the log has one record for the start of the refusal
    and one for its end.
    """
    caplog.set_level(logging.INFO)
    channel, leaving = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", leaving)
    with refusing(server, code):
        for number in range(200):
            await layer.group_add(f"room-{number}", channel)
        await layer.group_discard("room", leaving)
        lines = [
            text
            for name, _, text in caplog.record_tuples
            if name == group_writer.__name__
        ]
        assert len(lines) == 1
        assert "cannot be updated with group memberships: " in lines[0]
    await until(lambda: members(server, "room-199") == [channel.encode()], pause=PAUSE)
    await until(lambda: members(server, "room") == [], pause=PAUSE)
    own = "fast_channels"
    await until(
        lambda: (
            [level for name, level, _ in caplog.record_tuples if name.startswith(own)]
            == [logging.WARNING] * 2
        )
    )


class Room(AsyncWebsocketConsumer):
    channel_layer_alias = "default"
    groups = ["room"]

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        del text_data, bytes_data
        assert self.channel_layer is not None
        try:
            await self.channel_layer.send("jobs", _MESSAGE)
            await self.channel_layer.group_send("room", _MESSAGE)
        except RedisUnavailable:
            await self.send(text_data="not now")

    async def number(self, event: dict[str, object]) -> None:
        await self.send(text_data=str(event["number"]))


@pytest.mark.parametrize("code", _REFUSALS)
async def test_consumers_stay_connected_while_redis_refuses(
    server: RedisServer, layer: RedisChannelLayer, code: str
) -> None:
    """Consumers connect, join, and stay connected while Redis refuses commands."""
    register_channel_layer("default", layer)
    async with WebsocketCommunicator(Room, "/") as client:
        with refusing(server, code):
            await client.connect()
            await client.send_to(text_data="")
            assert await client.receive_from() == "not now"
        await until(lambda: members(server, "room"), pause=PAUSE)
        await client.send_to(text_data="")
        assert await client.receive_from(5) == "1"


@pytest.mark.parametrize("code", _REFUSALS)
async def test_the_readiness_check_of_the_guide_fails(
    server: RedisServer, layer: RedisChannelLayer, code: str
) -> None:
    """The health check from the guide fails while Redis refuses commands."""
    with refusing(server, code):
        channel = await layer.new_channel("health")
        with pytest.raises(ConnectionError):
            await layer.send(channel, {"type": "health.check"})
        await layer.delete_channel(channel)


async def test_senders_do_not_exceed_the_memory_limit(
    server: RedisServer, layer: RedisChannelLayer
) -> None:
    """No way of sending fills Redis beyond its memory limit."""
    channels = [await layer.new_channel(f"kind{number}") for number in range(20)]
    for channel in channels:
        await layer.group_add("room", channel)
    used = int(server.info("memory")["used_memory"])
    limit = used + 2_000_000
    server.command("CONFIG", "SET", "maxmemory", limit)
    try:
        refused = 0
        for number in range(400):
            message = {**_MESSAGE, "filling": "x" * 20_000}
            try:
                if number % 2:
                    await layer.group_send("room", message)
                else:
                    await layer.send(f"jobs.{number}", message)
            except RedisUnavailable as exc:
                assert "maxmemory" in str(exc)  # noqa: PT017 # some are sent
                refused += 1
        assert refused > 100
        # The last accepted message, which goes to every process of a group, can exceed
        # it.
        assert int(server.info("memory")["used_memory"]) < limit + 1_000_000
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0)
