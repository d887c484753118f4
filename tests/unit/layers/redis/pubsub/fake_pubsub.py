"""A fake Redis for pub/sub that stalls, refuses and breaks when a test says so."""

import re
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.pubsub.subscriber import Subscriber
from tests.unit.layers.redis.fake_server import NO_PAUSE, FakeConnection, FakeServer
from tests.waiting import until

# Reconnects at once, one attempt at a time.
ONCE = replace(Subscriber.timing, jitter=NO_PAUSE.jitter, another=1000)


class PubSubConnection(FakeConnection):
    """A connection that can subscribe."""

    def __init__(self, server: "FakeServer[Any]") -> None:
        super().__init__(server)
        self.names: dict[str, str] = {}
        """The subscriptions, each with its command."""

    def push(self, name: str, data: bytes) -> int:
        """Send a message once per matching subscription, and return their number."""
        count = 0
        for subscription, verb in self.names.items():
            if verb == "SUBSCRIBE" and subscription == name:
                self.reply([b"message", name.encode(), data])
            elif verb == "SSUBSCRIBE" and subscription == name:
                self.reply([b"smessage", name.encode(), data])
            elif verb == "PSUBSCRIBE" and _matches(name, subscription):
                pattern = subscription.encode()
                self.reply([b"pmessage", pattern, name.encode(), data])
            else:
                continue
            count += 1
        return count


class FakePubSub(FakeServer[PubSubConnection]):
    """The server: its subscriptions and confirmations."""

    def __init__(self) -> None:
        super().__init__(PubSubConnection)
        # Whether to hold back confirmations, and those held back.
        self.holds = False
        self.held: deque[tuple[PubSubConnection, list[Any]]] = deque()
        # Names to refuse, and the reply for them.
        self.forbidden: dict[str, Exception] = {}
        self.hello: object = [b"server", b"redis", b"mode", b"standalone"]

    @property
    def subscribed(self) -> list[str]:
        """The subscriptions of all connections together."""
        names = (name for connection in self.open for name in connection.names)
        return sorted(names)

    def publish(self, name: str, data: bytes) -> int:
        """Send to all subscribers, and return their number."""
        return sum(connection.push(name, data) for connection in self.open)

    def release(self, count: int = 1) -> None:
        """Send a number of the confirmations held back."""
        for _ in range(count):
            connection, reply = self.held.popleft()
            connection.reply(reply)

    def obey(self, connection: PubSubConnection, words: list[bytes]) -> None:
        if words == [b"HELLO"]:
            # Every connection begins with it, so tests need not see it.
            self.writes[-1] = self.writes[-1].removeprefix("HELLO;")
            if not self.writes[-1]:
                del self.writes[-1]
            connection.reply(self.hello)
        else:
            super().obey(connection, words)

    def answer(self, connection: PubSubConnection, words: list[bytes]) -> list[Any]:
        verb, *names = [word.decode(errors="replace") for word in words]
        if verb in {"PUBLISH", "SPUBLISH"}:
            return [self.publish(names[0], words[2])]
        if verb == "PING":
            # Redis's reply depends on whether the client has subscriptions.
            return [[b"pong", b""] if connection.names else b"PONG"]
        for name in self.forbidden.keys() & {*names}:
            return [self.forbidden[name]]
        replies: list[Any] = []
        for name in names:
            if verb.startswith(("UN", "PUN", "SUN")):
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
    """Records what a subscriber reports."""

    def __init__(self) -> None:
        self.events: list[str] = []
        # Called with the data of each message after it was recorded.
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
    """Make a subscriber, and check that it leaves no connection when closed."""
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
    """Listen to some names, and wait until they are confirmed."""
    for name in names:
        subscriber.listen(name)
    await until(lambda: not any(map(subscriber.pending, names)))


def _matches(name: str, pattern: str) -> bool:
    """Match a pattern as Redis does, for ``*`` and backslashes."""
    parts = re.findall(r"\\(.)|(\*)|([^\\*])", pattern, re.DOTALL)
    regex = "".join(
        ".*" if star else re.escape(escaped or plain) for escaped, star, plain in parts
    )
    return re.fullmatch(regex, name, re.DOTALL) is not None
