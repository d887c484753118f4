"""Numbered messages, which show whether any is lost or comes twice."""

import asyncio
import contextlib
import functools
import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from typing import Any, Self

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers import RedisChannelLayer, register_channel_layer
from fast_channels.testing import WebsocketCommunicator
from fast_channels.type_defs import ChannelMessage
from tests.waiting import until

Send = Callable[[ChannelMessage], Awaitable[None]]
"""Sends a message to the place under test."""

GROUP = "crowd"
"""The group that consumers join."""

# Seconds after which a message counts as lost.
LIMIT = 15
# Seconds between two messages of one sender.
_PACE = 0.001
# The number of senders that send at the same time.
_SENDERS = 4
_ALIAS = "faults"


class Ledger:
    """The numbers that a receiver got; several receivers can share a ledger."""

    def __init__(self) -> None:
        self.counts = Counter[int]()
        self.greatest = -1
        self.ends = 0
        self._changed = asyncio.Event()

    @property
    def twice(self) -> list[int]:
        """The numbers that came more than once."""
        return sorted(number for number, times in self.counts.items() if times > 1)

    def note(self, message: ChannelMessage) -> bool:
        """Record a message, and return whether more can follow."""
        self._changed.set()
        if message["type"] == "end":
            self.ends += 1
            return False
        number: int = message["number"]
        self.counts[number] += 1
        self.greatest = max(self.greatest, number)
        return True

    async def until(self, condition: Callable[[], bool], limit: float = LIMIT) -> bool:
        """Wait until a condition on the received messages holds.

        Returns: Whether the condition holds; false after a time limit.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        return condition()

    async def holds(self, numbers: Collection[int], limit: float = LIMIT) -> None:
        """Wait until all of some numbers have come."""
        expected = set(numbers)
        await self.until(lambda: expected <= self.counts.keys(), limit)
        lost = sorted(expected - self.counts.keys())
        assert not lost, f"{len(lost)} of {len(numbers)} lost: {lost[:20]}"

    async def ended(self, times: int = 1) -> None:
        """Wait until a number of ends has come."""
        await self.until(lambda: self.ends >= times)
        assert self.ends == times


async def receive_all(layer: RedisChannelLayer, channel: str, ledger: Ledger) -> None:
    """Receive until the end."""
    while ledger.note(await layer.receive(channel)):
        pass


class Traffic:
    """Sends numbers during the block.

    Some sends can fail with ``RedisUnavailable``; whether those were sent is unknown.
    """

    def __init__(self, *sends: Send) -> None:
        self.acknowledged: set[int] = set()
        self._sends = itertools.cycle(sends)
        self.next_number = 0
        """Return the next message to send."""
        self._over = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._sending = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._run(next(self._sends))) for _ in range(_SENDERS)
        ]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._over = True
        self.go_on()
        await asyncio.gather(*self._tasks)

    async def pause(self) -> None:
        """Stop sending, and wait until all that was sent is acknowledged or failed."""
        self._flows.clear()
        await until(lambda: not self._sending, pause=_PACE)

    def go_on(self) -> None:
        """Send again after a pause."""
        self._flows.set()

    async def reaches(self, total: int) -> None:
        """Wait until a number of further messages has been acknowledged."""
        goal = len(self.acknowledged) + total
        while len(self.acknowledged) < goal:  # noqa: ASYNC110 # a counter has no events
            await asyncio.sleep(_PACE)

    async def burst(self, total: int) -> None:
        """Send a number of messages at once."""
        send = next(self._sends)
        await asyncio.gather(*[self._send(send) for _ in range(total)])

    async def _run(self, send: Send) -> None:
        while not self._over:
            await self._flows.wait()
            await self._send(send)
            await asyncio.sleep(_PACE)

    async def _send(self, send: Send) -> None:
        number, self.next_number = self.next_number, self.next_number + 1
        self._sending += 1
        with contextlib.suppress(RedisUnavailable):
            await send({"type": "number", "number": number})
            self.acknowledged.add(number)
        self._sending -= 1


async def reached_again(
    ledgers: Collection[Ledger], traffic: Traffic, limit: float
) -> None:
    """Check that each ledger gets in time what is acknowledged from now on."""
    end = time.monotonic() + limit
    number = traffic.next_number
    for ledger in ledgers:

        def is_reached(ledger: Ledger = ledger) -> bool:
            return ledger.greatest >= number

        in_time = await ledger.until(is_reached, end - time.monotonic())
        assert in_time, f"not all receive again within {limit} s"


async def settle(
    ledger: Ledger, numbers: Collection[int], send: Send, ends: int = 1
) -> None:
    """Check that a ledger gets each number once; then send ends to its receivers."""
    await ledger.holds(numbers)
    for _ in range(ends):
        await send({"type": "end"})
    await ledger.ended(ends)
    assert not ledger.twice, f"{len(ledger.twice)} came twice: {ledger.twice[:20]}"


# Consumers


class Listener(AsyncWebsocketConsumer):
    """Records the messages of its group."""

    channel_layer_alias = _ALIAS
    groups = [GROUP]

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    async def number(self, message: dict[str, Any]) -> None:
        self.ledger.note(message)

    async def end(self, message: dict[str, Any]) -> None:
        self.ledger.note(message)


@contextlib.asynccontextmanager
async def listening(
    *layers: RedisChannelLayer, consumer: type[Listener] = Listener
) -> AsyncGenerator[list[Ledger]]:
    """Connect a consumer for each layer, and yield their ledgers.

    At the end, all consumers must still be connected, and disconnect normally.
    """
    ledgers: list[Ledger] = []
    clients: list[WebsocketCommunicator] = []
    async with contextlib.AsyncExitStack() as stack:
        for layer in layers:
            ledgers.append(Ledger())
            app = consumer.as_asgi(ledger=ledgers[-1])
            client = await stack.enter_async_context(WebsocketCommunicator(app, "/"))
            clients.append(client)
            register_channel_layer(_ALIAS, layer)
            assert await client.connect(timeout=LIMIT) == (True, None)
        yield ledgers
        for client in clients:
            assert not client.future.done(), "a consumer has ended by itself"
            await client.disconnect(timeout=LIMIT)


def to_channel(layer: RedisChannelLayer, channel: str) -> Send:
    return functools.partial(layer.send, channel)


def to_group(layer: RedisChannelLayer, group: str = GROUP) -> Send:
    return functools.partial(layer.group_send, group)
