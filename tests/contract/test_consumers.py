"""What consumers do with every layer, and with one that somebody else wrote."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator
from typing import Any

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.layers import BaseChannelLayer, register_channel_layer
from fast_channels.testing import WebsocketCommunicator
from fast_channels.type_defs import ChannelMessage

from .backends import Backend, Pair


class ThirdPartyLayer(BaseChannelLayer):
    """A layer with the least that a consumer needs."""

    def __init__(self) -> None:
        super().__init__()
        self.queues = defaultdict[str, asyncio.Queue[ChannelMessage]](asyncio.Queue)
        self.members = defaultdict[str, set[str]](set)
        self.made = 0

    async def new_channel(self, prefix: str = "specific") -> str:
        self.made += 1
        return f"{prefix}.{self.made}"

    async def send(self, channel: str, message: ChannelMessage) -> None:
        self.queues[channel].put_nowait(message)

    async def receive(self, channel: str) -> dict[str, Any]:
        return dict(await self.queues[channel].get())

    async def group_add(self, group: str, channel: str) -> None:
        self.members[group].add(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self.members[group].discard(channel)

    async def group_send(self, group: str, message: ChannelMessage) -> None:
        for channel in self.members[group]:
            await self.send(channel, message)


class Chat(AsyncJsonWebsocketConsumer):
    """Tells everybody in its groups what its client says."""

    channel_layer_alias = "chat"
    groups = ["everybody"]  # as users write it

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
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
        await self.send_json(message["text"])


@contextlib.asynccontextmanager
async def two_clients(
    layer: BaseChannelLayer, other: BaseChannelLayer
) -> AsyncGenerator[tuple[WebsocketCommunicator, WebsocketCommunicator]]:
    """Connect two clients, each in a process of its own."""
    async with (
        WebsocketCommunicator(Chat, "/") as first,
        WebsocketCommunicator(Chat, "/") as second,
    ):
        for client, process in ((first, layer), (second, other)):
            register_channel_layer("chat", process)
            assert await client.connect() == (True, None)
        yield first, second


async def converse(first: WebsocketCommunicator, second: WebsocketCommunicator) -> None:
    """Have two clients do whatever goes through a layer."""
    for number in range(10):
        await first.send_json_to({"to": "everybody", "text": number})
    for client in (first, second):
        assert [await client.receive_json_from() for _ in range(10)] == [*range(10)]
    await first.send_json_to({"text": "only me"})
    assert await first.receive_json_from() == "only me"
    await second.send_json_to({"join": "room"})
    assert await second.receive_json_from() == "done"
    await first.send_json_to({"to": "room", "text": "hello"})
    assert await second.receive_json_from() == "hello"
    await second.send_json_to({"leave": "room"})
    assert await second.receive_json_from() == "done"
    await first.send_json_to({"to": "room", "text": "nobody there"})
    await first.send_json_to({"to": "everybody", "text": "end"})
    for client in (first, second):
        assert await client.receive_json_from() == "end"


async def test_consumers_talk_through_every_layer(pair: Pair) -> None:
    """Consumers reach one another through groups, and themselves by their channel."""
    async with two_clients(pair.layer, pair.other) as (first, second):
        await converse(first, second)


async def test_consumers_talk_through_a_layer_of_ones_own() -> None:
    """A layer with send, receive, new_channel and groups serves every consumer."""
    layer = ThirdPartyLayer()
    async with two_clients(layer, layer) as (first, second):
        await converse(first, second)
    assert not any(layer.members.values())


async def test_consumers_that_ended_leave_nothing(backend: Backend, pair: Pair) -> None:
    """A connection that ended has left its groups, and its channel is gone."""
    async with two_clients(pair.layer, pair.other) as (first, _):
        await first.send_json_to({"join": "room"})
        assert await first.receive_json_from() == "done"
    await pair.other.group_send("everybody", {"type": "chat.message", "text": "late"})
    for layer in (pair.layer, pair.other):
        assert not any(backend.held_by(layer).values())


async def test_message_from_outside_reaches_consumers(pair: Pair) -> None:
    """Whoever has a layer sends to the groups of consumers."""
    async with two_clients(pair.layer, pair.other) as clients:
        for layer in (pair.layer, pair.other):
            await layer.group_send("everybody", {"type": "chat.message", "text": "hi"})
        for client in clients:
            assert [await client.receive_json_from() for _ in range(2)] == ["hi"] * 2
