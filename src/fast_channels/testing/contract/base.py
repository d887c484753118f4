"""What the tests of a layer share: its flags, its options and two of it."""

import asyncio
import contextlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar, Unpack

import pytest
import pytest_asyncio

from fast_channels.layers import BaseChannelLayer, History
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage

__all__ = [
    "EXPIRY",
    "LIMIT",
    "ContractBase",
    "LayerOptions",
    "LayerPair",
    "with_options",
]

# Seconds after which a test fails instead of waiting on.
LIMIT = 10
# Short enough to wait for. A message with this expiry can expire on its way, too.
EXPIRY = 0.05
# Seconds after which a message that may have expired or got lost is sent again.
_INTERVAL = 0.2
_LAST = {"type": "test.last"}

_Result = TypeVar("_Result")


class LayerOptions(TypedDict, total=False):
    """The options that a test gives to both layers."""

    expiry: float
    capacity: int
    channel_capacity: ChannelCapacityDict
    history: Mapping[Any, History]


def with_options(**options: Unpack[LayerOptions]) -> pytest.MarkDecorator:
    """Run a test on layers with these options."""
    return pytest.mark.parametrize("options", [options], ids=[",".join(options)])


@contextlib.asynccontextmanager
async def running(
    *coroutines: Coroutine[Any, Any, _Result],
) -> AsyncGenerator[list[asyncio.Task[_Result]]]:
    """Run coroutines in tasks that begin before the block, and end with it."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        # Also retrieves their exceptions, which would be logged otherwise.
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class LayerPair:
    """Two layers that stand for two processes."""

    layer: BaseChannelLayer
    """Creates channels, receives from them and adds them to groups."""
    other: BaseChannelLayer
    """Sends to them."""
    lanes: Sequence[str] = ()
    """A group for each path on which messages can overtake those on another path."""

    @property
    def swapped(self) -> "LayerPair":
        """The same layers with their roles swapped."""
        return LayerPair(self.other, self.layer, self.lanes)

    async def receive(self, channel: str) -> dict[str, Any]:
        """Return the next message of a channel; fail if none arrives in time."""
        async with asyncio.timeout(LIMIT):
            return await self.layer.receive(channel)

    async def rest(self, channel: str) -> list[dict[str, Any]]:
        """Return all messages of a channel that has room for one more."""
        messages: list[dict[str, Any]] = []
        for lane in self.lanes:
            await self.layer.group_add(lane, channel)
            await self.other.group_send(lane, _LAST)
            messages += await self._until_last(channel)
            await self.layer.group_discard(lane, channel)
        await self.other.send(channel, _LAST)
        return messages + await self._until_last(channel)

    async def _until_last(self, channel: str) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        while (message := await self.receive(channel)) != _LAST:
            messages.append(message)
        return messages

    async def arrival(self) -> None:
        """Wait until all messages have arrived that were sent before."""
        assert await self.rest(await self.layer.new_channel()) == []

    async def next_after(
        self,
        send: Callable[[str, ChannelMessage], Awaitable[object]],
        to: str,
        message: ChannelMessage,
        channel: str,
    ) -> dict[str, Any]:
        """Send a message until a channel receives one, and return that.

        For messages that can expire, or be lost before there is a receiver.
        """
        async with running(self.receive(channel)) as [receiving]:
            while not receiving.done():
                await send(to, message)
                await asyncio.wait([receiving], timeout=_INTERVAL)
            return await receiving


@pytest.mark.asyncio
class ContractBase:
    """The flags of a layer, and the fixtures of its tests."""

    prefixes_channels: bool = False
    """Names of new channels start with the layer's attribute ``prefix``."""

    send_refuses_when_full: bool = True
    """``send()`` to a full channel raises
    :exc:`~fast_channels.exceptions.ChannelFull`. If not set, the message is dropped."""

    any_name_is_valid: bool = False
    """Any str that is not empty names a channel or a group. If not set, names consist
    of ASCII letters, digits, ``.``, ``_`` and ``-``, and are shorter than 100."""

    keeps_messages_for_later_receivers: bool = True
    """A message to a plain channel waits for its first receiver. If not set, it is lost
    unless a task receives from that channel already."""

    carries_bytes: bool = True
    """Messages can hold bytes. If not set, sending them raises :exc:`TypeError`."""

    drops_expired_messages: bool = True
    """A message is dropped after ``expiry`` seconds. If not set, it waits for ever."""

    serves_several_event_loops: bool = True
    """Several event loops and threads can use the layer, also at the same time. If not
    set, the tests of that are skipped."""

    can_be_flushed: bool = True
    """``flush()`` drops all messages and groups. If not set, it raises
    :exc:`NotImplementedError`."""

    keeps_history: bool = False
    """The option ``history`` gives groups a history, from which members can resume. If
    not set, the tests of that are skipped."""

    keeps_statistics: bool = True
    """``statistics()`` counts channels, groups and messages, and all of them are 0 when
    the layer is closed. If not set, they are always 0."""

    def lanes(self, layer: BaseChannelLayer) -> Sequence[str]:
        """Return the name of a group for each path that messages can take.

        To be overridden if messages through one group can overtake messages through
        another, for example because each goes through its own server.
        """
        return ()

    @pytest.fixture
    def options(self) -> LayerOptions:
        """The options of both layers."""
        return {}

    @pytest_asyncio.fixture
    async def pair(
        self, layers: tuple[BaseChannelLayer, BaseChannelLayer]
    ) -> AsyncIterator[LayerPair]:
        """Two layers, which are closed after the test and hold nothing then."""
        layer, other = layers
        yield LayerPair(layer, other, self.lanes(layer))
        for each in layers:
            await each.close()
            assert_empty(each)

    @pytest.fixture
    def layer(self, pair: LayerPair) -> BaseChannelLayer:
        """The layer that receives."""
        return pair.layer

    @pytest.fixture
    def other(self, pair: LayerPair) -> BaseChannelLayer:
        """The layer that sends, as if from another process."""
        return pair.other

    def require(self, flag: str) -> None:
        """Skip a test unless a flag is set."""
        if not getattr(self, flag):
            pytest.skip(f"{type(self).__name__}.{flag} is not set")

    def start_of_names(self, layer: BaseChannelLayer) -> str:
        """Return the start of the names of all new channels."""
        return str(vars(layer)["prefix"]) if self.prefixes_channels else ""


async def refusal(call: Awaitable[object]) -> str:
    """Return the text of the TypeError that a call raises; an empty one if none."""
    try:
        async with asyncio.timeout(LIMIT):
            await call
    except TypeError as exc:
        return str(exc)
    return ""


def held_by(layer: BaseChannelLayer) -> dict[str, int]:
    """Return the numbers of channels, groups and messages that a layer holds."""
    held = layer.statistics()
    return {name: held[name] for name in ("channels", "groups", "waiting")}


def assert_empty(layer: BaseChannelLayer) -> None:
    """Fail if a layer holds anything."""
    held = held_by(layer)
    assert not any(held.values()), f"{layer!r} still holds {held}"
