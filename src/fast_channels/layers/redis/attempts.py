"""How a connection is opened where an attempt to connect can hang.

A network that drops packets, such as that of a host which is gone, answers no attempt.
The kernel repeats it after a second at the earliest, and then less and less often, so
that it finds a server late which returns in between. Several attempts are therefore
made at once: a new one every few tenths of a second until a server accepts, while the
first one goes on for a server that is far away.
"""

import asyncio
from collections.abc import Callable

from redis.asyncio.connection import AbstractConnection

__all__ = ["open_connection"]

# Seconds between two attempts that are not answered.
_AGAIN = 0.3
# How many attempts are made at once: the first one, and the latest.
_AT_ONCE = 3


async def open_connection(
    connect: Callable[[], AbstractConnection], timeout: float
) -> AbstractConnection:
    """Return the first connection that can be opened.

    Cancelling ends all attempts.

    Args:
        connect: Makes a connection of redis-py, which is not open yet.
        timeout: Seconds to try for.

    Raises:
        TimeoutError: Nothing answered in time.
        Exception: Whatever the first attempt that failed raised.
    """
    attempts: dict[asyncio.Task[None], AbstractConnection] = {}
    try:
        async with asyncio.timeout(timeout):
            while True:
                # A server that has accepted only needs time.
                if not any(each.is_connected for each in attempts.values()):
                    connection = connect()
                    attempts[asyncio.create_task(connection.connect())] = connection  # type: ignore[no-untyped-call] # redis-py leaves it untyped
                done, _ = await asyncio.wait(
                    attempts, timeout=_AGAIN, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    attempt.result()
                    return attempts.pop(attempt)
                if len(attempts) == _AT_ONCE:
                    _, second, *_ = attempts
                    await _end({second: attempts.pop(second)})
    finally:
        await _end(attempts)


async def _end(attempts: dict[asyncio.Task[None], AbstractConnection]) -> None:
    for attempt in attempts:
        attempt.cancel()
    try:
        await asyncio.gather(*attempts, return_exceptions=True)
    finally:
        for connection in attempts.values():
            await connection.disconnect(nowait=True)
