"""Round trips to Redis, counted on the socket, and the cost of idling."""

import asyncio
import selectors
import time
from collections.abc import Awaitable, Iterator

import pytest

from fast_channels.layers.redis import RedisChannelLayer
from fast_channels.layers.redis.queue.inbox import Inbox, InboxTiming
from tests.redis_servers.proxy import RoundTripProxy
from tests.redis_servers.server import RedisServer
from tests.waiting import PAUSE, until

MESSAGE = {"type": "test.message"}


@pytest.fixture
def second_round_trips(second_redis_server: RedisServer) -> Iterator[RoundTripProxy]:
    """Count the round trips to the second server too."""
    with RoundTripProxy(second_redis_server) as proxy:
        yield proxy


async def counted(proxy: RoundTripProxy, action: Awaitable[object]) -> int:
    """Return the number of round trips of an operation."""
    before = proxy.round_trips
    await action
    return proxy.round_trips - before


async def receive(layer: RedisChannelLayer, channel: str, count: int) -> None:
    async with asyncio.timeout(10):
        for _ in range(count):
            await layer.receive(channel)


# One host


async def test_each_operation(round_trips: RoundTripProxy, prefix: str) -> None:
    """Sending, joining, leaving and deleting take one round trip each."""
    async with RedisChannelLayer([round_trips.url], prefix) as layer:

        async def costs() -> dict[str, int]:
            channel = await layer.new_channel()
            operations: dict[str, Awaitable[object]] = {
                "send": layer.send(channel, MESSAGE),
                "send to a plain channel": layer.send("jobs", MESSAGE),
                "group_add": layer.group_add("room", channel),
                "group_send": layer.group_send("room", MESSAGE),
                "group_discard": layer.group_discard("room", channel),
            }
            found = {
                name: await counted(round_trips, operation)
                for name, operation in operations.items()
            }
            for number in range(5):
                await layer.group_add(f"room{number}", channel)
            deleting = layer.delete_channel(channel)
            found["delete_channel"] = await counted(round_trips, deleting)
            found["new_channel"] = await counted(round_trips, layer.new_channel())
            return found

        # The first time it connects, and sends its scripts.
        await costs()
        assert await costs() == {
            "send": 1,
            "send to a plain channel": 1,
            "group_add": 1,
            "group_send": 1,
            "group_discard": 1,
            "delete_channel": 1,
            "new_channel": 0,
        }


@pytest.mark.parametrize("plain", [False, True], ids=["own", "plain"])
async def test_receiving(
    round_trips: RoundTripProxy, redis_server: RedisServer, prefix: str, plain: bool
) -> None:
    """A message that arrives for a waiting receiver takes one round trip at most."""
    async with (
        RedisChannelLayer([round_trips.url], prefix) as layer,
        RedisChannelLayer([redis_server.url], prefix) as other,
    ):
        channel = "jobs" if plain else await layer.new_channel()
        await other.send(channel, MESSAGE)
        await receive(layer, channel, 1)
        before = round_trips.round_trips
        for _ in range(20):
            receiving = asyncio.create_task(receive(layer, channel, 1))
            await other.send(channel, MESSAGE)
            await receiving
        assert round_trips.round_trips - before <= 20


async def test_receiving_in_a_busy_event_loop(
    round_trips: RoundTripProxy, redis_server: RedisServer, prefix: str
) -> None:
    """A new message is not returned to Redis before its reader could run."""
    async with (
        RedisChannelLayer([round_trips.url], prefix) as layer,
        RedisChannelLayer([redis_server.url], prefix) as other,
    ):

        async def be_busy() -> None:
            while True:
                time.sleep(0.005)  # noqa: ASYNC251 # computes something
                await asyncio.sleep(0)

        await other.send("jobs", MESSAGE)
        await receive(layer, "jobs", 1)
        before = round_trips.round_trips
        busy = asyncio.create_task(be_busy())
        for _ in range(40):
            receiving = asyncio.create_task(receive(layer, "jobs", 1))
            await other.send("jobs", MESSAGE)
            await receiving
        busy.cancel()
        assert round_trips.round_trips - before <= 40


@pytest.mark.parametrize("plain", [False, True], ids=["own", "plain"])
async def test_burst(
    round_trips: RoundTripProxy, redis_server: RedisServer, prefix: str, plain: bool
) -> None:
    """Each round trip fetches ten or more of many waiting messages."""
    async with (
        RedisChannelLayer([round_trips.url], prefix, capacity=2000) as layer,
        RedisChannelLayer([redis_server.url], prefix, capacity=2000) as other,
    ):
        channel = "jobs" if plain else await layer.new_channel()
        await other.send(channel, MESSAGE)
        await receive(layer, channel, 1)
        await asyncio.gather(*[other.send(channel, MESSAGE) for _ in range(1000)])
        assert await counted(round_trips, receive(layer, channel, 1000)) <= 100


