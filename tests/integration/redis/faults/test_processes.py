"""Groups after processes were killed or frozen."""

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from fast_channels.layers import RedisChannelLayer
from fast_channels.layers.redis.queue.endpoint import QueueEndpoint
from fast_channels.layers.redis.queue.group_writer import Timing
from tests.redis_servers.server import RedisServer
from tests.waiting import PAUSE, until

from .group_process import TIMING

_ROOT = Path(__file__).parents[4]
_GROUP = "room"
_MESSAGE = {"type": "number", "number": 1}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make leases end in less than a second."""
    monkeypatch.setattr(QueueEndpoint, "timing", TIMING)


@pytest.fixture
async def layer(
    redis_server: RedisServer, prefix: str
) -> AsyncGenerator[RedisChannelLayer]:
    async with RedisChannelLayer(
        [redis_server.url], prefix, process_capacity=3
    ) as layer:
        yield layer


@contextlib.asynccontextmanager
async def members_elsewhere(
    server: RedisServer, prefix: str, channels: int
) -> AsyncGenerator[Process]:
    """Run a process with a number of channels in the group."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.redis.faults.group_process"),
        *(server.url, prefix, _GROUP, str(channels)),
        stdout=PIPE,
        cwd=_ROOT,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(15):
            assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def members(server: RedisServer, prefix: str) -> set[str]:
    reply = server.command("ZRANGE", f"{prefix}:group:{_GROUP}", 0, -1)
    assert isinstance(reply, list)
    return {member.decode() for member in reply if isinstance(member, bytes)}


def seconds(server: RedisServer) -> float:
    reply = server.command("TIME")
    assert isinstance(reply, list)
    whole, millionths = (int(part) for part in reply if isinstance(part, bytes))
    return whole + millionths / 1e6


@pytest.mark.parametrize("others", [0, 200], ids=["few", "many"])
@pytest.mark.parametrize("hosts", [1, 2])
async def test_a_group_forgets_killed_processes(
    redis_server: RedisServer, prefix: str, hosts: int, others: int
) -> None:
    """A group forgets the channels of killed processes, and counts no drops for them.

    This holds however many others were killed before.
    """
    for number in range(others):
        ended = seconds(redis_server)
        redis_server.command("ZADD", f"{prefix}:processes", str(ended), f"x.{number}")
    # With two hosts, even if both are the same server, the sender fetches the members
    # and sends to each process itself.
    urls = [redis_server.url] * hosts
    async with (
        RedisChannelLayer(urls, prefix, process_capacity=3) as layer,
        contextlib.AsyncExitStack() as stack,
    ):
        own = await layer.new_channel()
        await layer.group_add(_GROUP, own)
        for channels in (5, 50):
            elsewhere = members_elsewhere(redis_server, prefix, channels)
            process = await stack.enter_async_context(elsewhere)
            process.kill()
        # One stand-in replaces the fifty channels.
        assert len(members(redis_server, prefix)) == 1 + 5 + 1

        async def send() -> set[str]:
            await layer.group_send(_GROUP, _MESSAGE)
            assert await layer.receive(own) == _MESSAGE
            return members(redis_server, prefix)

        async with asyncio.timeout(15):
            while await send() != {own}:  # noqa: ASYNC110 # a server has no events
                await asyncio.sleep(0.02)
        dropped = layer.statistics()["dropped"]
        for _ in range(10):
            await send()
        assert layer.statistics()["dropped"] == dropped


async def test_a_process_that_was_taken_for_dead_joins_again(
    redis_server: RedisServer, prefix: str, layer: RedisChannelLayer
) -> None:
    """A process that was considered dead joins its groups again when it resumes."""
    own = await layer.new_channel()
    await layer.group_add(_GROUP, own)
    async with members_elsewhere(redis_server, prefix, 5) as process:
        everyone = members(redis_server, prefix)
        assert len(everyone) == 6
        process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(15):
            while members(redis_server, prefix) != {own}:
                await layer.group_send(_GROUP, _MESSAGE)
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGCONT)
        await until(
            lambda: members(redis_server, prefix) == everyone, limit=15, pause=PAUSE
        )


async def test_no_process_is_taken_for_dead_while_redis_hears_from_none(
    redis_server: RedisServer,
    prefix: str,
    layer: RedisChannelLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While Redis hears from no process, as when it is frozen, none counts as dead."""
    monkeypatch.setattr(QueueEndpoint, "timing", Timing(beat=60, lease=0.2))
    own = await layer.new_channel()
    await layer.group_add(_GROUP, own)
    async with RedisChannelLayer([redis_server.url], prefix) as other:
        theirs = await other.new_channel()
        await other.group_add(_GROUP, theirs)
        end = seconds(redis_server) + 0.3
        await until(lambda: seconds(redis_server) > end, limit=15, pause=PAUSE)
        await layer.group_send(_GROUP, _MESSAGE)
        # The first process that returns does not make the others dead.
        await other.group_add("other-room", theirs)
        await layer.group_send(_GROUP, _MESSAGE)
        for receiver, channel in [(layer, own), (other, theirs)] * 2:
            async with asyncio.timeout(5):
                assert await receiver.receive(channel) == _MESSAGE
        assert members(redis_server, prefix) == {own, theirs}


@pytest.mark.parametrize("lost", ["group", "member", "everything"])
async def test_members_that_redis_lost_are_put_back(
    redis_server: RedisServer, prefix: str, layer: RedisChannelLayer, lost: str
) -> None:
    """Members that Redis loses silently are soon put back."""
    own, second = await layer.new_channel(), await layer.new_channel()
    for channel in (own, second):
        await layer.group_add(_GROUP, channel)
    if lost == "group":
        redis_server.command("DEL", f"{prefix}:group:{_GROUP}")
    elif lost == "member":
        redis_server.command("ZREM", f"{prefix}:group:{_GROUP}", own)
    else:
        async with RedisChannelLayer([redis_server.url], prefix) as other:
            await other.flush()
        assert members(redis_server, prefix) == set()
    await until(
        lambda: members(redis_server, prefix) == {own, second}, limit=15, pause=PAUSE
    )


async def test_members_that_a_failover_brings_back_are_removed(
    redis_server: RedisServer, prefix: str, layer: RedisChannelLayer
) -> None:
    """Members that a failover brings back are removed when a process notices them."""
    own, gone = await layer.new_channel(), await layer.new_channel()
    for channel in (own, gone):
        await layer.group_add(_GROUP, channel)
    receiving = asyncio.create_task(layer.receive(own))
    await layer.delete_channel(gone)
    redis_server.command("ZADD", f"{prefix}:group:{_GROUP}", 10**10, gone)
    reconnects = layer.statistics()["reconnects"]
    # Repeated until it has an effect: the process may not be connected yet.
    while layer.statistics()["reconnects"] == reconnects:
        redis_server.kill_clients()
        await asyncio.sleep(0.02)
    await until(lambda: members(redis_server, prefix) == {own}, limit=15, pause=PAUSE)
    receiving.cancel()
    await asyncio.wait([receiving])
