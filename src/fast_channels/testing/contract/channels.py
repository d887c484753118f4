"""What every layer promises about channels."""

import asyncio
import random
import re
from typing import Any

import pytest

from fast_channels.exceptions import ChannelFull
from fast_channels.layers import BaseChannelLayer

from .base import (
    EXPIRY,
    LIMIT,
    ContractBase,
    LayerPair,
    assert_empty,
    running,
    with_options,
)

__all__ = ["ChannelTests"]


def numbered(number: int) -> dict[str, Any]:
    """Return a message that differs from the others."""
    return {"type": "test.message", "number": number}


async def receive_all(layer: BaseChannelLayer, channel: str, count: int) -> list[int]:
    """Return the numbers of the next messages of a channel."""
    async with asyncio.timeout(LIMIT):
        return [(await layer.receive(channel))["number"] for _ in range(count)]


class ChannelTests(ContractBase):
    """Names, sending and receiving, expiry and capacity."""

    async def fill(self, pair: LayerPair, channel: str, capacity: int) -> None:
        """Send one message more than a channel has room for."""
        for number in range(capacity):
            await pair.other.send(channel, numbered(number))
        if self.send_refuses_when_full:
            with pytest.raises(ChannelFull, match=re.escape(repr(channel))) as caught:
                await pair.other.send(channel, numbered(capacity))
            assert caught.value.channel == channel
        else:
            await pair.other.send(channel, numbered(capacity))
            await pair.arrival()

    async def test_names_of_new_channels_are_valid_and_unique(
        self, layer: BaseChannelLayer, other: BaseChannelLayer
    ) -> None:
        """new_channel() returns a valid name that no other channel has."""
        names = [
            await maker.new_channel() for maker in (layer, other) for _ in range(1000)
        ]
        assert len(set(names)) == len(names)
        for name in names:
            assert layer.require_valid_channel_name(name)
            assert name.startswith(f"{self.start_of_names(layer)}specific.")
            assert "!" in name

    async def test_names_of_new_channels_start_with_the_prefix(
        self, layer: BaseChannelLayer
    ) -> None:
        """The argument of new_channel() and a dot begin the name."""
        channel = await layer.new_channel("chat.room")
        assert channel.startswith(f"{self.start_of_names(layer)}chat.room.")

    async def test_messages_arrive_in_the_order_of_sending(
        self, layer: BaseChannelLayer, other: BaseChannelLayer
    ) -> None:
        """Messages of one sender wait in their channel and arrive in order."""
        channel = await layer.new_channel()
        for number in range(50):
            await other.send(channel, numbered(number))
        assert await receive_all(layer, channel, 50) == list(range(50))

    async def test_receiver_waits_for_a_message(
        self, layer: BaseChannelLayer, other: BaseChannelLayer
    ) -> None:
        """receive() returns what is sent later."""
        channel = await layer.new_channel()
        async with running(receive_all(layer, channel, 2)) as [receiving]:
            await other.send(channel, numbered(1))
            await other.send(channel, numbered(2))
            assert await receiving == [1, 2]

    async def test_taking_a_message(self, layer: BaseChannelLayer) -> None:
        """take() returns the next message, which can be acknowledged repeatedly."""
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

    async def test_taking_a_message_of_a_plain_channel(
        self, layer: BaseChannelLayer
    ) -> None:
        """take() works for plain channels, which workers read."""
        async with asyncio.timeout(LIMIT), running(layer.take("jobs")) as [taking]:
            while not taking.done():
                await layer.send("jobs", numbered(1))
                await asyncio.wait([taking], timeout=0.1)
            delivery = await taking
            assert delivery.message == numbered(1)
            delivery.acknowledge()
            delivery.give_back()

    async def test_channels_are_separate(
        self, layer: BaseChannelLayer, other: BaseChannelLayer
    ) -> None:
        """A message arrives at the channel that it was sent to, and at no other."""
        first, second = await layer.new_channel(), await layer.new_channel()
        await other.send(second, numbered(2))
        await other.send(first, numbered(1))
        assert await receive_all(layer, first, 1) == [1]
        assert await receive_all(layer, second, 1) == [2]

    async def test_message_to_a_plain_channel(self, pair: LayerPair) -> None:
        """Any name is a channel; its messages wait, or are lost without a receiver."""
        await pair.other.send("plain", numbered(1))
        if self.keeps_messages_for_later_receivers:
            assert await receive_all(pair.layer, "plain", 1) == [1]
            return
        received = await pair.next_after(pair.other.send, "plain", numbered(2), "plain")
        assert received == numbered(2)

    async def test_each_of_two_receivers_gets_a_message(
        self, layer: BaseChannelLayer, other: BaseChannelLayer
    ) -> None:
        """Each message goes to one receiver."""
        channel = await layer.new_channel()
        receivers = (receive_all(layer, channel, 1) for _ in range(2))
        async with running(*receivers) as tasks:
            await other.send(channel, numbered(1))
            await other.send(channel, numbered(2))
            assert sorted(await asyncio.gather(*tasks)) == [[1], [2]]

    @with_options(capacity=1000)
    async def test_cancelled_receivers_lose_nothing(self, pair: LayerPair) -> None:
        """Messages that are sent while receivers are cancelled arrive exactly once."""
        channel = await pair.layer.new_channel()
        rng = random.Random(7)

        async def send_all() -> None:
            for number in range(300):
                await pair.other.send(channel, numbered(number))
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)

        received: list[int] = []
        async with running(send_all()) as [sending]:
            while not sending.done():
                receivers = [
                    asyncio.create_task(pair.layer.receive(channel))
                    for _ in range(rng.randint(1, 4))
                ]
                for _ in range(rng.randrange(4)):
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

    async def test_receive_that_timed_out_takes_nothing(self, pair: LayerPair) -> None:
        """A message that is sent after a receive() timed out waits for the next one."""
        channel = await pair.layer.new_channel()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pair.layer.receive(channel), timeout=0.01)
        await pair.other.send(channel, numbered(1))
        assert await pair.rest(channel) == [numbered(1)]

    @with_options(expiry=EXPIRY)
    async def test_expired_message_is_dropped(self, pair: LayerPair) -> None:
        """A message is not received any more once its expiry has passed."""
        channel = await pair.layer.new_channel()
        await pair.other.send(channel, numbered(1))
        await asyncio.sleep(2 * EXPIRY)
        received = await pair.next_after(pair.other.send, channel, numbered(2), channel)
        assert received == numbered(2 if self.drops_expired_messages else 1)

    @with_options(expiry=EXPIRY, capacity=1)
    async def test_expired_messages_make_room(self, pair: LayerPair) -> None:
        """A channel that is full of expired messages takes new ones."""
        self.require("drops_expired_messages")
        channel = await pair.layer.new_channel()
        await pair.other.send(channel, numbered(1))
        await asyncio.sleep(2 * EXPIRY)
        await pair.other.send(channel, numbered(2))

    @with_options(capacity=3)
    async def test_full_channel_takes_no_more(self, pair: LayerPair) -> None:
        """No more messages wait in a channel than its capacity."""
        channel = await pair.layer.new_channel()
        await self.fill(pair, channel, 3)
        assert len(await receive_all(pair.layer, channel, 3)) == 3
        assert await pair.rest(channel) == []

    @with_options(capacity=2)
    async def test_receiving_makes_room(self, pair: LayerPair) -> None:
        """A full channel has room for a message again once one is received."""
        channel = await pair.layer.new_channel()
        await self.fill(pair, channel, 2)
        await receive_all(pair.layer, channel, 1)
        await pair.other.send(channel, numbered(7))
        assert (await receive_all(pair.layer, channel, 2))[-1] == 7

    @pytest.mark.parametrize(
        ("prefix", "capacity"), [("small", 1), ("medium", 2), ("other", 3)]
    )
    @with_options(
        capacity=3, channel_capacity={"small.*": 1, re.compile("medium|small"): 2}
    )
    async def test_channels_can_have_their_own_capacity(
        self, pair: LayerPair, prefix: str, capacity: int
    ) -> None:
        """channel_capacity maps globs and compiled patterns to capacities."""
        channel = await pair.layer.new_channel(prefix)
        await self.fill(pair, channel, capacity)
        assert len(await receive_all(pair.layer, channel, capacity)) == capacity
        assert await pair.rest(channel) == []

    async def test_deleted_channel_holds_nothing(self, pair: LayerPair) -> None:
        """delete_channel() drops the messages and memberships of a channel."""
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("group", channel)
        await pair.other.send(channel, numbered(1))
        await pair.layer.delete_channel(channel)
        await pair.layer.delete_channel(channel)
        await pair.other.group_send("group", numbered(2))
        await pair.arrival()
        assert_empty(pair.layer)

    async def test_deleting_an_unknown_channel_changes_nothing(
        self, pair: LayerPair
    ) -> None:
        """delete_channel() affects only that channel."""
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("group", channel)
        await pair.layer.delete_channel(await pair.layer.new_channel())
        await pair.other.group_send("group", numbered(1))
        assert await pair.rest(channel) == [numbered(1)]
