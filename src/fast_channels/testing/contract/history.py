"""What every layer that keeps a history promises about it."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from typing_extensions import override

from fast_channels.consumer import AsyncJsonWebsocketConsumer, broadcast
from fast_channels.layers import (
    BaseChannelLayer,
    GroupMessage,
    History,
    Resumed,
    channel_layers,
)
from fast_channels.testing.websocket import WebsocketCommunicator

from .base import EXPIRY, LIMIT, ContractBase, LayerOptions, LayerPair, running

__all__ = ["HistoryTests"]

_Test = TypeVar("_Test", bound=Callable[..., Any])

# Things that clients send in place of a position, for example because they are hostile.
NONSENSE: list[Any] = [
    "",
    "nonsense",
    "7",
    "0123abcd.",
    "0123abcd.1",
    "0123abcd.-1",
    "0123abcd.1e3",
    "0123abcd.1\0",
    # A digit of another script.
    "0123abcd.\u0661",
    f"0123abcd.{10**40}",
    "0" * 1_000_000,
    "*.*",
    "\ud800",
    1,
    ["0123abcd.1"],
    {},
]


def numbered(number: int) -> dict[str, Any]:
    return {"type": "test.numbered", "number": number}


def with_history(
    history: History | None = None, *, capacity: int = 100
) -> Callable[[_Test], _Test]:
    """Run a test on layers where groups "room.*" have a history."""
    options = LayerOptions(history={"room.*": history or History()}, capacity=capacity)

    def decorate(test: _Test) -> _Test:
        on_layers = pytest.mark.parametrize("options", [options], ids=["history"])
        # First, since other layers don't have the option.
        marked: _Test = pytest.mark.usefixtures("needs_history")(on_layers(test))
        return marked

    return decorate


class HistoryTests(ContractBase):
    """Positions, resuming and reading."""

    @pytest.fixture
    def needs_history(self) -> None:
        """Skip a test for layers that keep no history."""
        self.require("keeps_history")

    async def test_layer_without_the_option_has_no_history(
        self, layer: BaseChannelLayer
    ) -> None:
        """Groups have no positions, and what needs a history says so."""
        channel = await layer.new_channel()
        joined = await layer.group_resume("room.1", channel)
        assert joined == Resumed("", complete=True, replayed=0)
        assert await layer.group_send("room.1", numbered(1)) is None
        for call in (
            layer.group_resume("room.1", channel, since="0123abcd.1"),
            layer.group_resume("room.1", channel, last=1),
            layer.group_history("room.1"),
        ):
            with pytest.raises(ValueError, match=r"'room\.1' has no history: create"):
                await call

    @with_history()
    async def test_messages_are_numbered(self, pair: LayerPair) -> None:
        """group_send() returns the position that the message arrives with."""
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("room.1", channel)
        sent = [await pair.other.group_send("room.1", numbered(n)) for n in range(3)]
        for number in range(3):
            message = await pair.receive(channel)
            assert message == numbered(number)
            assert isinstance(message, GroupMessage)
            assert (message.group, message.position) == ("room.1", sent[number])

    @with_history()
    async def test_other_groups_are_not_numbered(self, pair: LayerPair) -> None:
        """A group that no pattern matches has no positions."""
        channel = await pair.layer.new_channel()
        joined = await pair.layer.group_resume("other", channel)
        assert joined == Resumed("", complete=True, replayed=0)
        assert await pair.other.group_send("other", numbered(1)) is None
        message = await pair.receive(channel)
        assert type(message) is dict
        assert message == numbered(1)

    @with_history()
    async def test_member_resumes_from_a_position(self, pair: LayerPair) -> None:
        """It gets what follows the position, and then what is sent, once, in order."""
        sent = await self.send(pair, 5)
        # In the process that sent, and in another one.
        for each in (pair, pair.swapped):
            channel = await each.layer.new_channel()
            resumed = await each.layer.group_resume("room.1", channel, since=sent[1])
            assert resumed.complete
            assert resumed.position == sent[-1]
            assert resumed.replayed == len(sent) - 2
            sent += await self.send(pair, 1, start=len(sent))
            for position in sent[2:]:
                message = await each.receive(channel)
                assert isinstance(message, GroupMessage)
                assert message.position == position
            assert await each.rest(channel) == []

    @with_history()
    async def test_group_has_a_position_before_its_first_message(
        self, pair: LayerPair
    ) -> None:
        """A client that joined an empty group and comes back has missed nothing."""
        first = await pair.layer.new_channel()
        joined = await pair.layer.group_resume("room.1", first)
        assert joined == Resumed(joined.position, complete=True, replayed=0)
        assert joined.position
        channel = await pair.other.new_channel()
        resumed = await pair.other.group_resume(
            "room.1", channel, since=joined.position
        )
        assert resumed == joined
        await pair.other.delete_channel(channel)
        sent = await self.send(pair, 2)
        channel = await pair.other.new_channel()
        resumed = await pair.other.group_resume(
            "room.1", channel, since=joined.position
        )
        assert resumed == Resumed(sent[-1], complete=True, replayed=2)
        assert await pair.swapped.rest(channel) == [numbered(0), numbered(1)]

    @with_history()
    async def test_member_that_has_everything_gets_nothing(
        self, pair: LayerPair
    ) -> None:
        """Resuming from the latest message replays none."""
        sent = await self.send(pair, 3)
        channel = await pair.layer.new_channel()
        resumed = await pair.layer.group_resume("room.1", channel, since=sent[-1])
        assert resumed == Resumed(sent[-1], complete=True, replayed=0)
        assert await pair.rest(channel) == []

    @with_history()
    async def test_position_that_is_made_up(self, pair: LayerPair) -> None:
        """Anything that is no position of the group counts as lost messages."""
        sent = await self.send(pair, 3)
        position: Any
        for position in NONSENSE:
            channel = await pair.layer.new_channel()
            resumed = await pair.layer.group_resume("room.1", channel, since=position)
            assert resumed == Resumed(sent[-1], complete=False, replayed=0)
            assert await pair.rest(channel) == []
            read = await pair.layer.group_history("room.1", since=position)
            assert (list(read), read.complete) == ([], False)
            # As if it were the first in its process.
            await pair.layer.group_discard("room.1", channel)
        channel = await pair.layer.new_channel()
        await pair.layer.group_resume("room.1", channel)
        await self.send(pair, 1, start=3)
        assert await pair.receive(channel) == numbered(3)

    @with_history()
    async def test_position_of_another_group(self, pair: LayerPair) -> None:
        """A position is one of its group only."""
        sent = await self.send(pair, 3)
        await self.send(pair, 3, group="room.2")
        channel = await pair.layer.new_channel()
        resumed = await pair.layer.group_resume("room.2", channel, since=sent[0])
        assert (resumed.complete, resumed.replayed) == (False, 0)
        assert await pair.rest(channel) == []

    @with_history()
    async def test_position_from_the_future(self, pair: LayerPair) -> None:
        """A position after the latest message is made up."""
        sent = await self.send(pair, 3)
        epoch = sent[0].partition(".")[0]
        for offset in (4, 10**15 - 1):
            channel = await pair.layer.new_channel()
            resumed = await pair.layer.group_resume(
                "room.1", channel, since=f"{epoch}.{offset}"
            )
            assert resumed == Resumed(sent[-1], complete=False, replayed=0)
            assert await pair.rest(channel) == []
        await self.send(pair, 1, start=3)
        assert await pair.receive(channel) == numbered(3)

    @with_history(History(messages=3))
    async def test_history_that_is_too_short(self, pair: LayerPair) -> None:
        """If a missed message is not kept any more, nothing old is delivered."""
        sent = await self.send(pair, 6)
        for index, expected in ((1, (False, 0)), (2, (True, 3)), (3, (True, 2))):
            channel = await pair.layer.new_channel()
            resumed = await pair.layer.group_resume(
                "room.1", channel, since=sent[index]
            )
            assert (resumed.complete, resumed.replayed) == expected
            assert len(await pair.rest(channel)) == resumed.replayed

    @with_history(History(seconds=EXPIRY))
    async def test_history_that_has_expired(self, pair: LayerPair) -> None:
        """The position outlives the messages: who had them all has missed nothing."""
        sent = await self.send(pair, 2)
        await asyncio.sleep(2 * EXPIRY)
        channel = await pair.layer.new_channel()
        resumed = await pair.layer.group_resume("room.1", channel, since=sent[0])
        assert resumed == Resumed(sent[-1], complete=False, replayed=0)
        resumed = await pair.layer.group_resume("room.1", channel, since=sent[-1])
        assert resumed == Resumed(sent[-1], complete=True, replayed=0)
        assert await pair.layer.group_history("room.1") == []

    @with_history(History(messages=5))
    async def test_member_gets_the_latest_messages(self, pair: LayerPair) -> None:
        """``last`` counts only without ``since``, or if messages after it are lost."""
        sent = await self.send(pair, 8)
        for since, last, complete, replayed in (
            (None, 2, True, 2),
            (None, 5, True, 5),
            (None, 50, True, 5),
            (sent[-4], 1, True, 3),
            (sent[0], 2, False, 2),
            ("nonsense", 50, False, 5),
        ):
            channel = await pair.layer.new_channel()
            resumed = await pair.layer.group_resume(
                "room.1", channel, since=since, last=last
            )
            assert resumed == Resumed(sent[-1], complete, replayed)
            expected = [numbered(number) for number in range(8 - replayed, 8)]
            assert await pair.rest(channel) == expected

    @with_history()
    async def test_latest_messages_of_a_group_that_has_fewer(
        self, pair: LayerPair
    ) -> None:
        """A group that has fewer messages delivers those."""
        for number in range(2):
            channel = await pair.layer.new_channel()
            resumed = await pair.layer.group_resume("room.1", channel, last=10)
            assert (resumed.complete, resumed.replayed) == (True, number)
            await self.send(pair, 1, start=number)
            assert len(await pair.rest(channel)) == number + 1

    @with_history()
    async def test_invalid_arguments(self, pair: LayerPair) -> None:
        """The errors name the argument and the value."""
        layer: Any = pair.layer
        channel = await layer.new_channel()
        for call, error, text in (
            (layer.group_resume("room.1", channel, last=0), ValueError, "last must be"),
            (layer.group_resume("room.1", channel, last="2"), TypeError, "not '2'"),
            (layer.group_resume("", channel, since=""), TypeError, "group name"),
            (layer.group_resume("room.1", "", since=""), TypeError, "channel name"),
            (layer.group_history("room.1", limit=0), ValueError, "limit must be"),
            (layer.group_history("other"), ValueError, "has no history"),
            (layer.group_history(""), TypeError, "group name"),
            (layer.group_send("room.1", {}, once=7), TypeError, "once must be a str"),
            (layer.group_send("room.1", {}, once=""), ValueError, "not be empty"),
            (layer.group_send("other", {}, once="a"), ValueError, "has no history"),
            (layer.group_resume("other", channel, last=1), ValueError, "no history"),
        ):
            with pytest.raises(error, match=text):
                await call
        await self.send(pair, 1)
        assert await pair.rest(channel) == []

    @with_history()
    async def test_message_that_is_sent_once(self, pair: LayerPair) -> None:
        """The same key sends nothing, from any process, and returns the position."""
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("room.1", channel)
        sent = [
            await layer.group_send("room.1", numbered(number), once=key)
            for number, (layer, key) in enumerate(
                [
                    (pair.layer, "a"),
                    (pair.layer, "a"),
                    (pair.other, "a"),
                    (pair.other, "b"),
                    (pair.other, "a"),
                ]
            )
        ]
        assert sent == [sent[0]] * 3 + [sent[3], sent[0]]
        elsewhere = await pair.layer.group_send("room.2", numbered(5), once="a")
        assert elsewhere not in sent
        assert await pair.rest(channel) == [numbered(0), numbered(3)]

    @with_history(History(messages=5))
    async def test_history_is_read(self, pair: LayerPair) -> None:
        """group_history() returns the latest messages, or those after a position."""
        assert await pair.layer.group_history("room.1") == []
        sent = await self.send(pair, 8)
        for since, limit, complete, numbers in (
            (None, 100, True, [3, 4, 5, 6, 7]),
            (None, 2, True, [6, 7]),
            (sent[4], 100, True, [5, 6, 7]),
            (sent[4], 2, True, [5, 6]),
            (sent[7], 2, True, []),
            (sent[1], 100, False, []),
        ):
            read = await pair.layer.group_history("room.1", since, limit)
            assert read == [numbered(number) for number in numbers]
            assert [each.position for each in read] == [sent[n] for n in numbers]
            assert (read.position, read.complete) == (sent[-1], complete)
        read[:] = []
        message = (await pair.layer.group_history("room.1"))[0]
        message["changed"] = True
        assert (await pair.layer.group_history("room.1"))[0] == numbered(3)

    @with_history(capacity=2)
    async def test_full_member_gets_a_notice(self, pair: LayerPair) -> None:
        """A gap stands in place of what is missed; resuming before it closes it."""
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("room.1", channel)
        sent = await self.send(pair, 5)
        await pair.arrival()
        # The capacity of the other process.
        expected = [
            numbered(0),
            numbered(1),
            {"type": "group.gap", "group": "room.1", "position": sent[1]},
        ]
        for message in expected:
            assert await pair.receive(channel) == message
        resumed = await pair.layer.group_resume("room.1", channel, since=sent[1])
        assert resumed == Resumed(sent[-1], complete=True, replayed=3)
        assert await pair.rest(channel) == [numbered(n) for n in (2, 3, 4)]

    @with_history(capacity=2)
    async def test_member_that_was_full_goes_on(self, pair: LayerPair) -> None:
        """There is one notice for all messages in a row; later ones arrive."""
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("room.1", channel)
        for start in (0, 5):
            sent = await self.send(pair, 5, start=start)
            await pair.arrival()
            received = [await pair.receive(channel) for _ in range(3)]
            assert received[:2] == [numbered(start), numbered(start + 1)]
            assert received[2]["position"] == sent[1]
        assert await pair.rest(channel) == []

    @with_history(capacity=2)
    async def test_replay_is_not_limited_by_the_capacity(self, pair: LayerPair) -> None:
        """All that was missed is delivered, and there is room for what follows."""
        sent = await self.send(pair, 50)
        channel = await pair.layer.new_channel()
        resumed = await pair.layer.group_resume("room.1", channel, since=sent[0])
        assert resumed.replayed == 49
        await self.send(pair, 2, start=50)
        await pair.arrival()
        received = [await pair.receive(channel) for _ in range(51)]
        assert received == [numbered(number) for number in range(1, 52)]

    @with_history()
    async def test_member_that_resumes_again(self, pair: LayerPair) -> None:
        """What waits is replaced: each message comes once and in order."""
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("room.1", channel)
        await pair.layer.group_add("room.2", channel)
        sent = await self.send(pair, 3)
        await self.send(pair, 1, start=100, group="room.2")
        assert await pair.receive(channel) == numbered(0)
        await pair.arrival()
        # Where it is, with two messages waiting.
        joined = await pair.layer.group_resume("room.1", channel)
        assert joined == Resumed(sent[0], complete=True, replayed=0)
        resumed = await pair.layer.group_resume("room.1", channel, since=sent[0])
        assert resumed == Resumed(sent[-1], complete=True, replayed=2)
        joined = await pair.layer.group_resume("room.2", channel, since="nonsense")
        assert not joined.complete
        await self.send(pair, 1, start=3)
        assert await pair.rest(channel) == [numbered(1), numbered(2), numbered(3)]
        joined = await pair.layer.group_resume("room.1", channel)
        assert joined.position.rpartition(".")[2] == "4"

    @with_history()
    async def test_two_groups_of_one_channel(self, pair: LayerPair) -> None:
        """A channel resumes in each of its groups, and knows which message is whose."""
        sent = {
            group: await self.send(pair, 3, group=group)
            for group in ("room.1", "room.2")
        }
        channel = await pair.layer.new_channel()
        for group, positions in sent.items():
            await pair.layer.group_resume(group, channel, since=positions[0])
        for group in sent:
            sent[group] += await self.send(pair, 1, start=3, group=group)
        received: dict[str, list[str]] = {}
        for message in await pair.rest(channel):
            assert isinstance(message, GroupMessage)
            received.setdefault(message.group, []).append(message.position)
        assert received == {group: positions[1:] for group, positions in sent.items()}

    @with_history()
    async def test_member_that_has_left_gets_no_more(self, pair: LayerPair) -> None:
        """Leaving ends delivery; joining again resumes from where it was."""
        channel = await pair.layer.new_channel()
        await pair.layer.group_resume("room.1", channel)
        sent = await self.send(pair, 1)
        assert await pair.receive(channel) == numbered(0)
        await pair.layer.group_discard("room.1", channel)
        await self.send(pair, 2, start=1)
        assert await pair.rest(channel) == []
        resumed = await pair.layer.group_resume("room.1", channel, since=sent[0])
        assert (resumed.complete, resumed.replayed) == (True, 2)
        assert await pair.rest(channel) == [numbered(1), numbered(2)]

    @with_history()
    async def test_channel_of_another_process(self, pair: LayerPair) -> None:
        """Only the process that made a channel can resume for it."""
        channel = await pair.other.new_channel()
        if pair.layer is pair.other:
            await pair.layer.group_resume("room.1", channel)
            return
        with pytest.raises(ValueError, match=r"it is not one that new_channel"):
            await pair.layer.group_resume("room.1", channel)

    @with_history()
    async def test_plain_channel_in_a_group(self, pair: LayerPair) -> None:
        """It gets the messages that are sent, beside the other members."""
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("room.1", channel)
        await pair.layer.group_add("room.1", "mail")
        async with running(pair.receive("mail")) as [receiving]:
            await pair.other.group_send("room.1", numbered(1))
            assert await receiving == numbered(1)
        assert await pair.receive(channel) == numbered(1)

    @with_history()
    async def test_flushed_layer_goes_on(self, pair: LayerPair) -> None:
        """Members are gone; new ones get new messages."""
        self.require("can_be_flushed")
        channel = await pair.layer.new_channel()
        await pair.layer.group_resume("room.1", channel)
        await self.send(pair, 1)
        assert await pair.receive(channel) == numbered(0)
        await pair.layer.flush()
        channel = await pair.layer.new_channel()
        resumed = await pair.layer.group_resume("room.1", channel)
        [position] = await self.send(pair, 1, start=1)
        assert position != resumed.position
        assert await pair.rest(channel) == [numbered(1)]

    @with_history()
    async def test_members_that_resume_while_others_send(self, pair: LayerPair) -> None:
        """Each gets every message after its position, once and in order."""
        total, every = 120, 8
        sent: list[str] = []
        more = asyncio.Condition()

        async def send() -> None:
            for number in range(total):
                sender = pair.layer if number % 3 else pair.other
                position = await sender.group_send("room.1", numbered(number))
                assert position is not None
                async with more:
                    sent.append(position)
                    more.notify_all()

        async def follow(side: LayerPair, start: int) -> None:
            async with more:
                await more.wait_for(lambda: len(sent) > start + every // 2)
            channel = await side.layer.new_channel()
            resumed = await side.layer.group_resume(
                "room.1", channel, since=sent[start]
            )
            assert resumed.complete
            for number in range(start + 1, total):
                assert await side.receive(channel) == numbered(number)
            assert await side.rest(channel) == []

        async with asyncio.timeout(3 * LIMIT), asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            for start in range(0, total - every, every):
                for side in (pair, pair.swapped):
                    tasks.create_task(follow(side, start))

    @with_history()
    async def test_consumer_resumes(self, pair: LayerPair) -> None:
        """join_group() delivers after the handler has returned."""
        sent = await self.send(pair, 3)

        class Room(AsyncJsonWebsocketConsumer):
            channel_layer_alias = "contract.history"

            @override
            async def receive_json(self, content: Any, **kwargs: Any) -> None:
                resumed = await self.join_group("room.1", **content)
                await self.send_json(list(resumed))

            async def test_numbered(self, event: GroupMessage) -> None:
                await self.send_json([event["number"], event.position])

        channel_layers.register("contract.history", pair.layer)
        async with WebsocketCommunicator(Room, "/") as client:
            await client.connect()
            await client.send_json_to({"since": sent[0]})
            assert await client.receive_json_from(LIMIT) == [sent[-1], True, 2]
            for number in (1, 2):
                received = await client.receive_json_from(LIMIT)
                assert received == [number, sent[number]]
            [position] = await self.send(pair, 1, start=3)
            assert await client.receive_json_from(LIMIT) == [3, position]
        channel_layers.unregister("contract.history")

    @with_history()
    async def test_broadcasts_have_positions(self, pair: LayerPair) -> None:
        """Live and replayed messages reach the method that renders them."""

        class Room(AsyncJsonWebsocketConsumer):
            channel_layer_alias = "contract.history"

            @override
            async def receive_json(self, content: Any, **kwargs: Any) -> None:
                await self.join_group("room.1", since=content)
                await self.send_json("joined")

            @broadcast
            def test_numbered(cls, event: GroupMessage) -> list[Any]:
                return [event["number"], event.position]

        sent = await self.send(pair, 3)
        channel_layers.register("contract.history", pair.layer)
        async with (
            WebsocketCommunicator(Room, "/") as one,
            WebsocketCommunicator(Room, "/") as two,
        ):
            for client, position in ((one, sent[0]), (two, sent[1])):
                await client.connect()
                await client.send_json_to(position)
                assert await client.receive_json_from(LIMIT) == "joined"
            sent += await self.send(pair, 2, start=3)
            for client, first in ((one, 1), (two, 2)):
                for number in range(first, 5):
                    received = await client.receive_json_from(LIMIT)
                    assert received == [number, sent[number]]
        channel_layers.unregister("contract.history")

    @pytest.mark.parametrize("has_handler", [True, False])
    @with_history(capacity=2)
    async def test_consumer_that_misses_messages(
        self, pair: LayerPair, has_handler: bool
    ) -> None:
        """group_gap() is called if the consumer has it, and can close the gap."""

        class Room(AsyncJsonWebsocketConsumer):
            channel_layer_alias = "contract.history"
            groups = ["room.1"]  # noqa: RUF012 # every instance gets a copy

            @override
            async def receive_json(self, content: Any, **kwargs: Any) -> None:
                await busy.wait()

            async def test_numbered(self, event: GroupMessage) -> None:
                await self.send_json(event["number"])

        class RoomWithHandler(Room):
            async def group_gap(self, event: dict[str, Any]) -> None:
                resumed = await self.join_group(event["group"], since=event["position"])
                await self.send_json(resumed.complete)

        busy = asyncio.Event()
        channel_layers.register("contract.history", pair.layer)
        consumer = RoomWithHandler if has_handler else Room
        async with WebsocketCommunicator(consumer, "/") as client:
            await client.connect()
            await client.send_json_to({})
            await self.send(pair, 5)
            await pair.arrival()
            busy.set()
            expected: list[object] = [0, 1]
            expected += [True, 2, 3, 4, 5] if has_handler else [5]
            received = [await client.receive_json_from(LIMIT) for _ in expected[:-1]]
            await self.send(pair, 1, start=5)
            received.append(await client.receive_json_from(LIMIT))
            assert received == expected
        channel_layers.unregister("contract.history")

    async def send(
        self, pair: LayerPair, count: int, *, start: int = 0, group: str = "room.1"
    ) -> list[str]:
        """Send messages to a group from another process; return their positions."""
        sent: list[str] = []
        for number in range(start, start + count):
            position = await pair.other.group_send(group, numbered(number))
            assert position is not None
            sent.append(position)
        return sent
