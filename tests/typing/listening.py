"""A user's code around groups in coroutines, only for type checkers."""

from collections.abc import AsyncIterator
from typing import Any, assert_type

from typing_extensions import override

from fast_channels.consumer import AsyncEventStreamConsumer
from fast_channels.layers import BaseChannelLayer, GroupMessage, Messages
from fast_channels.sse import EventStreamResponse, ServerSentEvent


async def follow(layer: BaseChannelLayer, since: str | None) -> None:
    assert_type(layer.listen("room.7", "news"), Messages)
    async with layer.listen("room.7", since=since, last=10) as messages:
        assert_type(messages.position, str | None)
        assert_type(messages.positions, dict[str, str])
        assert_type(messages.complete, bool)
        assert_type(messages.channel_name, str)
        assert_type(await messages.get(timeout=5), dict[str, Any] | None)
        async for message in messages:
            assert_type(message, dict[str, Any])
            if isinstance(message, GroupMessage):
                assert_type(message.position, str)
    async with layer.listen("a", "b", since={"a": "position"}):
        pass


async def events(layer: BaseChannelLayer) -> AsyncIterator[ServerSentEvent]:
    async with layer.listen("news") as messages:
        async for message in messages:
            yield ServerSentEvent(message["text"], id=messages.position)


async def plain() -> AsyncIterator[dict[str, int]]:
    yield {"number": 1}


def respond(layer: BaseChannelLayer) -> list[EventStreamResponse]:
    return [
        EventStreamResponse(events(layer), headers={"x-a": "b"}, heartbeat=None),
        EventStreamResponse(plain()),
    ]


class News(AsyncEventStreamConsumer):
    heartbeat = 5

    @override
    async def handle(self, body: bytes) -> None:
        resumed = await self.join_group("news", since=self.last_event_id)
        assert_type(resumed.complete, bool)
        await self.start_stream(headers={"x-a": "b"})

    async def news(self, event: GroupMessage) -> None:
        await self.send_event({"text": event["text"]}, event="news", id=event.position)
        await self.end_stream()