async def test_sending_at_once(round_trips: RoundTripProxy, prefix: str) -> None:
    """Tasks that send in the same turn of the event loop share a round trip."""
    async with RedisChannelLayer([round_trips.url], prefix) as layer:
        await layer.send("jobs", MESSAGE)
        at_once = asyncio.gather(*[layer.send("jobs", MESSAGE) for _ in range(50)])
        assert await counted(round_trips, at_once) == 1


# Several steps


async def test_group_send_when_encrypted(
    round_trips: RoundTripProxy, prefix: str
) -> None:
    """An encrypted message cannot be completed by Redis, so members are read first."""
    async with RedisChannelLayer(
        [round_trips.url], prefix, symmetric_encryption_keys=["secret"]
    ) as layer:
        for name in ("a.b.1!x", "a.b.2!x", "a.b.2!y"):
            await layer.group_add("room", name)
        await layer.group_send("room", MESSAGE)
        sending = layer.group_send("room", MESSAGE)
        assert await counted(round_trips, sending) == 2


async def test_group_send_to_two_hosts(
    round_trips: RoundTripProxy,
    second_round_trips: RoundTripProxy,
    second_redis_server: RedisServer,
    prefix: str,
) -> None:
    """One host has the members; then each host is written to once, concurrently."""
    proxies = round_trips, second_round_trips
    async with RedisChannelLayer([proxy.url for proxy in proxies], prefix) as layer:
        for number in range(20):
            await layer.group_add("room", f"a.b.{number}!x")
        await layer.group_send("room", MESSAGE)
        before = [proxy.round_trips for proxy in proxies]
        await layer.group_send("room", MESSAGE)
        after = [proxy.round_trips for proxy in proxies]
        assert sorted(b - a for a, b in zip(before, after, strict=True)) == [1, 2]
    second_redis_server.delete_keys(prefix)


# Idling


async def test_commands_of_a_waiting_receiver(
    own_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a receiver waits, Redis gets only a periodic check."""
    timing = InboxTiming(check=0.5, idle=0.1, patience=0.1)
    monkeypatch.setattr(Inbox, "timing", timing)
    async with RedisChannelLayer([own_redis_server.url]) as layer:
        receiving = asyncio.create_task(layer.receive(await layer.new_channel()))

        def counts() -> dict[str, int]:
            return own_redis_server.command_counts()

        # The first script is unknown to the server, and is then sent as a whole.
        await until(lambda: counts().get("ping", 0) >= 2, pause=PAUSE)
        before = counts()
        await until(lambda: counts()["ping"] >= before["ping"] + 3, pause=PAUSE)
        after = counts()
        called = {
            name: count - before.get(name, 0)
            for name, count in after.items()
            if count > before.get(name, 0) and name != "info"
        }
        assert called["ping"] >= 3
        assert max(called.values()) <= called["ping"] + 1
        # The calls of the script, and the one that enables the next notification.
        assert set(called) <= {
            "ping",
            "evalsha",
            "zcard",
            "time",
            "del",
            "zrange",
            "zremrangebyscore",
            "zscore",
        }
        receiving.cancel()
        await asyncio.wait([receiving])


class CountingSelector(selectors.DefaultSelector):
    """Counts how often the event loop wakes up."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        if timeout is None or timeout > 0:
            self.count += 1
        return ready


async def test_wake_ups_of_a_waiting_receiver(
    redis_server: RedisServer, prefix: str
) -> None:
    """The event loop sleeps while receivers wait."""
    selector = CountingSelector()

    async def wait() -> int:
        async with RedisChannelLayer([redis_server.url], prefix) as layer:
            channels = [await layer.new_channel(), "jobs"]
            receivers = [asyncio.create_task(layer.receive(name)) for name in channels]
            for name, receiver in zip(channels, receivers, strict=True):
                await layer.send(name, MESSAGE)
                await receiver
            receivers = [asyncio.create_task(layer.receive(name)) for name in channels]
            # Let pending work end first.
            await asyncio.sleep(0.2)
            before = selector.count
            await asyncio.sleep(1)
            wake_ups = selector.count - before
            for receiver in receivers:
                receiver.cancel()
            await asyncio.wait(receivers)
            return wake_ups

    def run() -> int:
        with asyncio.Runner(
            loop_factory=lambda: asyncio.SelectorEventLoop(selector)
        ) as runner:
            return runner.run(wait())

    # The end of the second.
    assert await asyncio.to_thread(run) == 1
