"""Clients that come back while connections, servers and processes fail."""

import asyncio
import contextlib
import itertools
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from typing_extensions import override

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers import (
    BaseChannelLayer,
    GroupMessage,
    History,
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    Resumed,
    register_channel_layer,
)
from fast_channels.testing import WebsocketCommunicator
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.cluster import RedisCluster
from tests.redis_servers.server import RedisServer

from .conftest import Storm
from .killer import any_client, kill_again_and_again
from .traffic import LIMIT

Make: TypeAlias = Callable[[], BaseChannelLayer]
"""Makes a layer, as another process would."""

_ROOT = Path(__file__).parents[4]
_GROUP = "room.1"
_HISTORY = {"room.*": History(messages=5000)}
_LAYERS = {"queue": RedisChannelLayer, "pub/sub": RedisPubSubChannelLayer}
# Seconds between two messages.
_PACE = 0.005


class Seen:
    """The offsets of the messages that a client got, and what it was told."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.position: str | None = None
        self.gaps = 0

    def note(self, message: dict[str, Any]) -> None:
        if message["type"] == "group.gap":
            self.gaps += 1
            return
        assert isinstance(message, GroupMessage)
        self.position = message.position
        self.offsets.append(int(message.position.rpartition(".")[2]))

    def assert_complete(self, last: int) -> None:
        """Fail unless the offsets are consecutive, and end with the last one."""
        assert self.offsets == list(range(self.offsets[0], last + 1))
        assert not self.gaps


async def again(call: Callable[[], Any]) -> Any:
    """Repeat a call until Redis answers."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                return await call()
            except RedisUnavailable:
                await asyncio.sleep(0.01)


async def resume(
    layer: BaseChannelLayer, since: str | None, **arguments: Any
) -> tuple[str, Resumed]:
    """Return a new channel that resumes, and the result."""
    channel = await layer.new_channel()
    resumed = await again(
        lambda: layer.group_resume(_GROUP, channel, since=since, **arguments)
    )
    return channel, resumed


@contextlib.asynccontextmanager
async def staying(layers: list[BaseChannelLayer]) -> AsyncGenerator[list[Seen]]:
    """Members that stay while others come and go."""
    members: list[Seen] = []

    async def stay(layer: BaseChannelLayer, channel: str, seen: Seen) -> None:
        while True:
            seen.note(await layer.receive(channel))

    tasks: list[asyncio.Task[None]] = []
    for layer in layers:
        channel, _ = await resume(layer, None)
        members.append(Seen())
        tasks.append(asyncio.create_task(stay(layer, channel, members[-1])))
    yield members
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def sending(layer: BaseChannelLayer) -> AsyncGenerator[list[str]]:
    """Send messages during the block; yield the positions that were returned."""
    positions: list[str] = []

    async def send() -> None:
        for number in itertools.count():
            message = {"type": "number", "number": number}
            with contextlib.suppress(RedisUnavailable):
                position = await layer.group_send(_GROUP, message)
                assert position is not None
                positions.append(position)
            await asyncio.sleep(_PACE)

    task = asyncio.create_task(send())
    yield positions
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(
    params=["memory", "queue", "encrypted queue", "two hosts", "cluster", "pub/sub"]
)
async def where(
    request: pytest.FixtureRequest, prefix: str
) -> AsyncIterator[tuple[list[RedisServer], Make]]:
    """The servers of a kind of layer, and how to make one."""
    kind: str = request.param
    servers: list[RedisServer] = []
    options: dict[str, Any] = {"capacity": 100_000, "history": _HISTORY}
    if kind == "memory":
        layer = InMemoryChannelLayer(**options)
        yield servers, lambda: layer
        await layer.close()
        return
    options["prefix"] = prefix
    if kind == "cluster":
        cluster: RedisCluster = request.getfixturevalue("own_redis_cluster")
        options["cluster"] = cluster.urls
        servers += [node for node in cluster.nodes if node.running]
    else:
        servers.append(request.getfixturevalue("own_redis_server"))
        options["hosts"] = [servers[0].url]
    if kind == "two hosts":
        servers.append(request.getfixturevalue("second_redis_server"))
        options["hosts"] = [server.url for server in servers]
    if kind == "encrypted queue":
        options["symmetric_encryption_keys"] = ["secret"]
    cls = RedisPubSubChannelLayer if kind == "pub/sub" else RedisChannelLayer
    layers: list[BaseChannelLayer] = []

    def make() -> BaseChannelLayer:
        layers.append(cls(**options))
        return layers[-1]

    yield servers, make
    for each in layers:
        await each.close()


@pytest.mark.parametrize("others", [0, 3], ids=["alone", "with others"])
async def test_client_that_comes_back_again_and_again(
    where: tuple[list[RedisServer], Make], storm: Storm, others: int
) -> None:
    """It gets every message once and in order, whatever breaks in between."""
    servers, make = where
    processes = [make(), make()]
    seen = Seen()
    async with (
        staying(processes * others) as members,
        sending(make()) as sent,
    ):
        kills = [asyncio.create_task(kill_for_ever(server)) for server in servers]
        for number in range(storm(short=20, full=200)):
            layer = processes[number % 2]
            channel, resumed = await resume(layer, seen.position)
            assert resumed.complete
            seen.position = seen.position or resumed.position
            for _ in range(number % 7):
                async with asyncio.timeout(LIMIT):
                    seen.note(await layer.receive(channel))
            await layer.delete_channel(channel)
        for task in kills:
            task.cancel()
        await asyncio.gather(*kills, return_exceptions=True)
        # Calm again: one more message, and everything before it has arrived.
        count = len(sent)
        async with asyncio.timeout(LIMIT):
            while len(sent) == count:
                await asyncio.sleep(_PACE)
        last = int(sent[-1].rpartition(".")[2])
        channel, resumed = await resume(layer, seen.position)
        assert resumed.complete
        async with asyncio.timeout(LIMIT):
            while seen.offsets[-1] < last:
                seen.note(await layer.receive(channel))
            while any(member.offsets[-1] < last for member in members):
                await asyncio.sleep(_PACE)
    for each in (seen, *members):
        each.assert_complete(each.offsets[-1])
    assert {position.partition(".")[0] for position in sent} == {
        str(seen.position).partition(".")[0]
    }


async def kill_for_ever(server: RedisServer) -> None:
    while True:
        await kill_again_and_again(server, 1, any_client)
        await asyncio.sleep(0.15)
