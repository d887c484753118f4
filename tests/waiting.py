"""Wait in tests for what other tasks and servers do, never for a time."""

import asyncio
from collections.abc import Callable

# A fake needs a few turns of the event loop. A server needs the processor, which is
# not to be spent on asking it without a pause.
_TURNS = 100
_PAUSE = 0.001


async def turn(times: int = 30) -> None:
    """Let the event loop turn, so that each task that can go on does."""
    for _ in range(times):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], limit: float = 10) -> None:
    """Wait until a condition holds.

    It is looked at in each of the next turns of the event loop, and after those once
    in a millisecond.

    Raises:
        TimeoutError: If it does not hold within ``limit`` seconds.
    """
    turns = 0
    async with asyncio.timeout(limit):
        while not condition():
            turns += 1
            await asyncio.sleep(0 if turns < _TURNS else _PAUSE)
