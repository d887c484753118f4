"""Groups with a history that Django processes share."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from fast_channels.layers import (
    GroupMessage,
    History,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    Resumed,
)
from tests.integration.redis.peer import Message, Peer

from .conftest import LAYERS
from .sides import Kind, Options, Side, take

HELLO: Message = {"type": "hello"}


@pytest.fixture(params=["core", "pubsub"])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
async def ours(
    kind: Kind, options: Options
) -> AsyncIterator[RedisChannelLayer | RedisPubSubChannelLayer]:
    """The library's layer, where the group has a history."""
    async with LAYERS[kind](**options, history={"room": History()}) as layer:
        yield layer


async def until_member(side: Side, channel: str, by: Side) -> None:
    """Wait until a member hears its group; Django's pub/sub layer doesn't wait."""
    receiving = asyncio.create_task(side.receive(channel))
    async with asyncio.timeout(10):
        while not receiving.done():
            await by.group_send("room", HELLO)
            await asyncio.wait([receiving], timeout=0.05)
        await by.send(channel, {"type": "end"})
        while (await receiving)["type"] == "hello":
            receiving = asyncio.create_task(side.receive(channel))


async def test_django_members_and_senders(
    ours: RedisChannelLayer | RedisPubSubChannelLayer,
    django: Peer,
    kind: Kind,
    options: Options,
    messages: list[Message],
) -> None:
    """Django gets what is sent; what it sends is delivered, and not stored."""
    mine, theirs = await ours.new_channel(), await django.new_channel()
    await django.group_add("room", theirs)
    await until_member(django, theirs, ours)
    joined = await ours.group_resume("room", mine)
    sent = [await ours.group_send("room", message) for message in messages]
    received = await take(django, theirs, len(messages))
    if kind == "pubsub" and options["symmetric_encryption_keys"] is None:
        # The one difference that Django sees.
        positions = [message.pop("__asgi_position__") for message in received]
        assert positions == sent
    assert repr(received) == repr(messages)
    for message in await take(ours, mine, len(messages)):
        assert isinstance(message, GroupMessage)

    await django.group_send("room", HELLO)
    assert await take(django, theirs) == [HELLO]
    [message] = await take(ours, mine)
    assert type(message) is dict
    assert message == HELLO
    assert await ours.group_history("room", joined.position) == messages
    again = await ours.new_channel()
    resumed = await ours.group_resume("room", again, since=joined.position)
    assert resumed == Resumed(str(sent[-1]), complete=True, replayed=len(messages))
    # What Django sends does not look like a gap.
    last = await ours.group_send("room", HELLO)
    for channel in (mine, again):
        message = (await take(ours, channel, 1 if channel == mine else 1 + len(sent)))[
            -1
        ]
        assert isinstance(message, GroupMessage)
        assert message.position == last
