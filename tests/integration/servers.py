"""The servers that the tests run: each serves an application on a free port."""

import asyncio
import contextlib
import functools
import logging
import socket
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, cast

import hypercorn
import hypercorn.asyncio
import uvicorn
import uvicorn.config

from fast_channels.type_defs import ASGIApplication

__all__ = ["SERVERS", "serving"]

# How long a server waits, when it shuts down, for what its connections are doing.
_GRACE = 0


@contextlib.asynccontextmanager
async def serving(application: ASGIApplication, server: str) -> AsyncGenerator[str]:
    """Serve an application; the server has shut down when the block ends.

    Args:
        application: The application.
        server: One of ``SERVERS``.

    Yields:
        The host and the port.
    """
    # Clients may connect from now on: they wait until the server accepts them.
    listener = socket.create_server(("127.0.0.1", 0))
    address = "{}:{}".format(*listener.getsockname())
    stop = asyncio.Event()
    task = asyncio.create_task(SERVERS[server](application, listener, stop))
    try:
        yield address
    finally:
        stop.set()
        await task


async def _uvicorn(
    implementation: str,
    application: ASGIApplication,
    listener: socket.socket,
    stop: asyncio.Event,
) -> None:
    config = uvicorn.Config(
        application,
        ws=implementation,
        log_config=None,
        timeout_graceful_shutdown=_GRACE,
    )
    with warnings.catch_warnings():
        # The implementation called websockets was the default until 2025.
        warnings.simplefilter("ignore")
        config.load()
    server = uvicorn.Server(config)

    async def main_loop() -> None:
        await server.on_tick(0)
        await stop.wait()

    # It looks ten times a second whether to stop, which is slow for so many tests.
    server.main_loop = main_loop  # type: ignore[method-assign]
    await server.serve([listener])


async def _hypercorn(
    application: ASGIApplication, listener: socket.socket, stop: asyncio.Event
) -> None:
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = logging.getLogger("hypercorn.error")
    config.graceful_timeout = _GRACE
    await hypercorn.asyncio.serve(
        cast("Any", application), config, shutdown_trigger=stop.wait
    )


SERVERS: dict[
    str,
    Callable[[ASGIApplication, socket.socket, asyncio.Event], Awaitable[None]],
] = {
    f"uvicorn-{implementation}": functools.partial(_uvicorn, implementation)
    for implementation in uvicorn.config.WS_PROTOCOLS
    if implementation not in {"auto", "none"}
} | {"hypercorn": _hypercorn}
