"""A user's code around consumers, only for type checkers."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any, Literal, TypedDict, assert_type

from asgiref.sync import async_to_sync
from typing_extensions import override

from fast_channels import __version__
from fast_channels.consumer import AsyncConsumer, AsyncWebsocketConsumer
from fast_channels.exceptions import ChannelFull, InvalidChannelLayerError
from fast_channels.layers import (
    BaseChannelLayer,
    ChannelLayerRegistry,
    InMemoryChannelLayer,
    channel_layers,
    get_channel_layer,
    has_layers,
    register_channel_layer,
    unregister_channel_layer,
)
from fast_channels.testing import ApplicationCommunicator, WebsocketCommunicator
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelCapacityDict,
    ChannelMessage,
    ChannelScope,
    CompiledChannelCapacities,
)
from fast_channels.utils import await_many_dispatch, is_same_domain

version: str = __version__
assert_type(is_same_domain("www.example.com", ".example.com"), bool)


class OrderPaid(TypedDict):
    """A message from a shop."""

    type: Literal["order.paid"]
    number: int


class NullLayer(BaseChannelLayer):
    """A user's layer."""

    extensions = ["groups", "flush"]

    def __init__(
        self, url: str, channel_capacity: ChannelCapacityDict | None = None
    ) -> None:
        super().__init__(expiry=1.5, channel_capacity=channel_capacity)
        self.url = url

    @override
    async def send(self, channel: str, message: ChannelMessage) -> None:
        self.require_valid_channel_name(channel)
        self.require_valid_message(message)
        if self.get_capacity(channel) < 10:
            raise ChannelFull(channel)

    @override
    async def receive(self, channel: str) -> dict[str, Any]:
        return {"type": self.non_local_name(channel)}

    @override
    async def new_channel(self, prefix: str = "specific") -> str:
        return f"{prefix}.{self.url}!"

    @override
    async def group_add(self, group: str, channel: str) -> None:
        self.require_valid_group_name(group)

    @override
    async def group_discard(self, group: str, channel: str) -> None: ...

    @override
    async def group_send(
        self, group: str, message: ChannelMessage, *, once: str | None = None
    ) -> None: ...

    @override
    async def flush(self) -> None: ...

    @override
    async def close(self) -> None:
        await super().close()


# Layers

register_channel_layer("default", InMemoryChannelLayer())
register_channel_layer("null", NullLayer("null", {"http.*": 5}))
register_channel_layer(
    "patterns",
    InMemoryChannelLayer(
        expiry=10,
        group_expiry=0.5,
        capacity=10,
        channel_capacity={"chat.*": 5, re.compile(r"mail\."): 7},
    ),
)
assert_type(has_layers(), bool)
assert_type(get_channel_layer(), BaseChannelLayer | None)
assert_type(get_channel_layer("null"), BaseChannelLayer | None)
assert_type(get_channel_layer(None), BaseChannelLayer | None)
assert_type(channel_layers, ChannelLayerRegistry)
assert_type("null" in channel_layers, bool)
assert_type(len(channel_layers), int)
aliases: Iterator[str] = iter(channel_layers)
unregister_channel_layer("null")

per_tenant: dict[str, int] = {"tenant.*": 5}
NullLayer("tenant", per_tenant)


# Sending


async def pay(number: int) -> None:
    """Announce a payment to everyone."""
    layer = get_channel_layer()
    if layer is None:
        raise InvalidChannelLayerError("no layer")
    paid: OrderPaid = {"type": "order.paid", "number": number}
    built = OrderPaid(type="order.paid", number=number)
    plain = {"type": "order.paid", "number": number}
    for message in (paid, built):
        await layer.group_send("orders", message)
    await layer.group_send("orders", plain)
    await layer.send("shop", {"type": "order.paid", "items": [1, 2]})
    await layer.send("shop", dict(paid))
    channel = await layer.new_channel()
    assert_type(channel, str)
    assert_type(await layer.new_channel("orders"), str)
    assert_type(await layer.receive(channel), dict[str, Any])
    capacities = layer.compile_capacities({"chat.*": 5})
    assert_type(capacities, CompiledChannelCapacities)


def pay_in_a_thread(layer: BaseChannelLayer) -> None:
    """Announce a payment from synchronous code."""
    async_to_sync(layer.group_send)("orders", {"type": "order.paid"})
    asyncio.run(layer.send("shop", OrderPaid(type="order.paid", number=1)))


async def use_own_registry() -> None:
    """Use a separate registry, and close the layers at the end."""
    registry = ChannelLayerRegistry()
    async with NullLayer("null") as layer:
        assert_type(layer, NullLayer)
        registry.register("null", layer)
    registry.unregister("null")
    registry.clear()


async def serve(layer: BaseChannelLayer) -> None:
    """Read a channel without a consumer."""

    async def next_message() -> dict[str, Any]:
        return await layer.receive("shop")

    async def print_message(message: ChannelMessage) -> None:
        raise NotImplementedError

    await await_many_dispatch([next_message], print_message)


# Testing


class Shop(AsyncWebsocketConsumer):
    """The consumer under test."""


async def raw(
    scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Accept and leave."""
    await receive()
    await send({"type": "websocket.accept"})


async def test_shop() -> None:
    """Use a communicator as a context manager."""
    async with WebsocketCommunicator(
        Shop, "/shop", headers=[(b"host", b"example.com")], subprotocols=["v1"]
    ) as communicator:
        assert_type(communicator, WebsocketCommunicator)
        communicator.scope["user"] = "Ada"
        result = await communicator.connect()
        assert_type(result, tuple[bool, str | int | None])
        assert_type(communicator.response_headers, list[tuple[bytes, bytes]])
        await communicator.send_to("text")
        await communicator.send_to(bytes_data=b"bytes")
        await communicator.send_json_to({"a": [1, None]})
        assert_type(await communicator.receive_from(timeout=2), str | bytes)
        content: dict[str, int] = await communicator.receive_json_from()
        assert content["a"] == 1
        assert_type(await communicator.receive_nothing(0.01), bool)
        await communicator.disconnect(code=1001)
        assert_type(communicator.future, asyncio.Task[None])


async def test_without_a_context_manager() -> None:
    """Use communicators as in Django Channels."""
    communicator = WebsocketCommunicator(Shop.as_asgi(), "/shop", spec_version="2.4")
    connected, _ = await communicator.connect(timeout=0.5)
    assert_type(connected, bool)
    await communicator.disconnect()
    communicator.stop()

    applications: list[type[AsyncConsumer]] = [Shop, AsyncConsumer]
    for application in applications:
        plain = ApplicationCommunicator(application, {"type": "test"})
        await plain.send_input({"type": "shop.open"})
        assert_type(await plain.receive_output(1), dict[str, Any])
        await plain.wait(timeout=1)
        plain.stop(exceptions=False)

    async with ApplicationCommunicator(raw, {"type": "test"}) as running:
        assert_type(running, ApplicationCommunicator)
        await running.send_input({"type": "websocket.connect"})
