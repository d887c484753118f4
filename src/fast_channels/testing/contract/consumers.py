"""What consumers do with every layer."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.layers import register_channel_layer, unregister_channel_layer
from fast_channels.testing.websocket import WebsocketCommunicator

from .base import LIMIT, ContractBase, LayerPair, assert_empty

__all__ = ["ConsumerTests"]

_ALIAS = __name__
HI = {"type": "chat.message", "text": "hi"}


class Chat(AsyncJsonWebsocketConsumer):
    """Sends what its client says to a group, or to itself."""

    channel_layer_alias: str | None = _ALIAS
    groups: list[str] = ["all"]  # noqa: RUF012 # as users write it

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Do what the client asks for."""
        message = {"type": "chat.message", "text": content.get("text")}
        if "join" in content:
            await self.join_group(content["join"])
            await self.send_json("done")
        elif "leave" in content:
            await self.leave_group(content["leave"])
            await self.send_json("done")
        elif "to" in content:
            await self.channel_layer.group_send(content["to"], message)
        else:
            await self.channel_layer.send(self.channel_name, message)

    async def chat_message(self, message: dict[str, Any]) -> None:
        """Send a message to the client."""
        await self.send_json(message["text"])


@contextlib.asynccontextmanager
async def two_clients(
    pair: LayerPair,
) -> AsyncGenerator[tuple[WebsocketCommunicator, WebsocketCommunicator]]:
    """Connect two clients, each to its own process."""
    async with (
        WebsocketCommunicator(Chat, "/") as first,
        WebsocketCommunicator(Chat, "/") as second,
    ):
        for client, layer in ((first, pair.layer), (second, pair.other)):
            register_channel_layer(_ALIAS, layer)
            assert await client.connect(timeout=LIMIT) == (True, None)
        unregister_channel_layer(_ALIAS)
        yield first, second


class ConsumerTests(ContractBase):
    """Consumers that talk through a layer."""

    async def test_consumers_talk_through_a_layer(self, pair: LayerPair) -> None:
        """Consumers reach each other through groups, and themselves by channel name."""
        async with two_clients(pair) as (first, second):
            for number in range(10):
                await first.send_json_to({"to": "all", "text": number})
            for client in (first, second):
                received = [await client.receive_json_from(LIMIT) for _ in range(10)]
                assert received == list(range(10))
            await first.send_json_to({"text": "only me"})
            assert await first.receive_json_from(LIMIT) == "only me"
            await second.send_json_to({"join": "room"})
            assert await second.receive_json_from(LIMIT) == "done"
            await first.send_json_to({"to": "room", "text": "hello"})
            assert await second.receive_json_from(LIMIT) == "hello"
            await second.send_json_to({"leave": "room"})
            assert await second.receive_json_from(LIMIT) == "done"
            await first.send_json_to({"to": "room", "text": "into an empty room"})
            await first.send_json_to({"to": "all", "text": "end"})
            for client in (first, second):
                assert await client.receive_json_from(LIMIT) == "end"

    async def test_consumers_that_ended_leave_nothing(self, pair: LayerPair) -> None:
        """When a connection has ended, its channel is gone and in no group."""
        async with two_clients(pair) as (first, _):
            await first.send_json_to({"join": "room"})
            assert await first.receive_json_from(LIMIT) == "done"
        await pair.other.group_send("all", HI)
        for layer in (pair.layer, pair.other):
            assert_empty(layer)

    async def test_message_from_outside_reaches_consumers(
        self, pair: LayerPair
    ) -> None:
        """Any code that has a layer can send to the groups of consumers."""
        async with two_clients(pair) as clients:
            for layer in (pair.layer, pair.other):
                await layer.group_send("all", HI)
            for client in clients:
                received = [await client.receive_json_from(LIMIT) for _ in range(2)]
                assert received == ["hi", "hi"]
