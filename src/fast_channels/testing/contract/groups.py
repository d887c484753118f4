"""What every layer promises about groups."""

import asyncio
from typing import Any

import pytest

from fast_channels.exceptions import ChannelFull
from fast_channels.layers import BaseChannelLayer

from .base import EXPIRY, ContractBase, LayerPair, running, with_options

__all__ = ["GroupTests"]

FIRST = {"type": "test.first"}
SECOND = {"type": "test.second"}


async def join(layer: BaseChannelLayer, *groups: str) -> str:
    """Return a new channel that is in groups."""
    channel = await layer.new_channel()
    for group in groups:
        await layer.group_add(group, channel)
    return channel


class GroupTests(ContractBase):
    """Joining, leaving and sending."""

    @staticmethod
    def in_order(
        messages: list[dict[str, Any]], pair: LayerPair
    ) -> list[dict[str, Any]]:
        """Sort messages to several groups, if they can overtake each other."""
        return sorted(messages, key=str) if pair.lanes else messages

    async def test_message_to_a_group_reaches_every_member(
        self, pair: LayerPair
    ) -> None:
        """Members in every process get their copies in the order of sending."""
        mine = [await join(pair.layer, "group") for _ in range(3)]
        others = [await join(pair.other, "group") for _ in range(3)]
        await pair.other.group_send("group", FIRST)
        await pair.other.group_send("group", SECOND)
        for channel in mine:
            assert await pair.rest(channel) == [FIRST, SECOND]
        for channel in others:
            assert await pair.swapped.rest(channel) == [FIRST, SECOND]

    async def test_member_that_waits_gets_its_copy(self, pair: LayerPair) -> None:
        """A message to a group wakes the tasks that receive from its members."""
        channels = [await join(pair.layer, "group") for _ in range(3)]
        async with running(*map(pair.receive, channels)) as receivers:
            await pair.other.group_send("group", FIRST)
            assert await asyncio.gather(*receivers) == [FIRST] * 3

    async def test_groups_are_separate(self, pair: LayerPair) -> None:
        """A channel gets the messages to its groups, and no others."""
        both = await join(pair.layer, "group", "Group")
        one = await join(pair.layer, "group")
        await pair.other.group_send("group", FIRST)
        await pair.other.group_send("Group", SECOND)
        await pair.other.group_send("another", SECOND)
        assert self.in_order(await pair.rest(both), pair) == [FIRST, SECOND]
        assert await pair.rest(one) == [FIRST]

    async def test_member_that_joined_twice_gets_one_copy(
        self, pair: LayerPair
    ) -> None:
        """Adding a channel again changes nothing; discarding it once removes it."""
        channel = await join(pair.layer, "group", "group")
        await pair.other.group_send("group", FIRST)
        assert await pair.rest(channel) == [FIRST]
        await pair.layer.group_discard("group", channel)
        await pair.other.group_send("group", SECOND)
        assert await pair.rest(channel) == []

    async def test_discarded_member_gets_no_more(self, pair: LayerPair) -> None:
        """A channel that leaves a group keeps its messages; other members stay."""
        channel = await join(pair.layer, "group", "another")
        stays = await join(pair.layer, "group")
        await pair.other.group_send("group", FIRST)
        # A copy that arrived for one member has arrived for both.
        assert await pair.receive(stays) == FIRST
        await pair.layer.group_discard("group", channel)
        await pair.other.group_send("group", SECOND)
        await pair.other.group_send("another", SECOND)
        assert self.in_order(await pair.rest(channel), pair) == [FIRST, SECOND]
        assert await pair.rest(stays) == [SECOND]

    async def test_discarding_a_channel_that_is_no_member_is_silent(
        self, pair: LayerPair
    ) -> None:
        """Leaving a group twice, or an unknown group, changes nothing."""
        stays = await join(pair.layer, "group")
        channel = await join(pair.layer, "group")
        for _ in range(2):
            await pair.layer.group_discard("group", channel)
            await pair.layer.group_discard("unknown", stays)
            await pair.layer.group_discard("unknown", channel)
        await pair.other.group_send("group", FIRST)
        assert await pair.rest(stays) == [FIRST]
        assert await pair.rest(channel) == []

    async def test_message_to_an_unknown_group_goes_nowhere(
        self, pair: LayerPair
    ) -> None:
        """group_send() to a group without members is silent and keeps nothing."""
        await pair.other.group_send("group", FIRST)
        channel = await join(pair.layer, "group")
        assert await pair.rest(channel) == []

    @with_options(capacity=2)
    async def test_full_member_misses_its_copy(self, pair: LayerPair) -> None:
        """group_send() never raises ChannelFull; members with room get their copies."""
        # In two processes: some layers limit the messages of all channels of one.
        full, free = await join(pair.layer, "group"), await join(pair.other, "group")
        for _ in range(3):
            await pair.layer.group_send("group", FIRST)
            assert await pair.swapped.receive(free) == FIRST
        if self.send_refuses_when_full:
            with pytest.raises(ChannelFull):
                await pair.other.send(full, SECOND)
        else:
            await pair.arrival()
        assert [await pair.receive(full) for _ in range(2)] == [FIRST, FIRST]
        assert await pair.rest(full) == []

    @with_options(expiry=EXPIRY)
    async def test_member_whose_message_expired_stays_in_its_group(
        self, pair: LayerPair
    ) -> None:
        """A member misses only the message that it did not receive in time."""
        channel = await join(pair.layer, "group")
        await pair.other.group_send("group", FIRST)
        await asyncio.sleep(2 * EXPIRY)
        received = await pair.next_after(
            pair.other.group_send, "group", SECOND, channel
        )
        assert received == (SECOND if self.drops_expired_messages else FIRST)
