"""The base class of middleware."""

from collections.abc import MutableMapping
from typing import Any

import pytest

from fast_channels.middleware import BaseMiddleware
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelScope,
)

from .application import Application, call


class Greeter(BaseMiddleware):
    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        await super().__call__({**scope, "greeting": "hello"}, receive, send)


@pytest.mark.parametrize("scope_type", ["websocket", "http", "lifespan", "channel"])
async def test_inner_application_gets_what_the_middleware_adds(scope_type: str) -> None:
    """The inner application gets receive, send and the extended scope."""
    inner = Application()
    assert await call(Greeter(inner), scope_type) == [{"type": "reached"}]
    (scope,) = inner.scopes
    assert (scope["type"], scope["greeting"]) == (scope_type, "hello")


async def test_scope_is_copied() -> None:
    """Changes of the scope by the inner application are not visible outside."""
    scopes: list[ChannelScope] = []

    async def inner(
        scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        scope["user"] = "ann"
        scopes.append(scope)

    async def receive() -> MutableMapping[str, Any]:
        raise NotImplementedError

    async def send(event: MutableMapping[str, Any]) -> None:
        raise NotImplementedError

    outside: ChannelScope = {"type": "websocket"}
    await BaseMiddleware(inner)(outside, receive, send)
    assert outside == {"type": "websocket"}
    assert scopes == [{"type": "websocket", "user": "ann"}]


async def test_inner_application_by_keyword() -> None:
    """Older releases of Starlette pass the inner application as ``app``."""
    inner = Application()
    middleware = BaseMiddleware(app=inner)
    assert middleware.inner is inner
    assert await call(middleware) == [{"type": "reached"}]
