"""A Redis that publishes, and that stalls, refuses and breaks as a test asks."""

import re
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from fast_channels.layers.redis.hosts import Host
from fast_channels.layers.redis.layer import RedisBaseLayer
from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.pubsub import endpoint as pubsub_client
from fast_channels.layers.redis.pubsub.subscriber import Subscriber
from fast_channels.layers.redis.sentinel import Master
from tests.unit.layers.redis.fake_server import (
    NO_PAUSE,
    FakeConnection,
    FakeServer,
    until,
)

# Connects again at once, and makes one attempt at a time.
ONCE = replace(Subscriber.timing, jitter=NO_PAUSE.jitter, another=1000)


class PubSubConnection(FakeConnection):
    """A connection that can subscribe."""

    def __init__(self, server: "FakeServer[Any]") -> None:
        super().__init__(server)
        self.names: dict[str, str] = {}
        """What it has subscribed to, with the verb."""

    def push(self, name: str, data: bytes) -> int:
        """Send a message once for each subscription, and return how many there are."""
        count = 0
        for subscription, verb in self.names.items():
            if verb == "SUBSCRIBE" and subscription == name:
                self.reply([b"message", name.encode(), data])
            elif verb == "PSUBSCRIBE" and _matches(name, subscription):
                pattern = subscription.encode()
                self.reply([b"pmessage", pattern, name.encode(), data])
            else:
                continue
            count += 1
        return count


class FakePubSub(FakeServer[PubSubConnection]):
    """The server: what is subscribed to, and what it confirms."""

    def __init__(self) -> None:
        super().__init__(PubSubConnection)
        # Whether confirmations are held back, and those that are.
        self.holds = False
        self.held: deque[tuple[PubSubConnection, list[Any]]] = deque()
        # Names that are refused, and what the answer is.
        self.forbidden: dict[str, Exception] = {}

    @property
    def subscribed(self) -> list[str]:
        """What is subscribed to, by all connections together."""
        names = (name for connection in self.open for name in connection.names)
        return sorted(names)

    def publish(self, name: str, data: bytes) -> int:
        """Send to all who have subscribed, and return how many there were."""
        return sum(connection.push(name, data) for connection in self.open)

    def release(self, count: int = 1) -> None:
        """Send so many of the confirmations that are held back."""
        for _ in range(count):
            connection, reply = self.held.popleft()
            connection.reply(reply)

    def answer(self, connection: PubSubConnection, words: list[bytes]) -> list[Any]:
        verb, *names = [word.decode(errors="replace") for word in words]
        if verb == "PUBLISH":
            return [self.publish(names[0], words[2])]
        if verb == "PING":
            # As Redis answers clients that have subscribed to something, and others.
            return [[b"pong", b""] if connection.names else b"PONG"]
        for name in self.forbidden.keys() & {*names}:
            return [self.forbidden[name]]
        replies: list[Any] = []
        for name in names:
            if verb.startswith(("UN", "PUN")):
                connection.names.pop(name, None)
            else:
                connection.names[name] = verb
            reply = [verb.lower().encode(), name.encode(), len(connection.names)]
            if self.holds:
                self.held.append((connection, reply))
            else:
                replies.append(reply)
        return replies


class Log:
    """What a subscriber has told of."""

    def __init__(self) -> None:
        self.events: list[str] = []
        # What is called with the data of each message, after it was noted.
        self.react: Callable[[str], None] = lambda _: None

    def received(self, name: bytes, data: bytes) -> None:
        self.events.append(f"{name.decode()}: {data.decode()}")
        self.react(data.decode())

    def lost(self) -> None:
        self.events.append("lost")

    def restored(self) -> None:
        self.events.append("restored")


@asynccontextmanager
async def subscribing(
    server: FakePubSub, log: Log, timing: Timing = ONCE
) -> AsyncGenerator[Subscriber]:
    """Make a subscriber, and expect that it leaves no connection when it is closed."""
    subscriber = Subscriber(
        server.connect,
        name="redis-1",
        received=log.received,
        lost=log.lost,
        restored=log.restored,
        timeout=10,
        timing=timing,
    )
    try:
        yield subscriber
    finally:
        await subscriber.close()
    assert server.open == []


async def hear(subscriber: Subscriber, *names: str) -> None:
    """Listen to some names, and wait until they are heard."""
    for name in names:
        subscriber.listen(name)
    await until(lambda: not any(map(subscriber.pending, names)))


class FakeWatch:
    """Stands in for who watches for a new master."""

    def __init__(self, master: Master, switched: Callable[[], None]) -> None:
        assert master.host.kind == "sentinel"
        self.switched = switched
        self.started = False
        self.closed = False

    def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.closed = True


class FakeHosts:
    """The servers of all layers that are made from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, timing: Timing = ONCE) -> None:
        self.servers: defaultdict[str, FakePubSub] = defaultdict(FakePubSub)
        self.watches: list[FakeWatch] = []
        monkeypatch.setattr(Subscriber, "timing", timing)
        monkeypatch.setattr(pubsub_client, "make_connection", self._make_connection)
        monkeypatch.setattr(pubsub_client, "MasterWatch", self._make_watch)

    def of(self, layer: RedisBaseLayer) -> list[FakePubSub]:
        """Return the servers of a layer, in order."""
        return [self.servers[str(host)] for host in layer.hosts]

    def _make_connection(self, place: Host | Master) -> PubSubConnection:
        host = place.host if isinstance(place, Master) else place
        return self.servers[str(host)].connect()

    def _make_watch(self, master: Master, switched: Callable[[], None]) -> FakeWatch:
        self.watches.append(FakeWatch(master, switched))
        return self.watches[-1]


def _matches(name: str, pattern: str) -> bool:
    """Match as Redis does, as far as ``*`` and backslashes go."""
    parts = re.findall(r"\\(.)|(\*)|([^\\*])", pattern, re.DOTALL)
    regex = "".join(
        ".*" if star else re.escape(escaped or plain) for escaped, star, plain in parts
    )
    return re.fullmatch(regex, name, re.DOTALL) is not None
