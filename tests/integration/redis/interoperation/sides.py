"""The common interface of both sides."""

import asyncio
from typing import Any, Literal, Protocol, TypeAlias

from tests.integration.redis.peer import Message

# The module of channels_redis that contains the layer.
Kind: TypeAlias = Literal["core", "pubsub"]
Options: TypeAlias = dict[str, Any]

MESSAGE: Message = {
    "type": "chat.message",
    "none": None,
    "bools": [True, False],
    "ints": [0, -1, 2**53],
    "floats": [0.5, -1e300],
    "text": "Grüße, 世界 🌍\n",
    "nested": {"list": [{"deep": [[], {}]}], "": ""},
}


class Side(Protocol):
    """The methods of both the library's and Django's layers."""

    async def new_channel(self) -> str: ...
    async def send(self, channel: str, message: Message) -> None: ...
    async def receive(self, channel: str) -> Message: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_discard(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: Message) -> object: ...


# A sender and a receiver, and the same with swapped roles.
BothWays: TypeAlias = list[tuple[Side, Side]]


async def take(side: Side, channel: str, count: int = 1) -> list[Message]:
    """Receive ``count`` messages."""
    async with asyncio.timeout(10):
        return [await side.receive(channel) for _ in range(count)]
