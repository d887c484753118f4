"""Real Sentinels that announce a new master, and some that cannot."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Generator, Sequence

import pytest

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis.commands import CommandConnection
from fast_channels.layers.redis.hosts import parse_hosts
from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.master_watch import MasterWatch
from fast_channels.layers.redis.sentinel import Master, make_connection
from tests.redis_servers.sentinel import Sentinels, SentinelServer
from tests.redis_servers.server import RedisServer, wait_until


def master_of(sentinels: Sentinels) -> Master:
    (host,) = parse_hosts(
        [{"sentinels": sentinels.addresses, "master_name": sentinels.service_name}]
    )
    return Master(host)


class Watched:
    """A watch, and the number of its notifications."""

    def __init__(self, sentinels: Sentinels, timing: Timing) -> None:
        self.switches = 0
        self.master = master_of(sentinels)
        self.watch = MasterWatch(self.master, self._switched, timing=timing)

    def _switched(self) -> None:
        self.switches += 1

    async def told(self) -> None:
        """Wait until the watch reports a change."""
        async with asyncio.timeout(20):
            while not self.switches:  # noqa: ASYNC110 # nothing signals it
                await asyncio.sleep(0.001)

    async def listens_to(self, sentinel: SentinelServer) -> None:
        """Wait until the watch listens to a Sentinel."""

        def subscribed() -> bool:
            # Sentinels subscribe to servers, not to each other.
            return any(client["sub"] == "1" for client in sentinel.clients())

        what = f"it listens to {sentinel!r}"
        await asyncio.to_thread(wait_until, subscribed, what, 10)


@contextlib.asynccontextmanager
async def watching(
    sentinels: Sentinels, timing: Timing = MasterWatch.timing
) -> AsyncGenerator[Watched]:
    watched = Watched(sentinels, timing)
    watched.watch.start()
    try:
        await watched.listens_to(sentinels.sentinels[0])
        yield watched
    finally:
        await watched.watch.close()


def crash(sentinels: Sentinels) -> RedisServer:
    return sentinels.wait_for_new_master(sentinels.kill_master())


@pytest.mark.parametrize("change", [crash, Sentinels.fail_over])
async def test_new_master(
    breakable_sentinels: Sentinels, change: Callable[[Sentinels], RedisServer]
) -> None:
    """A new master is reported once, whether the old one is dead or not."""
    async with watching(breakable_sentinels) as watched:
        await asyncio.to_thread(change, breakable_sentinels)
        await watched.told()
        assert watched.switches == 1


@contextlib.contextmanager
def forbidden(servers: Sequence[RedisServer], command: str) -> Generator[None]:
    """Refuse a command to all clients, including other servers."""
    for server in servers:
        server.command("ACL", "SETUSER", "default", f"-{command}")
    try:
        yield
    finally:
        for server in servers:
            server.command("ACL", "SETUSER", "default", f"+{command}")


@pytest.mark.parametrize("when", ["heard", "missed"])
async def test_commands_follow(breakable_sentinels: Sentinels, when: str) -> None:
    """Commands go to the new master although the old one still accepts them.

    This holds even if the failover was before the watch listened.
    """
    old, new = breakable_sentinels.master, breakable_sentinels.replica
    master = master_of(breakable_sentinels)
    redis = CommandConnection(
        functools.partial(make_connection, master), str(master.host)
    )
    watch = MasterWatch(master, redis.reconnect)
    fail_over = functools.partial(
        breakable_sentinels.order_failover, breakable_sentinels.sentinels[1]
    )
    # Sentinels use this command to turn the old master into a replica.
    with forbidden([old], "slaveof"):
        try:
            assert await port_of(redis) == old.port
            if when == "missed":
                await asyncio.to_thread(fail_over)
                await asyncio.to_thread(breakable_sentinels.wait_for_new_master, old)
            watch.start()
            if when == "heard":
                await asyncio.to_thread(fail_over)
            async with asyncio.timeout(20):
                while await port_of(redis) != new.port:
                    pass
            assert old.info("replication")["role"] == "master"
            assert redis.connects == 2
        finally:
            await watch.close()
            await redis.close()


async def port_of(redis: CommandConnection) -> int | None:
    """Return the port of the server that a command reached."""
    with contextlib.suppress(RedisUnavailable):
        _, port = await redis.execute("CONFIG", "GET", "port")
        return int(port)
    return None


async def test_sentinel_dies(breakable_sentinels: Sentinels) -> None:
    """If the watched Sentinel dies, the watch moves on to the next."""
    first, second, _ = breakable_sentinels.sentinels
    async with watching(breakable_sentinels) as watched:
        await asyncio.to_thread(first.kill)
        await watched.listens_to(second)
        await asyncio.to_thread(crash, breakable_sentinels)
        await watched.told()


async def test_sentinel_freezes(breakable_sentinels: Sentinels) -> None:
    """If the watched Sentinel freezes, the watch moves on to the next."""
    first, second, _ = breakable_sentinels.sentinels
    timing = Timing(idle=0.2, patience=0.3)
    async with watching(breakable_sentinels, timing) as watched:
        first.pause()
        await watched.listens_to(second)
        first.resume()
        await asyncio.to_thread(crash, breakable_sentinels)
        await watched.told()


async def test_missed(breakable_sentinels: Sentinels) -> None:
    """A change is reported even if no Sentinel was reachable at the time."""
    servers = breakable_sentinels.sentinels
    async with watching(breakable_sentinels) as watched:
        watched.master.reached.add(await watched.master.find())
        with forbidden(servers, "subscribe"):
            servers[0].command("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.to_thread(breakable_sentinels.fail_over)
            assert watched.switches == 0
        await watched.told()
        assert watched.switches == 1
