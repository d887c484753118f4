"""What every layer promises about channels."""

import asyncio
import random
import re
from typing import Any

import pytest

from fast_channels.exceptions import ChannelFull
from fast_channels.layers import BaseChannelLayer

from .backends import LIMIT, Backend, Pair
from .conftest import MakePair

# Short enough to wait for; what is sent with it may expire too early as well.
EXPIRY = 0.05


def numbered(number: int) -> dict[str, Any]:
    """Return a message that can be told from the others."""
    return {"type": "test.message", "number": number}


async def receive_all(layer: BaseChannelLayer, channel: str, count: int) -> list[int]:
    """Return the numbers of the next messages of a channel."""
    async with asyncio.timeout(LIMIT):
        return [(await layer.receive(channel))["number"] for _ in range(count)]


# Names


async def test_names_of_new_channels_are_valid_and_unique(
    backend: Backend, layer: BaseChannelLayer, other: BaseChannelLayer
) -> None:
    """new_channel() never returns the same name twice, nor one it would refuse."""
    names = [await maker.new_channel() for maker in (layer, other) for _ in range(1000)]
    assert len(set(names)) == len(names)
    for name in names:
        assert layer.require_valid_channel_name(name)
        assert name.startswith(f"{backend.start_of_names(layer)}specific.")
        assert "!" in name


async def test_names_of_new_channels_start_with_the_prefix(
    backend: Backend,
    layer: BaseChannelLayer,
) -> None:
    """The prefix is what a name starts with, and a dot ends it."""
    channel = await layer.new_channel("chat.room")
    assert channel.startswith(f"{backend.start_of_names(layer)}chat.room.")


# Sending and receiving


async def test_messages_arrive_in_the_order_of_sending(
    layer: BaseChannelLayer, other: BaseChannelLayer
) -> None:
    """Messages of one sender wait in their channel and arrive in order."""
    channel = await layer.new_channel()
    for number in range(50):
        await other.send(channel, numbered(number))
    assert await receive_all(layer, channel, 50) == list(range(50))


async def test_receiver_waits_for_a_message(
    layer: BaseChannelLayer, other: BaseChannelLayer
) -> None:
    """receive() returns what is sent later."""
    channel = await layer.new_channel()
    receiving = asyncio.create_task(receive_all(layer, channel, 2))
    await asyncio.sleep(0)
    await other.send(channel, numbered(1))
    await other.send(channel, numbered(2))
    assert await receiving == [1, 2]


async def test_taking_a_message(layer: BaseChannelLayer) -> None:
    """take() returns what receive() would, to be acknowledged, once or again."""
    channel = await layer.new_channel()
    await layer.send(channel, numbered(1))
    await layer.send(channel, numbered(2))
    async with asyncio.timeout(LIMIT):
        first = await layer.take(channel)
        first.acknowledge()
        first.acknowledge()
        first.give_back()
        second = await layer.take(channel)
        second.acknowledge()
    assert [first.message, second.message] == [numbered(1), numbered(2)]


async def test_taking_a_message_of_a_plain_channel(layer: BaseChannelLayer) -> None:
    """take() works for plain channels, which a worker reads, on every layer."""
    taking = asyncio.create_task(layer.take("jobs"))
    async with asyncio.timeout(LIMIT):
        while not taking.done():
            await layer.send("jobs", numbered(1))
            await asyncio.wait([taking], timeout=0.1)
        delivery = await taking
        assert delivery.message == numbered(1)
        delivery.acknowledge()
        delivery.give_back()


async def test_channels_are_apart(
    layer: BaseChannelLayer, other: BaseChannelLayer
) -> None:
    """A message goes to the channel that it was sent to, and to no other."""
    first, second = await layer.new_channel(), await layer.new_channel()
    await other.send(second, numbered(2))
    await other.send(first, numbered(1))
    assert await receive_all(layer, first, 1) == [1]
    assert await receive_all(layer, second, 1) == [2]


async def test_message_to_a_channel_that_nobody_made(
    backend: Backend, pair: Pair
) -> None:
    """A plain name is a channel too; whether it keeps messages is up to the layer."""
    await pair.other.send("plain", numbered(1))
    if backend.keeps_messages_for_later_receivers:
        assert await receive_all(pair.layer, "plain", 1) == [1]
        return
    received = await pair.next_after(pair.other.send, "plain", numbered(2), "plain")
    assert received == numbered(2)


async def test_each_of_two_receivers_gets_a_message(
    layer: BaseChannelLayer, other: BaseChannelLayer
) -> None:
    """A message goes to one receiver only, and both have their turn."""
    channel = await layer.new_channel()
    receivers = [asyncio.create_task(receive_all(layer, channel, 1)) for _ in range(2)]
    await asyncio.sleep(0)
    await other.send(channel, numbered(1))
    await other.send(channel, numbered(2))
    received = await asyncio.gather(*receivers)
    assert sorted(received) == [[1], [2]]


# Cancelling


