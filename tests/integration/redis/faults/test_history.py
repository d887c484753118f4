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
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    Resumed,
    register_channel_layer,
)
from fast_channels.layers.redis.group_log import LogTiming
from fast_channels.layers.redis.queue.endpoint import QueueEndpoint
from fast_channels.testing import WebsocketCommunicator
from tests.integration.redis.slots import move_anywhere, pubsub_slot_of, slot_of
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.cluster import RedisCluster
from tests.redis_servers.server import RedisServer
from tests.waiting import until

from .conftest import Storm
from .history_process import HISTORY, LAYERS
from .killer import any_client, kill_again_and_again
from .traffic import LIMIT

Make: TypeAlias = Callable[[], BaseChannelLayer]
"""Makes a layer, as another process would."""

_ROOT = Path(__file__).parents[4]
_GROUP = "room.1"
_PROCESS = "tests.integration.redis.faults.history_process"
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


async def kill_for_ever(server: RedisServer) -> None:
    while True:
        await kill_again_and_again(server, 1, any_client)
        await asyncio.sleep(0.15)


@pytest.fixture(
    params=[
        "memory",
        "queue",
        "encrypted queue",
        "queue on two hosts",
        "queue on a cluster",
        "pub/sub",
        "encrypted pub/sub",
        "pub/sub on two hosts",
        "pub/sub on a cluster",
    ]
)
async def where(
    request: pytest.FixtureRequest, prefix: str
) -> AsyncIterator[tuple[list[RedisServer], Make]]:
    """The servers of a kind of layer, and how to make one."""
    kind: str = request.param
    servers: list[RedisServer] = []
    options: dict[str, Any] = {"capacity": 100_000, "history": HISTORY}
    if kind == "memory":
        layer = InMemoryChannelLayer(**options)
        yield servers, lambda: layer
        await layer.close()
        return
    options["prefix"] = prefix
    if "cluster" in kind:
        cluster = request.getfixturevalue("own_redis_cluster")
        assert isinstance(cluster, RedisCluster)
        options["cluster"] = cluster.urls
        servers += [node for node in cluster.nodes if node.running]
    else:
        servers.append(request.getfixturevalue("own_redis_server"))
        options["hosts"] = [servers[0].url]
    if "two hosts" in kind:
        servers.append(request.getfixturevalue("second_redis_server"))
        options["hosts"] = [server.url for server in servers]
    if "encrypted" in kind:
        options["symmetric_encryption_keys"] = ["secret"]
    cls = RedisPubSubChannelLayer if "pub/sub" in kind else RedisChannelLayer
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
        await until(lambda: len(sent) > count, limit=LIMIT, pause=_PACE)
        last = int(sent[-1].rpartition(".")[2])
        layer = processes[0]
        channel, resumed = await resume(layer, seen.position)
        assert resumed.complete
        async with asyncio.timeout(LIMIT):
            while seen.offsets[-1] < last:
                seen.note(await layer.receive(channel))
        await until(
            lambda: all(member.offsets[-1] >= last for member in members),
            limit=LIMIT,
            pause=_PACE,
        )
    for each in (seen, *members):
        each.assert_complete(each.offsets[-1])
    assert {position.partition(".")[0] for position in sent} == {
        str(seen.position).partition(".")[0]
    }


@pytest.mark.parametrize("cls", LAYERS.values(), ids=LAYERS)
async def test_slots_that_move(
    own_redis_cluster: RedisCluster,
    prefix: str,
    storm: Storm,
    cls: type[RedisChannelLayer | RedisPubSubChannelLayer],
) -> None:
    """Neither members nor a client that comes back miss anything."""
    urls = own_redis_cluster.urls
    async with (
        cls(cluster=urls, prefix=prefix, history=HISTORY, capacity=100_000) as layer,
        cls(cluster=urls, prefix=prefix, history=HISTORY) as other,
    ):
        if isinstance(layer, RedisChannelLayer):
            slot = slot_of(layer, _GROUP)
        else:
            slot = pubsub_slot_of(layer, _GROUP)
        seen = Seen()
        async with staying([layer]) as [member], sending(other) as sent:
            for number in range(storm(short=3, full=50)):
                hold_open = 0.3 * (number % 2)
                moving = asyncio.create_task(
                    asyncio.to_thread(
                        move_anywhere, own_redis_cluster, slot, hold_open=hold_open
                    )
                )
                for _ in range(10):
                    channel, resumed = await resume(layer, seen.position)
                    assert resumed.complete
                    seen.note(await receive(layer, channel))
                    await layer.delete_channel(channel)
                await moving
            # Also what was sent last.
            count = len(sent)
            await until(lambda: len(sent) > count, limit=LIMIT, pause=_PACE)
            last = int(sent[-1].rpartition(".")[2])
            channel, resumed = await resume(layer, seen.position)
            while seen.offsets[-1] < last:
                seen.note(await receive(layer, channel))
            await until(lambda: member.offsets[-1] >= last, limit=LIMIT, pause=_PACE)
    seen.assert_complete(seen.offsets[-1])
    member.assert_complete(member.offsets[-1])


