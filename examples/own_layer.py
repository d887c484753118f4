"""A custom channel layer that uses the queues of one event loop."""

import asyncio
import contextlib
import json
import uuid
from collections import defaultdict
from typing import Any

from fast_channels.exceptions import ChannelFull
from fast_channels.layers import BaseChannelLayer
from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage


class QueueLayer(BaseChannelLayer):
    """Keeps messages as JSON until they are received."""

    extensions = ["groups"]

    def __init__(
        self, capacity: int = 100, channel_capacity: ChannelCapacityDict | None = None
    ) -> None:
        super().__init__(capacity=capacity, channel_capacity=channel_capacity)
        self.queues = defaultdict[str, asyncio.Queue[str]](asyncio.Queue)
        self.groups = defaultdict[str, set[str]](set)

    async def new_channel(self, prefix: str = "specific") -> str:
        name = f"{prefix}.{uuid.uuid4().hex}!"
        self.require_valid_channel_name(name)
        return name

    async def send(self, channel: str, message: ChannelMessage) -> None:
        self.require_valid_channel_name(channel)
        self.require_valid_message(message)
        if self.queues[channel].qsize() >= self.get_capacity(channel):
            raise ChannelFull(channel)
        self.queues[channel].put_nowait(json.dumps(message))

    async def receive(self, channel: str) -> dict[str, Any]:
        self.require_valid_channel_name(channel)
        message: dict[str, Any] = json.loads(await self.queues[channel].get())
        return message

    async def delete_channel(self, channel: str) -> None:
        self.queues.pop(channel, None)

    async def group_add(self, group: str, channel: str) -> None:
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        self.groups[group].add(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        self.groups[group].discard(channel)

    async def group_send(
        self, group: str, message: ChannelMessage, *, once: str | None = None
    ) -> None:
        self.require_valid_group_name(group)
        if once is not None:
            raise ValueError("once needs a history, which this layer does not keep")
        self.require_valid_message(message)
        for channel in self.groups[group]:
            with contextlib.suppress(ChannelFull):
                await self.send(channel, message)
