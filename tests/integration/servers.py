"""ASGI servers, each serving an application on a free port."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeAlias, cast

import hypercorn
import hypercorn.asyncio
import uvicorn
import uvicorn.config
from packaging.version import Version

from fast_channels.type_defs import ASGIApplication

__all__ = ["IMPLEMENTATIONS", "SERVERS", "SERVERS_THAT_NOTICE", "Serve", "serving"]

Serve: TypeAlias = Callable[
    [ASGIApplication], contextlib.AbstractAsyncContextManager[str]
]
"""``serving()`` with a server of the test's choice."""

# The WebSocket implementations of this release of uvicorn.
IMPLEMENTATIONS = [
    implementation
    for implementation in uvicorn.config.WS_PROTOCOLS
    if implementation not in {"auto", "none"}
]

if Version(uvicorn.__version__) >= Version("0.38"):
    # Our own builds on "websockets-sansio".
    IMPLEMENTATIONS.append("fast_channels.uvicorn:WebSocketProtocol")

# uvicorn with each of them, and hypercorn.
SERVERS = [f"uvicorn-{implementation}" for implementation in IMPLEMENTATIONS] + [
    "hypercorn"
]

# Before 0.53, uvicorn with wsproto never stops sending to a slow client that vanishes.
_STUCK = ["uvicorn-wsproto"] if Version(uvicorn.__version__) < Version("0.53") else []
SERVERS_THAT_NOTICE = [server for server in SERVERS if server not in _STUCK]


@contextlib.asynccontextmanager
async def serving(
    application: ASGIApplication, server: str, **options: Any
) -> AsyncGenerator[str]:
    """Serve an application; the server shuts down at the end of the block.

    Args:
        application: The application.
        server: One of ``SERVERS``, or ``uvicorn-auto``.
        **options: Options of uvicorn.

    Yields:
        The host and the port.
    """
    # Clients can connect at once: they wait until the server accepts them.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        stop = asyncio.Event()
        name, _, implementation = server.partition("-")
        run = _uvicorn if name == "uvicorn" else _hypercorn
        task = asyncio.create_task(
            run(application, implementation, listener, stop, **options)
        )
        try:
            yield f"{host}:{port}"
        finally:
            stop.set()
            await task


async def _uvicorn(
    application: ASGIApplication,
    implementation: str,
    listener: socket.socket,
    stop: asyncio.Event,
    **options: Any,
) -> None:
    options = {"ws": implementation, **options}
    config = uvicorn.Config(application, log_config=None, **options)
    server = uvicorn.Server(config)

    async def wait_for_stop() -> None:
        await server.on_tick(0)
        await stop.wait()

    # Its own loop checks only ten times a second whether to stop.
    server.main_loop = wait_for_stop  # type: ignore[method-assign]
    await server.serve([listener])


async def _hypercorn(
    application: ASGIApplication,
    _: str,
    listener: socket.socket,
    stop: asyncio.Event,
) -> None:
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = logging.getLogger("hypercorn.error")
    # From Python 3.12 on it always waits for its clients to leave.
    config.graceful_timeout = cast("Any", None)
    serve = cast("Any", hypercorn.asyncio).serve  # its types are incomplete
    await serve(application, config, shutdown_trigger=stop.wait)