@pytest.fixture(params=LAYERS)
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of layer in Redis."""
    kind: str = request.param
    return kind


@pytest.fixture
def server(
    redis_binary: ServerBinary, request: pytest.FixtureRequest
) -> Iterator[RedisServer]:
    """A server that can restart, with its data or without."""
    with RedisServer(redis_binary, persist=request.param) as server:
        yield server


async def send(layer: BaseChannelLayer, count: int) -> list[str]:
    """Send messages, and return their positions."""
    sent: list[str] = []
    for number in range(count):
        message = {"type": "number", "number": number}
        sent.append(await again(lambda: layer.group_send(_GROUP, message)))  # noqa: B023 # awaited here
    return sent


async def receive(layer: BaseChannelLayer, channel: str) -> dict[str, Any]:
    async with asyncio.timeout(LIMIT):
        return await layer.receive(channel)


@pytest.mark.parametrize(
    "server", [True, False], ids=["persistent", "volatile"], indirect=True
)
async def test_redis_that_restarts(server: RedisServer, prefix: str, kind: str) -> None:
    """With its data, nothing is missing; without, clients and members are notified."""
    async with (
        LAYERS[kind]([server.url], prefix, history=HISTORY) as layer,
        LAYERS[kind]([server.url], prefix, history=HISTORY) as other,
    ):
        member, _ = await resume(layer, None)
        sent = await send(other, 3)
        for position in sent:
            message = await receive(layer, member)
            assert isinstance(message, GroupMessage)
            assert message.position == position
        await asyncio.to_thread(server.restart)
        if not server.persist:
            gap = {"type": "group.gap", "group": _GROUP, "position": sent[-1]}
            assert await receive(layer, member) == gap
        sent += await send(other, 3)
        for position in sent[3:]:
            message = await receive(layer, member)
            assert isinstance(message, GroupMessage)
            assert message.position == position
        for each in (layer, other):
            channel, resumed = await resume(each, sent[1])
            replayed = 4 if server.persist else 0
            assert resumed == Resumed(sent[-1], bool(server.persist), replayed)
            channel, resumed = await resume(each, sent[-2])
            assert resumed == Resumed(sent[-1], complete=True, replayed=1)
            assert (await receive(each, channel))["number"] == 2


async def test_history_that_redis_has_evicted(
    redis_server: RedisServer, prefix: str, kind: str
) -> None:
    """A member with all messages has missed nothing; others get complete=False."""
    async with (
        LAYERS[kind]([redis_server.url], prefix, history=HISTORY) as layer,
        LAYERS[kind]([redis_server.url], prefix, history=HISTORY) as other,
    ):
        sent = await send(layer, 3)
        [key] = redis_server.keys(f"{prefix}:history:")
        redis_server.command("DEL", key)
        member, resumed = await resume(layer, sent[0])
        assert resumed == Resumed(sent[-1], complete=False, replayed=0)
        _, resumed = await resume(other, sent[-1])
        assert resumed == Resumed(sent[-1], complete=True, replayed=0)
        sent += await send(other, 1)
        assert (await receive(layer, member))["number"] == 0
        # Whether it has heard of the new message yet, or not.
        channel, resumed = await resume(other, sent[2])
        assert resumed.complete
        message = await receive(other, channel)
        assert isinstance(message, GroupMessage)
        assert message.position == sent[-1]


async def test_position_that_redis_has_evicted(
    redis_server: RedisServer, prefix: str, kind: str
) -> None:
    """Without the position, everything begins anew, and everybody is notified."""
    async with (
        LAYERS[kind]([redis_server.url], prefix, history=HISTORY) as layer,
        LAYERS[kind]([redis_server.url], prefix, history=HISTORY) as other,
    ):
        member, _ = await resume(layer, None)
        sent = await send(layer, 3)
        for _ in sent:
            await receive(layer, member)
        [key] = redis_server.keys(f"{prefix}:position:")
        redis_server.command("DEL", key)
        new = await send(other, 2)
        assert new[0].partition(".")[0] != sent[0].partition(".")[0]
        gap = {"type": "group.gap", "group": _GROUP, "position": sent[-1]}
        assert await receive(layer, member) == gap
        for position in new:
            message = await receive(layer, member)
            assert isinstance(message, GroupMessage)
            assert message.position == position
        for each in (layer, other):
            _, resumed = await resume(each, sent[-1])
            assert resumed == Resumed(new[-1], complete=False, replayed=0)


async def test_process_that_is_killed_during_a_replay(
    redis_server: RedisServer, prefix: str, kind: str
) -> None:
    """The client resumes elsewhere, from what it got."""
    async with LAYERS[kind]([redis_server.url], prefix, history=HISTORY) as layer:
        sent = await send(layer, 300)
        got = sent[:1]
        for count in (150, 300):
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    "tests.integration.redis.faults.history_process",
                ),
                *(kind, redis_server.url, prefix, _GROUP, got[-1]),
                stdout=PIPE,
                cwd=_ROOT,
            )
            assert process.stdout is not None
            async with asyncio.timeout(LIMIT):
                while len(got) < count:
                    got.append((await process.stdout.readline()).decode().strip())
            process.kill()
            await process.communicate()
        assert got == sent


async def test_slow_client(redis_server: RedisServer, prefix: str, kind: str) -> None:
    """It gets a replay that exceeds its capacity, and all that is sent meanwhile."""

    class Slow(AsyncJsonWebsocketConsumer):
        channel_layer_alias = "faults"

        @override
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.join_group(_GROUP, since=content)

        async def number(self, event: GroupMessage) -> None:
            await asyncio.sleep(0.001)
            await self.send_json(event.position)

        async def group_gap(self, event: dict[str, Any]) -> None:
            resumed = await self.join_group(_GROUP, since=event["position"])
            assert resumed.complete

    async with LAYERS[kind](
        [redis_server.url], prefix, history=HISTORY, capacity=10
    ) as layer:
        register_channel_layer("faults", layer)
        sent = await send(layer, 201)
        async with WebsocketCommunicator(Slow, "/") as client:
            await client.connect()
            await client.send_json_to(sent[0])
            got = [await client.receive_json_from(LIMIT)]
            sent += await send(layer, 300)
            while got[-1] != sent[-1]:
                got.append(await client.receive_json_from(LIMIT))
        assert got == sent[1:]


@pytest.mark.parametrize("has_member", [True, False], ids=["with a member", "new"])
async def test_two_thousand_clients_at_once(
    own_redis_server: RedisServer, prefix: str, kind: str, has_member: bool
) -> None:
    """A process that restarts asks Redis once for all of its clients."""
    async with (
        LAYERS[kind]([own_redis_server.url], prefix, history=HISTORY) as layer,
        LAYERS[kind]([own_redis_server.url], prefix, history=HISTORY) as other,
    ):
        if has_member:
            await resume(layer, None)
        sent = await send(other, 100)
        await layer.new_channel()
        if has_member:
            # The process knows what it has heard.
            await until(lambda: layer.statistics()["delivered"] == 100)

        def commands() -> int:
            return sum(own_redis_server.command_counts().values())

        before = commands()
        clients = await asyncio.gather(
            *[resume(layer, sent[number % 80]) for number in range(2000)]
        )
        used = commands() - before
        for number, (channel, resumed) in enumerate(clients):
            assert resumed == Resumed(sent[-1], True, 99 - number % 80)
            message = await receive(layer, channel)
            assert isinstance(message, GroupMessage)
            assert message.position == sent[number % 80 + 1]
    assert used <= 50


async def test_copies_that_a_full_queue_dropped(
    redis_server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process reads them from the history, even if the last one was dropped."""
    monkeypatch.setattr(QueueEndpoint, "log_timing", LogTiming(check=0.2, steps=2))
    async with (
        RedisChannelLayer(
            [redis_server.url], prefix, history=HISTORY, process_capacity=3
        ) as layer,
    ):
        channel, _ = await resume(layer, None)
        message = {"type": "number"}
        # In one write: the process has no time to read.
        sent = await asyncio.gather(
            *[layer.group_send(_GROUP, message) for _ in range(50)]
        )
        assert layer.statistics()["dropped"]
        for position in sent:
            received = await receive(layer, channel)
            assert isinstance(received, GroupMessage)
            assert received.position == position


async def test_senders_that_cross(
    redis_server: RedisServer, second_redis_server: RedisServer, prefix: str
) -> None:
    """Messages that take two steps and overtake each other arrive in order."""
    urls = [redis_server.url, second_redis_server.url]

    def make() -> RedisChannelLayer:
        return RedisChannelLayer(
            urls,
            prefix,
            capacity=1000,
            history=HISTORY,
            symmetric_encryption_keys=["secret"],
        )

    async with make() as layer, make() as one, make() as two:
        channel, _ = await resume(layer, None)
        sends = [send(each, 20) for each in (one, two) for _ in range(10)]
        sent = await asyncio.gather(*sends)
        expected = sorted(
            itertools.chain(*sent), key=lambda each: int(each.partition(".")[2])
        )
        for position in expected:
            message = await receive(layer, channel)
            assert isinstance(message, GroupMessage)
            assert message.position == position
