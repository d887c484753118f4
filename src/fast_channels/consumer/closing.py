"""Closing a connection without waiting for what its client does.

uvicorn's ``websockets`` implementation sends the close frame at once, but returns only
when the client has answered it, or after 20 seconds, even if it is cancelled. All
servers wait for a client that reads nothing and whose buffers are full.
"""

import asyncio
from collections.abc import Awaitable, Callable

from fast_channels.type_defs import ChannelMessage
from fast_channels.waking import ignore_error

__all__ = ["send_close"]


async def send_close(
    send: Callable[[ChannelMessage], Awaitable[None]],
    event: ChannelMessage,
    seconds: float,
) -> None:
    """Send a close; if that takes too long, cancel it, and do not wait for its end.

    Args:
        send: The server's.
        event: The ``websocket.close``.
        seconds: Seconds to wait for the server.

    Raises:
        Exception: What the server raises in that time.
    """
    sending = asyncio.ensure_future(send(event))
    sending.add_done_callback(ignore_error)
    try:
        await asyncio.wait([sending], timeout=seconds)
        if sending.done():
            sending.result()
    finally:
        sending.cancel()
