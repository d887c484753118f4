"""The application and its parts, each in its own module.

The parts are ``chat``, ``answers``, ``system``, ``jobs``, ``notifications`` and
``analytics``, each with a consumer; ``layers`` has the channel layers, and ``pages``
the web pages.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from fast_channels.lifespan import channels_lifespan
from fast_channels.middleware import AllowedHostsOriginValidator

from . import analytics, answers, chat, jobs, notifications, pages, system
from .counter import counting
from .layers import redis_url, setup_layers

setup_layers()


def allowed_hosts() -> list[str]:
    """Return the host names of this server, from ALLOWED_HOSTS."""
    named = os.environ.get("ALLOWED_HOSTS", "")
    hosts = [name.strip() for name in named.split(",") if name.strip()]
    try:
        AllowedHostsOriginValidator(FastAPI(), hosts)
    except ValueError as exc:
        raise SystemExit(f"ALLOWED_HOSTS: {exc}") from None
    return hosts or ["localhost", "127.0.0.1", "[::1]"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Run the analytics worker in this process if there is no Redis."""
    async with answers.writing(), counting() if redis_url() is None else nullcontext():
        yield


app = FastAPI(title="fast_channels", lifespan=channels_lifespan(lifespan, timeout=2))
# Otherwise a page of another site could open a WebSocket to this one.
app.add_middleware(AllowedHostsOriginValidator, allowed_hosts=allowed_hosts())
app.mount("/static", StaticFiles(directory=pages.STATIC), name="static")
# The client for browsers that the library has.
app.mount("/client", StaticFiles(packages=["fast_channels"]), name="client")
for part in (system, chat, answers, jobs, notifications, analytics, pages):
    app.include_router(part.router)
