"""Groups with many members in a process, which processes of several kinds share.

Of the previous version of this library and of channels_redis, processes know names of
channels only. To them, a stand-in is one.
"""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from fast_channels.layers import RedisChannelLayer
from tests.integration.redis.peer import (
    Message,
    Peer,
    PeerProcess,
)

from .sides import Kind, Options, Side, take

END: Message = {"type": "end"}
# Some are listed by name, and more are not.
FEW, MANY = 3, 12
_NUMBERS = 5


@pytest.fixture
def kind() -> Kind:
    return "core"


@pytest.fixture(
    params=[("django_process", "core"), ("previous_process", "ours")],
    ids=["django", "previous"],
)
async def peer(request: pytest.FixtureRequest, options: Options) -> AsyncIterator[Peer]:
    """A process that knows no stand-ins."""
    name, kind = request.param
    process: PeerProcess = request.getfixturevalue(name)
    async with process.layer(kind, **options) as layer:
        yield layer


async def join(side: Side, count: int, *groups: str) -> list[str]:
    """Let new channels join groups."""
    channels = [await side.new_channel() for _ in range(count)]
    for group in groups:
        for channel in channels:
            await side.group_add(group, channel)
    return channels


async def send(sides: Sequence[Side], group: str) -> None:
    """Let each side send numbers to a group."""
    for name, side in enumerate(sides):
        for number in range(_NUMBERS):
            message = {"type": "number", "group": group, "by": name, "n": number}
            await side.group_send(group, message)


async def check(
    ours: Side, sides: Sequence[Side], side: Side, channel: str, *groups: str
) -> None:
    """Check that a channel gets what was sent to its groups, once and in order."""
    await ours.send(channel, END)
    *received, end = await take(side, channel, len(groups) * 2 * _NUMBERS + 1)
    assert end == END
    for group in groups:
        for name in range(len(sides)):
            numbers = [
                message["n"]
                for message in received
                if (message["group"], message["by"]) == (group, name)
            ]
            assert numbers == list(range(_NUMBERS))


async def test_members_on_both_sides(ours: Side, peer: Peer) -> None:
    """Each member gets each message once and in order, from any sender."""
    sides: list[Side] = [ours, peer]
    members = [
        (side, channel)
        for side in sides
        for channel in [
            *await join(side, FEW, "large", "small"),
            *await join(side, MANY - FEW, "large"),
        ]
    ]
    for group in ("large", "small"):
        await send(sides, group)
    for each, (side, channel) in enumerate(members):
        groups = ["large", "small"] if each % MANY < FEW else ["large"]
        await check(ours, sides, side, channel, *groups)
    # Half of them leave.
    for side, channel in members[::2]:
        await side.group_discard("large", channel)
    await send(sides, "large")
    for each, (side, channel) in enumerate(members):
        await check(ours, sides, side, channel, *(["large"] if each % 2 else []))


async def test_members_that_the_other_side_adds(ours: Side, peer: Peer) -> None:
    """One that is listed by its name and a stand-in gets one copy, until it leaves."""
    sides: list[Side] = [ours, peer]
    ours_here, theirs = await join(ours, MANY, "room"), await join(peer, 1)
    beside = await join(ours, 1)
    for channel in [ours_here[0], *beside]:
        await peer.group_add("room", channel)
    await ours.group_add("room", theirs[0])
    await send(sides, "room")
    for channel in [*ours_here, *beside]:
        await check(ours, sides, ours, channel, "room")
    await check(ours, sides, peer, theirs[0], "room")
    for channel in [ours_here[0], *beside]:
        await ours.group_discard("room", channel)
    await peer.group_discard("room", theirs[0])
    await send(sides, "room")
    for channel in [ours_here[0], *beside]:
        await check(ours, sides, ours, channel)
    await check(ours, sides, ours, ours_here[1], "room")
    await check(ours, sides, peer, theirs[0])


async def test_members_that_the_other_side_discards(ours: Side, peer: Peer) -> None:
    """It can discard channels that are listed by name, and no others."""
    sides: list[Side] = [ours, peer]
    few, many = await join(ours, FEW, "small"), await join(ours, MANY, "large")
    theirs = await join(peer, MANY, "large")
    await peer.group_discard("small", few[0])
    await peer.group_discard("large", many[0])
    await ours.group_discard("large", theirs[0])
    await send(sides, "small")
    await send(sides, "large")
    await check(ours, sides, ours, few[0])
    await check(ours, sides, ours, few[1], "small")
    for channel in many:
        await check(ours, sides, ours, channel, "large")
    await check(ours, sides, peer, theirs[1], "large")
    await check(ours, sides, peer, theirs[0])


@pytest.mark.parametrize(
    ("servers", "serializer_format", "options"), [(1, "msgpack", None)], indirect=True
)
async def test_capacity_for_django(
    options: Options, django_process: PeerProcess
) -> None:
    """Django's limit for the processes of this library has to be raised there."""
    everything = 150
    raised: Options = {"channel_capacity": {"specific.????????????.*": 10_000}}
    cases: list[tuple[Options, int]] = [({}, 100), (raised, everything)]
    for more, expected in cases:
        async with (
            RedisChannelLayer(**options, capacity=everything) as ours,
            django_process.layer("core", **options, **more) as django,
        ):
            # A channel with a name in Redis, and many without.
            for count in (1, MANY):
                channel, *_ = await join(ours, count, f"group{count}")
                for number in range(everything):
                    message = {"type": "number", "n": number}
                    await django.group_send(f"group{count}", message)
                received = await take(ours, channel, expected)
                assert [each["n"] for each in received] == [*range(expected)]
                await ours.flush()


@pytest.mark.parametrize(
    "options", [None, ["secret"]], ids=["plain", "encrypted"], indirect=True
)
async def test_rolling_update(
    ours: Side, options: Options, new_process: PeerProcess, previous_version: Path
) -> None:
    """Members in new processes lose nothing while an old process ends."""
    over = asyncio.Event()

    async def send_all() -> int:
        for number in itertools.count():
            await ours.group_send("room", {"type": "number", "n": number})
            if over.is_set():
                return number + 1
            await asyncio.sleep(0.02)
        raise AssertionError

    old_process = PeerProcess(Path(sys.executable), previous_version)
    async with new_process.layer("ours", **options) as new:
        try:
            async with old_process.layer("ours", **options) as old:
                members: list[tuple[Side, str]] = [
                    (side, channel)
                    for side in (ours, new)
                    for channel in await join(side, MANY, "room")
                ]
                gone = await join(old, MANY, "room")
                sending = asyncio.create_task(send_all())
                received = await take(old, gone[-1], 3)
                assert [message["n"] for message in received] == [0, 1, 2]
        finally:
            await asyncio.to_thread(old_process.close)
        over.set()
        count = await sending
        for side, channel in members:
            received = await take(side, channel, count)
            assert [message["n"] for message in received] == [*range(count)]
