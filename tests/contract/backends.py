"""The layers that the contract is about, and how they differ."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, Unpack

from fast_channels.layers import BaseChannelLayer, InMemoryChannelLayer
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage

# After so many seconds a test fails that would wait for ever.
LIMIT = 10
# How often what may expire before it arrives is sent again, in seconds.
_INTERVAL = 0.2
_LAST = {"type": "test.last"}


class Options(TypedDict, total=False):
    """The options that all layers have."""

    expiry: float
    group_expiry: float
    capacity: int
    channel_capacity: ChannelCapacityDict


class MakeLayer(Protocol):
    """Makes a layer as one more process would: all of them reach one another."""

    def __call__(self, **options: Unpack[Options]) -> BaseChannelLayer: ...


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A kind of layer: how one gets it, and what it does in its own way."""

    name: str
    """What the tests call it."""
    processes: Callable[[], AbstractAsyncContextManager[MakeLayer]]
    """Gives a ``make_layer`` whose layers share nothing with those of any other."""
    held_by: Callable[[BaseChannelLayer], dict[str, int]]
    """Counts what a layer holds; all of it is 0 when the layer is closed."""

    send_refuses_when_full: bool
    """``send()`` to a full channel raises ``ChannelFull``; if not, a message is dropped
    silently, as ``group_send()`` always does."""
    any_name_is_valid: bool
    """Every str that is not empty names a channel or a group; if not, names are of
    ASCII letters, digits, ``.``, ``_`` and ``-``, and shorter than 100."""
    keeps_messages_for_later_receivers: bool
    """A message waits for the first receiver of its channel; if not, it is lost unless
    the channel comes from ``new_channel()`` or somebody receives from it already."""
    carries_any_python_object: bool
    """Messages may hold whatever ``copy.deepcopy()`` copies; if not, only what the
    serializer carries, and ``send()`` refuses the rest."""


@dataclass(frozen=True)
class Pair:
    """Two layers as two processes have them; in memory both are the same object."""

    layer: BaseChannelLayer
    """Makes channels, receives from them and puts them into groups."""
    other: BaseChannelLayer
    """Sends to them."""

    async def rest(self, channel: str) -> list[dict[str, Any]]:
        """Return what still waits in a channel that has room for one message more."""
        await self.other.send(channel, _LAST)
        messages: list[dict[str, Any]] = []
        async with asyncio.timeout(LIMIT):
            while (message := await self.layer.receive(channel)) != _LAST:
                messages.append(message)
        return messages

    async def next_after(
        self,
        send: Callable[[str, ChannelMessage], Any],
        to: str,
        message: ChannelMessage,
        channel: str,
    ) -> dict[str, Any]:
        """Send until something is received from a channel, and return that.

        For a message that could expire, or be lost, before the receiver is there.
        """
        receiving = asyncio.create_task(self.layer.receive(channel))
        async with asyncio.timeout(LIMIT):
            while not receiving.done():
                await send(to, message)
                await asyncio.wait([receiving], timeout=_INTERVAL)
            return await receiving


@contextlib.asynccontextmanager
async def _in_memory() -> AsyncGenerator[MakeLayer]:
    layers: list[InMemoryChannelLayer] = []

    def make_layer(**options: Unpack[Options]) -> BaseChannelLayer:
        if not layers:
            layers.append(InMemoryChannelLayer(**options))
        return layers[0]

    yield make_layer


def _held_in_memory(layer: BaseChannelLayer) -> dict[str, int]:
    assert isinstance(layer, InMemoryChannelLayer)
    held = layer.statistics()
    del held["dropped"]
    return held


BACKENDS = [
    Backend(
        name="memory",
        processes=_in_memory,
        held_by=_held_in_memory,
        send_refuses_when_full=True,
        any_name_is_valid=False,
        keeps_messages_for_later_receivers=True,
        carries_any_python_object=True,
    ),
]
