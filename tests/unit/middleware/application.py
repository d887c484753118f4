"""The application that these tests wrap: it records its scopes."""

from collections.abc import Iterable, MutableMapping
from typing import Any

from fast_channels.type_defs import (
    ASGIApplication,
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelScope,
)

__all__ = ["Application", "call"]


class Application:
    """Records the scopes of its calls."""

    def __init__(self) -> None:
        self.scopes: list[ChannelScope] = []
        """The scopes."""

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        assert (await receive())["type"] == "nothing"
        await send({"type": "reached"})
        self.scopes.append(scope)


async def call(
    application: ASGIApplication,
    scope_type: str = "websocket",
    headers: Iterable[tuple[bytes, bytes]] | None = (),
    **scope: Any,
) -> list[MutableMapping[str, Any]]:
    """Call an application, and return the events that it sends."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "nothing"}

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    scope = {"type": scope_type, "path": "/", **scope}
    if headers is not None:
        scope["headers"] = list(headers)
    await application(scope, receive, send)
    return sent
