"""What every layer promises about groups."""

import asyncio

import pytest

from fast_channels.exceptions import ChannelFull
from fast_channels.layers import BaseChannelLayer

from .backends import LIMIT, Backend, Pair
from .conftest import MakePair

EXPIRY = 0.05
FIRST = {"type": "test.first"}
SECOND = {"type": "test.second"}


async def join(layer: BaseChannelLayer, *groups: str) -> str:
    """Return a new channel that is in groups."""
    channel = await layer.new_channel()
    for group in groups:
        await layer.group_add(group, channel)
    return channel


async def test_message_to_a_group_reaches_every_member(pair: Pair) -> None:
    """Members get their copies in every process, and in the order of sending."""
    mine = [await join(pair.layer, "group") for _ in range(3)]
    others = [await join(pair.other, "group") for _ in range(3)]
    await pair.other.group_send("group", FIRST)
    await pair.other.group_send("group", SECOND)
    for channel in mine:
        assert await pair.rest(channel) == [FIRST, SECOND]
    reverse = Pair(pair.other, pair.layer, pair.lanes)
    for channel in others:
        assert await reverse.rest(channel) == [FIRST, SECOND]


async def test_member_that_waits_gets_its_copy(pair: Pair) -> None:
    """A message to a group wakes whoever receives from a member."""
    channels = [await join(pair.layer, "group") for _ in range(3)]
    receivers = [asyncio.create_task(pair.layer.receive(name)) for name in channels]
    await asyncio.sleep(0)
    await pair.other.group_send("group", FIRST)
    assert await asyncio.gather(*receivers) == [FIRST] * 3


async def test_groups_are_apart(pair: Pair) -> None:
    """A channel gets what is sent to its groups, and nothing else."""
    both = await join(pair.layer, "group", "Group")
    one = await join(pair.layer, "group")
    await pair.other.group_send("group", FIRST)
    await pair.other.group_send("Group", SECOND)
    await pair.other.group_send("another", SECOND)
    assert await pair.rest(both) == [FIRST, SECOND]
    assert await pair.rest(one) == [FIRST]


async def test_member_that_joined_twice_gets_one_copy(pair: Pair) -> None:
    """Adding a channel again changes nothing, and it is discarded once."""
    channel = await join(pair.layer, "group", "group")
    await pair.other.group_send("group", FIRST)
    assert await pair.rest(channel) == [FIRST]
    await pair.layer.group_discard("group", channel)
    await pair.other.group_send("group", SECOND)
    assert await pair.rest(channel) == []


async def test_discarded_member_gets_no_more(pair: Pair) -> None:
    """A channel that left a group keeps what came before; the others stay in it."""
    channel = await join(pair.layer, "group", "another")
    stays = await join(pair.layer, "group")
    await pair.other.group_send("group", FIRST)
    # What arrived for one of them has arrived for both.
    assert await pair.layer.receive(stays) == FIRST
    await pair.layer.group_discard("group", channel)
    await pair.other.group_send("group", SECOND)
    await pair.other.group_send("another", SECOND)
    assert await pair.rest(channel) == [FIRST, SECOND]
    assert await pair.rest(stays) == [SECOND]


async def test_discarding_who_is_no_member_is_silent(pair: Pair) -> None:
    """Leaving a group twice, or one that does not exist, changes nothing."""
    stays = await join(pair.layer, "group")
    channel = await join(pair.layer, "group")
    for _ in range(2):
        await pair.layer.group_discard("group", channel)
        await pair.layer.group_discard("unknown", stays)
        await pair.layer.group_discard("unknown", channel)
    await pair.other.group_send("group", FIRST)
    assert await pair.rest(stays) == [FIRST]
    assert await pair.rest(channel) == []


async def test_message_to_an_unknown_group_goes_nowhere(pair: Pair) -> None:
    """group_send() to a group without members is silent, and nothing is kept."""
    await pair.other.group_send("group", FIRST)
    channel = await join(pair.layer, "group")
    assert await pair.rest(channel) == []


async def test_full_member_misses_its_copy(
    backend: Backend, make_pair: MakePair
) -> None:
    """group_send() never raises ChannelFull, and the other members get theirs."""
    pair = await make_pair(capacity=2)
    # Two processes, as some layers count what waits for all channels of one.
    full, free = await join(pair.layer, "group"), await join(pair.other, "group")
    for _ in range(3):
        await pair.layer.group_send("group", FIRST)
        assert await pair.other.receive(free) == FIRST
    if backend.send_refuses_when_full:
        with pytest.raises(ChannelFull):
            await pair.other.send(full, SECOND)
    else:
        # One process has got all three; the other one may be behind.
        async with asyncio.timeout(LIMIT):
            while not backend.dropped_by(pair.layer):  # noqa: ASYNC110 # nothing tells
                await asyncio.sleep(0.001)
    assert [await pair.layer.receive(full) for _ in range(2)] == [FIRST, FIRST]
    assert await pair.rest(full) == []


async def test_member_whose_message_expired_stays_in_its_group(
    make_pair: MakePair,
) -> None:
    """A member that did not receive in time misses that message, and no other."""
    pair = await make_pair(expiry=EXPIRY)
    channel = await join(pair.layer, "group")
    await pair.other.group_send("group", FIRST)
    await asyncio.sleep(2 * EXPIRY)
    received = await pair.next_after(pair.other.group_send, "group", SECOND, channel)
    assert received == SECOND
