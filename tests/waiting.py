"""Let tests wait for conditions instead of sleeping."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

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


@contextlib.asynccontextmanager
async def counting_turns() -> AsyncGenerator[list[None]]:
    """Count how often another task runs during the block."""
    turns: list[None] = []

    async def count() -> None:
        while True:
            await asyncio.sleep(0)
            turns.append(None)

    task = asyncio.create_task(count())
    await until(lambda: turns)
    turns.clear()
    yield turns
    task.cancel()
