"""Opens a connection where an attempt to connect can hang.

A network that drops packets, such as those to a host that is down, does not answer an
attempt. The kernel repeats it after a second at the earliest, and then less and less
often, so it is slow to notice a server that returns in between. Several attempts
therefore run at the same time: a new one starts every few tenths of a second until a
server accepts, while the first one continues in case the server is far away.
"""

import asyncio
from collections.abc import Callable

from .wire import Connection

__all__ = ["open_connection"]

# Maximum number of simultaneous attempts: the first one, and the latest.
_AT_ONCE = 3


async def open_connection(
    connect: Callable[[], Connection],
    timeout: float,
    *,
    another: float,
    suspect: Callable[[], None] | None = None,
) -> Connection:
    """Return the first connection that opens.

    Cancelling ends all attempts.

    Args:
        connect: Returns a new redis-py connection, not open yet.
        timeout: Seconds to keep trying.
        another: Seconds between unanswered attempts.
        suspect: For a node of a cluster, called as often while it has not answered:
            other nodes may have replaced it.

    Raises:
        TimeoutError: No attempt was answered in time.
        Exception: The error of the first attempt that failed.
    """
    attempts: dict[asyncio.Task[None], Connection] = {}
    try:
        async with asyncio.timeout(timeout):
            while True:
                # After a server has accepted, more attempts would not help.
                if not any(each.is_connected for each in attempts.values()):
                    connection = connect()
                    attempts[asyncio.create_task(connection.connect())] = connection
                done, _ = await asyncio.wait(
                    attempts, timeout=another, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    attempt.result()
                    return attempts.pop(attempt)
                if suspect is not None:
                    suspect()
                if len(attempts) == _AT_ONCE:
                    _, second, *_ = attempts
                    await _end({second: attempts.pop(second)})
    finally:
        await _end(attempts)


async def _end(attempts: dict[asyncio.Task[None], Connection]) -> None:
    for attempt in attempts:
        attempt.cancel()
    try:
        await asyncio.gather(*attempts, return_exceptions=True)
    finally:
        for connection in attempts.values():
            await connection.disconnect(nowait=True)
