"""Routers choose an application."""

from collections.abc import Mapping
from typing import Any

import pytest

from fast_channels.consumer import AsyncConsumer
from fast_channels.routing import ChannelNameRouter, ProtocolTypeRouter
from fast_channels.testing import ApplicationCommunicator
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelMessage,
    ChannelScope,
)


class Named:
    """An application that sends its name and the scope that it got."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        await send({"type": self.name, "scope": scope})


class Echo(AsyncConsumer):
    async def test_message(self, message: ChannelMessage) -> None:
        await self.send({"type": "echo", "text": message["text"]})


FIRST, SECOND = Named("first"), Named("second")


async def answer(application: Any, scope: ChannelScope) -> dict[str, Any]:
    """Return what an application sends first."""
    async with ApplicationCommunicator(application, scope) as communicator:
        return await communicator.receive_output()


async def call(application: Any, scope: Mapping[str, Any]) -> None:
    async with ApplicationCommunicator(application, dict(scope)) as communicator:
        await communicator.wait()


@pytest.mark.parametrize(
    ("router", "scope"),
    [
        (
            ProtocolTypeRouter({"http": FIRST, "websocket": SECOND}),
            {"type": "websocket"},
        ),
        (
            ProtocolTypeRouter({"http": FIRST, "lifespan": SECOND}),
            {"type": "lifespan"},
        ),
        (
            ProtocolTypeRouter({"websocket": FIRST, "http": SECOND}),
            {"type": "lifespan"},
        ),
        (
            ChannelNameRouter({"mail": FIRST, "thumbnails": SECOND}),
            {"type": "channel", "channel": "thumbnails"},
        ),
        (
            ProtocolTypeRouter({"channel": ChannelNameRouter({"mail": SECOND})}),
            {"type": "channel", "channel": "mail"},
        ),
    ],
)
async def test_choice(router: Any, scope: ChannelScope) -> None:
    """The mapped application gets the scope; lifespan goes to the one for http."""
    assert await answer(router, scope) == {"type": "second", "scope": scope}


@pytest.mark.parametrize(
    ("router", "scope"),
    [
        (ProtocolTypeRouter({"channel": Echo}), {"type": "channel"}),
        (ChannelNameRouter({"mail": Echo}), {"type": "channel", "channel": "mail"}),
    ],
)
async def test_consumer_classes(router: Any, scope: ChannelScope) -> None:
    """A consumer class can be mapped directly."""
    async with ApplicationCommunicator(router, scope) as communicator:
        await communicator.send_input({"type": "test.message", "text": "hello"})
        assert await communicator.receive_output() == {"type": "echo", "text": "hello"}


@pytest.mark.parametrize(
    ("router", "scope", "message"),
    [
        (
            ProtocolTypeRouter({"http": FIRST, "websocket": SECOND}),
            {"type": "webtransport"},
            (
                r"no application for protocol type 'webtransport': this "
                r"ProtocolTypeRouter knows 'http', 'websocket'"
            ),
        ),
        (ProtocolTypeRouter({}), {"type": "http"}, r"ProtocolTypeRouter knows none"),
        (
            ChannelNameRouter({"mail": FIRST, "thumbnails": SECOND}),
            {"type": "channel", "channel": "mial"},
            (
                r"no application for channel 'mial': this ChannelNameRouter knows "
                r"'mail', 'thumbnails'"
            ),
        ),
        (
            ChannelNameRouter({"mail": FIRST}),
            {"type": "http"},
            r"this one is of type 'http' and names none",
        ),
    ],
)
async def test_unknown(router: Any, scope: ChannelScope, message: str) -> None:
    """The error names the missing key and the mapped ones."""
    with pytest.raises(ValueError, match=message):
        await call(router, scope)


async def test_lifespan_without_an_application() -> None:
    """Without an application for http, the router confirms startup and shutdown."""
    router = ProtocolTypeRouter({"websocket": FIRST})
    async with ApplicationCommunicator(router, {"type": "lifespan"}) as server:
        for event in ("lifespan.startup", "lifespan.shutdown"):
            await server.send_input({"type": event})
            assert await server.receive_output() == {"type": f"{event}.complete"}
        await server.wait()


def test_repr() -> None:
    """The repr of a router shows its mapping."""
    mapping = {"http": FIRST, "websocket": SECOND}
    assert repr(ProtocolTypeRouter(mapping)) == "<ProtocolTypeRouter [http, websocket]>"
    assert repr(ChannelNameRouter(mapping)) == "<ChannelNameRouter [http, websocket]>"
