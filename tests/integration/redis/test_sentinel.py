"""Commands to every kind of host, on real servers, and changes of the master."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis.commands import CommandConnection
from fast_channels.layers.redis.hosts import HostSpelling, parse_hosts
from fast_channels.layers.redis.sentinel import Master, make_connection
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.sentinel import Sentinels
from tests.redis_servers.server import RedisServer

PASSWORD = "secret"  # noqa: S105 # only of these tests


@contextlib.asynccontextmanager
async def connected(
    spelling: HostSpelling, *, timeout: float = 5
) -> AsyncGenerator[CommandConnection]:
    (host,) = parse_hosts([spelling])
    place = Master(host) if host.kind == "sentinel" else host
    connect = functools.partial(make_connection, place)
    redis = CommandConnection(connect, str(host), timeout=timeout)
    try:
        yield redis
    finally:
        await redis.close()


def master_of(sentinels: Sentinels, **options: Any) -> dict[str, Any]:
    return {
        "sentinels": sentinels.addresses,
        "master_name": sentinels.service_name,
        **options,
    }


# One server


async def test_password_and_db(redis_binary: ServerBinary) -> None:
    """The password and the db of a URL are used."""
    with RedisServer(redis_binary, password=PASSWORD) as server:
        async with connected(f"{server.url}/3") as redis:
            await redis.execute("SET", "key", "value")
        with server.connect() as other:
            assert other.command("GET", "key") is None
            other.command("SELECT", 3)
            assert other.command("GET", "key") == b"value"


async def test_unix_socket(redis_binary: ServerBinary) -> None:
    """A server is reached through its Unix socket, with a password and a db."""
    with RedisServer(redis_binary, password=PASSWORD, unix_socket=True) as server:
        async with connected(f"{server.unix_url}?db=3") as redis:
            me = await redis.execute("CLIENT", "INFO")
            assert f"{server.socket_path}:0".encode() in me
            assert b" db=3 " in me


async def test_acl_user(own_redis_server: RedisServer) -> None:
    """An ACL user can use the permitted commands; any other raises its error."""
    own_redis_server.command(
        "ACL", "SETUSER", "chat", "on", f">{PASSWORD}", "~chat:*", "+set", "+get"
    )
    place = f"{own_redis_server.host}:{own_redis_server.port}"
    async with connected(f"redis://chat:{PASSWORD}@{place}") as redis:
        assert await redis.execute("SET", "chat:key", "value") == b"OK"
        with pytest.raises(RedisUnavailable, match=r"permissions"):
            await redis.execute("GET", "other")
        assert await redis.execute("GET", "chat:key") == b"value"
        assert redis.connects == 1


@pytest.mark.parametrize("login", [":wrong@", "nobody:wrong@", ""])
async def test_wrong_password(redis_binary: ServerBinary, login: str) -> None:
    """A wrong login fails at once, not after many attempts."""
    with RedisServer(redis_binary, password=PASSWORD) as server:
        spelling = f"redis://{login}{server.host}:{server.port}/1"
        async with asyncio.timeout(5), connected(spelling, timeout=60) as redis:
            with pytest.raises(RedisUnavailable, match=r"is not available: ") as info:
                await redis.execute("PING")
        assert "wrong@" not in str(info.value)


# Sentinel


async def test_sentinel(sentinels: Sentinels) -> None:
    """Commands go to the master, to the db of the options."""
    async with connected(master_of(sentinels, db=3)) as redis:
        assert await port_of(redis) == sentinels.master.port
        assert b" db=3 " in await redis.execute("CLIENT", "INFO")


async def port_of(redis: CommandConnection) -> int:
    """Return the port of the server that a command reached."""
    _, port = await redis.execute("CONFIG", "GET", "port")
    return int(port)


async def test_sentinel_wrong_password(sentinels: Sentinels) -> None:
    """A login that the master refuses fails at once."""
    spelling = master_of(sentinels, username="nobody", password=PASSWORD)
    async with asyncio.timeout(5), connected(spelling, timeout=60) as redis:
        with pytest.raises(RedisUnavailable, match=r"is not available: ") as info:
            await redis.execute("PING")
    assert PASSWORD not in str(info.value)


async def test_sentinel_user_without_role(sentinels: Sentinels) -> None:
    """An ACL user without permission for ROLE can use the server."""
    master = sentinels.master
    master.command(
        "ACL", "SETUSER", "chat", "on", f">{PASSWORD}", "~*", "+@all", "-@dangerous"
    )
    try:
        spelling = master_of(sentinels, username="chat", password=PASSWORD)
        async with connected(spelling) as redis:
            assert await redis.execute("ECHO", "on") == b"on"
    finally:
        master.command("ACL", "DELUSER", "chat")


async def test_sentinels_down(breakable_sentinels: Sentinels) -> None:
    """One of three Sentinels is enough, with one dead and one frozen."""
    dead, frozen, _ = breakable_sentinels.sentinels
    port = breakable_sentinels.master.port
    await asyncio.to_thread(dead.kill)
    frozen.pause()
    async with connected(master_of(breakable_sentinels)) as redis:
        assert await port_of(redis) == port


async def test_all_sentinels_down(breakable_sentinels: Sentinels) -> None:
    """Without a Sentinel commands fail in time; an open connection still works."""
    spelling = master_of(breakable_sentinels)
    async with connected(spelling) as before, connected(spelling, timeout=0.2) as after:
        await before.execute("PING")
        for server in breakable_sentinels.sentinels:
            await asyncio.to_thread(server.kill)
        async with asyncio.timeout(5):
            with pytest.raises(RedisUnavailable, match=r"is not available"):
                await after.execute("PING")
        assert await before.execute("ECHO", "on") == b"on"


def crash(sentinels: Sentinels) -> RedisServer:
    return sentinels.wait_for_new_master(sentinels.kill_master())


@pytest.mark.parametrize("change", [crash, Sentinels.fail_over])
async def test_new_master(
    breakable_sentinels: Sentinels, change: Callable[[Sentinels], RedisServer]
) -> None:
    """While the master changes, each command gets a reply or fails; then all work."""
    timeout = 2.0
    ports: list[int] = []

    async def send(redis: CommandConnection) -> None:
        """Send commands forever; connecting and replies take a bounded time."""
        while True:
            async with asyncio.timeout(2 * timeout + 1):
                with contextlib.suppress(RedisUnavailable):
                    ports.append(await port_of(redis))

    async def reached(port: int) -> None:
        async with asyncio.timeout(10):
            while port not in ports[-1:]:  # noqa: ASYNC110 # nothing signals it
                await asyncio.sleep(0.001)

    old = breakable_sentinels.master.port
    async with connected(master_of(breakable_sentinels), timeout=timeout) as redis:
        async with asyncio.TaskGroup() as tasks:
            senders = [tasks.create_task(send(redis)) for _ in range(5)]
            await reached(old)
            new = await asyncio.to_thread(change, breakable_sentinels)
            await reached(new.port)
            for sender in senders:
                sender.cancel()
        assert set(ports) == {old, new.port}
        assert redis.connects >= 2
