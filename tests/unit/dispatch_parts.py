"""Sources, a mailbox and a handler for the tests of dispatch loops."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from fast_channels.exceptions import StopConsumer
from fast_channels.type_defs import ChannelMessage
from tests.waiting import turn

LAST = "last"

Dispatch: TypeAlias = Callable[[Any], Awaitable[None]]


class Handler:
    """Records its messages, and ends the loop at the message named ``LAST``."""

    def __init__(self, *, turns: int = 0) -> None:
        self.names: list[str] = []
        self.turns = turns

    async def __call__(self, message: ChannelMessage) -> None:
        self.names.append(message["type"])
        await turn(self.turns)
        if message["type"] == LAST:
            raise StopConsumer


async def nothing() -> ChannelMessage:
    """Wait for a message that never comes."""
    never = asyncio.get_running_loop().create_future()
    await never
    raise AssertionError("this future is never resolved")


def source_of(*names: str) -> Callable[[], Awaitable[ChannelMessage]]:
    """Return a source that yields these messages and then waits forever."""
    left = deque(names)

    async def source() -> ChannelMessage:
        return {"type": left.popleft()} if left else await nothing()

    return source


class Box(deque[str]):
    """A mailbox that holds messages with these names."""

    def take(self) -> ChannelMessage | None:
        return {"type": self.popleft()} if self else None


def others() -> set[asyncio.Task[Any]]:
    """Return all tasks but the test's own."""
    return asyncio.all_tasks() - {asyncio.current_task()}
