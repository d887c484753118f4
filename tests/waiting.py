"""Wait in tests for what other tasks and servers do, never for a time."""

import asyncio
from collections.abc import Callable

# Seconds between two questions to a server.
PAUSE = 0.01


async def turn(times: int = 30) -> None:
    """Let the event loop turn, so that each task that can go on does."""
    for _ in range(times):
        await asyncio.sleep(0)


async def until(
    condition: Callable[[], object], limit: float = 10, pause: float = 0
) -> None:
    """Wait until a condition holds; check it in each turn of the event loop.

    Args:
        condition: Returns a true value if it holds.
        limit: Seconds to wait at most.
        pause: Seconds between two checks, for a condition that asks a server.

    Raises:
        TimeoutError: The condition did not hold in time.
    """
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110 # any condition
            await asyncio.sleep(pause)