async def test_cancelled_receivers_lose_nothing(make_pair: MakePair) -> None:
    """Of the messages that come while receivers are cancelled, each arrives once."""
    pair = await make_pair(capacity=1000)
    channel = await pair.layer.new_channel()
    dice = random.Random(7)

    async def send_all() -> None:
        for number in range(300):
            await pair.other.send(channel, numbered(number))
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)

    received: list[int] = []
    sending = asyncio.create_task(send_all())
    while not sending.done():
        receivers = [
            asyncio.create_task(pair.layer.receive(channel))
            for _ in range(dice.randint(1, 4))
        ]
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        for receiver in receivers:
            receiver.cancel()
        await asyncio.wait(receivers)
        received += [
            receiver.result()["number"]
            for receiver in receivers
            if not receiver.cancelled()
        ]
    await sending
    received += [message["number"] for message in await pair.rest(channel)]
    assert sorted(received) == list(range(300))


async def test_receive_that_timed_out_takes_nothing(pair: Pair) -> None:
    """What is sent after a receive() has timed out waits for the next one."""
    channel = await pair.layer.new_channel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pair.layer.receive(channel), timeout=0.01)
    await pair.other.send(channel, numbered(1))
    assert await pair.rest(channel) == [numbered(1)]


# Expiry


async def test_message_that_nobody_received_in_time_is_dropped(
    make_pair: MakePair,
) -> None:
    """A message is not received any more once its expiry has passed."""
    pair = await make_pair(expiry=EXPIRY)
    channel = await pair.layer.new_channel()
    await pair.other.send(channel, numbered(1))
    await asyncio.sleep(2 * EXPIRY)
    received = await pair.next_after(pair.other.send, channel, numbered(2), channel)
    assert received == numbered(2)


async def test_expired_messages_make_room(make_pair: MakePair) -> None:
    """A channel that is full of expired messages takes new ones."""
    pair = await make_pair(expiry=EXPIRY, capacity=1)
    channel = await pair.layer.new_channel()
    await pair.other.send(channel, numbered(1))
    await asyncio.sleep(2 * EXPIRY)
    await pair.other.send(channel, numbered(2))


# Capacity


async def fill(backend: Backend, pair: Pair, channel: str, capacity: int) -> None:
    """Send one message more than a channel takes."""
    for number in range(capacity):
        await pair.other.send(channel, numbered(number))
    if backend.send_refuses_when_full:
        with pytest.raises(ChannelFull, match=re.escape(repr(channel))) as caught:
            await pair.other.send(channel, numbered(capacity))
        assert caught.value.channel == channel
        return
    await pair.other.send(channel, numbered(capacity))
    # What comes later has arrived, so this one has too.
    later = await pair.layer.new_channel("later")
    await pair.other.send(later, numbered(0))
    await receive_all(pair.layer, later, 1)


async def test_full_channel_takes_no_more(
    backend: Backend, make_pair: MakePair
) -> None:
    """As many messages wait in a channel as its capacity allows."""
    pair = await make_pair(capacity=3)
    channel = await pair.layer.new_channel()
    await fill(backend, pair, channel, 3)
    assert len(await receive_all(pair.layer, channel, 3)) == 3
    assert await pair.rest(channel) == []


async def test_receiving_makes_room(backend: Backend, make_pair: MakePair) -> None:
    """A channel that was full takes a message for each that is received."""
    pair = await make_pair(capacity=2)
    channel = await pair.layer.new_channel()
    await fill(backend, pair, channel, 2)
    await receive_all(pair.layer, channel, 1)
    await pair.other.send(channel, numbered(7))
    assert (await receive_all(pair.layer, channel, 2))[-1] == 7


@pytest.mark.parametrize(
    ("prefix", "capacity"), [("small", 1), ("medium", 2), ("other", 3)]
)
async def test_channels_may_have_a_capacity_of_their_own(
    backend: Backend, make_pair: MakePair, prefix: str, capacity: int
) -> None:
    """channel_capacity maps globs and compiled patterns to capacities."""
    pair = await make_pair(
        capacity=3, channel_capacity={"small.*": 1, re.compile("medium|small"): 2}
    )
    channel = await pair.layer.new_channel(prefix)
    await fill(backend, pair, channel, capacity)
    assert len(await receive_all(pair.layer, channel, capacity)) == capacity
    assert await pair.rest(channel) == []


# Deleting


async def test_deleted_channel_holds_nothing(backend: Backend, pair: Pair) -> None:
    """delete_channel() drops the messages and memberships of a channel."""
    channel = await pair.layer.new_channel()
    await pair.layer.group_add("group", channel)
    await pair.other.send(channel, numbered(1))
    await pair.layer.delete_channel(channel)
    await pair.layer.delete_channel(channel)
    await pair.other.group_send("group", numbered(2))
    # What comes later has arrived, so the others would have too.
    later = await pair.layer.new_channel()
    await pair.other.send(later, numbered(3))
    assert await receive_all(pair.layer, later, 1) == [3]
    assert not any(backend.held_by(pair.layer).values())


async def test_deleting_an_unknown_channel_changes_nothing(pair: Pair) -> None:
    """delete_channel() of one channel leaves the others alone."""
    channel = await pair.layer.new_channel()
    await pair.layer.group_add("group", channel)
    await pair.layer.delete_channel(await pair.layer.new_channel())
    await pair.other.group_send("group", numbered(1))
    assert await pair.rest(channel) == [numbered(1)]
