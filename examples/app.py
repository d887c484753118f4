"""The application: its parts, each in a module of its own.

``system``, ``chat``, ``jobs``, ``notifications`` and ``analytics`` are the parts, with
a consumer each; ``layers`` has what carries their messages, and ``pages`` what browsers
show.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from fast_channels.lifespan import channels_lifespan
from fast_channels.middleware import AllowedHostsOriginValidator

from . import analytics, chat, jobs, notifications, pages, system
from .counter import counting
from .layers import redis_url, setup_layers

setup_layers()


def allowed_hosts() -> list[str]:
    """Return the names under which browsers find this server, from ALLOWED_HOSTS."""
    named = os.environ.get("ALLOWED_HOSTS", "")
    hosts = [name.strip() for name in named.split(",") if name.strip()]
    try:
        AllowedHostsOriginValidator(FastAPI(), hosts)
    except ValueError as exc:
        raise SystemExit(f"ALLOWED_HOSTS: {exc}") from None
    return hosts or ["localhost", "127.0.0.1", "[::1]"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Count in this process if no other can."""
    async with counting() if redis_url() is None else nullcontext():
        yield


app = FastAPI(title="fast_channels", lifespan=channels_lifespan(lifespan, timeout=2))
# A page of another site could open a WebSocket to this one otherwise.
app.add_middleware(AllowedHostsOriginValidator, allowed_hosts=allowed_hosts())
app.mount("/static", StaticFiles(directory=pages.STATIC), name="static")
for part in (system, chat, jobs, notifications, analytics, pages):
    app.include_router(part.router)
