"""Let tests wait for conditions instead of sleeping."""

import asyncio
from collections.abc import Callable

# Seconds between two requests to a server.
PAUSE = 0.01


async def turn(times: int = 30) -> None:
    """Run the event loop for some turns, so that every task that can proceed does."""
    for _ in range(times):
        await asyncio.sleep(0)


async def until(
    condition: Callable[[], object], limit: float = 10, pause: float = 0
) -> None:
    """Wait until a condition holds, checking it in each turn of the event loop.

    Args:
        condition: Returns a true value when it holds.
        limit: Maximum seconds to wait.
        pause: Seconds between two checks, for a condition that queries a server.

    Raises:
        TimeoutError: The condition did not hold in time.
    """
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110 # any condition
            await asyncio.sleep(pause)
