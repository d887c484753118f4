"""What every layer promises about flushing, closing, event loops and threads."""

import asyncio
import threading

import pytest
from asgiref.sync import async_to_sync

from fast_channels.layers import BaseChannelLayer

from .base import LIMIT, ContractBase, LayerPair, assert_empty, held_by, running

__all__ = ["LifetimeTests"]

BEFORE = {"type": "test.before"}
AFTER = {"type": "test.after"}


class LifetimeTests(ContractBase):
    """Flushing, closing, event loops and threads."""

    async def test_flush_drops_messages_and_groups(self, pair: LayerPair) -> None:
        """Messages and members from before a flush are gone after it."""
        self.require("can_be_flushed")
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("group", channel)
        await pair.other.send(channel, BEFORE)
        if not self.keeps_messages_for_later_receivers:
            # Otherwise it could arrive after the flush.
            await pair.arrival()
        await pair.layer.flush()
        await pair.other.group_send("group", BEFORE)
        received = await pair.next_after(pair.other.send, channel, AFTER, channel)
        assert received == AFTER

    async def test_flush_leaves_receivers_waiting(self, pair: LayerPair) -> None:
        """A receiver that waits during a flush gets the next message."""
        self.require("can_be_flushed")
        channel = await pair.layer.new_channel()
        async with running(pair.receive(channel)) as [receiving]:
            await pair.layer.flush()
            await pair.other.send(channel, AFTER)
            assert await receiving == AFTER

    async def test_flush_empties_a_layer(self, pair: LayerPair) -> None:
        """A layer without receivers holds nothing after a flush."""
        self.require("can_be_flushed")
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("group", channel)
        await pair.other.send(channel, BEFORE)
        await pair.layer.flush()
        await pair.layer.flush()
        assert_empty(pair.layer)

    async def test_closed_layer_can_be_used_again(self, pair: LayerPair) -> None:
        """close() releases everything, and the layer can be used and closed again."""
        layer = pair.layer
        for _ in range(2):
            channel = await layer.new_channel()
            await layer.group_add("group", channel)
            await layer.group_send("group", AFTER)
            assert await pair.rest(channel) == [AFTER]
            await layer.close()
            await layer.close()
            assert_empty(layer)

    async def test_closing_that_is_cancelled(self, pair: LayerPair) -> None:
        """A layer closes completely even if close() is cancelled, at any time."""
        layer, before = pair.layer, asyncio.all_tasks()
        for steps in range(1, 5):
            channel = await layer.new_channel()
            await layer.group_add("group", channel)
            await layer.group_send("group", AFTER)
            assert await pair.rest(channel) == [AFTER]
            closing = asyncio.create_task(layer.close())
            for _ in range(steps):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
        await pair.other.close()
        async with asyncio.timeout(LIMIT):
            while asyncio.all_tasks() - before:  # noqa: ASYNC110 # they end by themselves
                await asyncio.sleep(0.001)
        assert_empty(layer)

    async def test_leaving_the_context_of_a_layer_closes_it(
        self, pair: LayerPair
    ) -> None:
        """``async with`` releases everything at the end of the block."""
        async with pair.layer as layer:
            assert layer is pair.layer
            await layer.group_add("group", await layer.new_channel())
        assert_empty(pair.layer)

    async def test_error_in_the_context_of_a_layer_closes_it(
        self, pair: LayerPair
    ) -> None:
        """``async with`` releases everything if the block raises, and raises too."""

        async def fail() -> None:
            async with pair.layer as layer:
                await layer.group_add("group", await layer.new_channel())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert_empty(pair.layer)

    async def test_extensions(self, layer: BaseChannelLayer) -> None:
        """The layer has groups, and says whether it can be flushed."""
        assert "groups" in layer.extensions
        assert ("flush" in layer.extensions) is self.can_be_flushed
        if not self.can_be_flushed:
            with pytest.raises(NotImplementedError):
                await layer.flush()

    async def test_statistics(self, pair: LayerPair) -> None:
        """statistics() counts what the layer holds, or is always 0."""
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("group", channel)
        await pair.other.send(channel, BEFORE)
        await pair.arrival()
        for name, number in held_by(pair.layer).items():
            assert bool(number) is self.keeps_statistics, name
        assert await pair.rest(channel) == [BEFORE]

    async def test_keys_of_statistics(self, layer: BaseChannelLayer) -> None:
        """Every layer counts under the same names, in the same order."""
        assert list(layer.statistics()) == [
            "channels",
            "groups",
            "waiting",
            "delivered",
            "dropped",
            "undecodable",
            "reconnects",
        ]

    async def test_event_loops_use_a_layer_one_after_the_other(
        self, pair: LayerPair
    ) -> None:
        """A layer that was used in one event loop works in the next."""
        self.require("serves_several_event_loops")

        async def use(group: str) -> None:
            channel = await pair.layer.new_channel()
            await pair.layer.group_add(group, channel)
            await pair.other.group_send(group, BEFORE)
            assert await pair.receive(channel) == BEFORE
            await pair.other.send(channel, AFTER)
            assert await pair.receive(channel) == AFTER
            await pair.layer.group_discard(group, channel)

        await use("group")
        for number in range(3):
            await asyncio.to_thread(asyncio.run, use(f"group-{number}"))
        await use("group")

    async def test_event_loops_use_a_layer_at_once(self, pair: LayerPair) -> None:
        """Members of a group in several threads get every message of all threads."""
        self.require("serves_several_event_loops")
        threads, count = 4, 20
        all_joined = threading.Barrier(threads, timeout=LIMIT)

        async def use(thread: int) -> None:
            channel = await pair.layer.new_channel()
            await pair.layer.group_add("group", channel)
            await asyncio.to_thread(all_joined.wait)
            sent = [{"type": "a", "from": thread, "number": n} for n in range(count)]
            for message in sent:
                await pair.other.group_send("group", message)
            received = [await pair.receive(channel) for _ in range(threads * count)]
            for sender in range(threads):
                numbers = [one["number"] for one in received if one["from"] == sender]
                assert numbers == list(range(count))
            await pair.layer.group_discard("group", channel)

        runs = [
            asyncio.to_thread(asyncio.run, use(thread)) for thread in range(threads)
        ]
        await asyncio.gather(*runs)

    async def test_thread_without_an_event_loop_sends(self, pair: LayerPair) -> None:
        """A message that async_to_sync() sends in a thread wakes a receiver."""
        self.require("serves_several_event_loops")
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("group", channel)

        def send() -> None:
            async_to_sync(pair.other.send)(channel, BEFORE)
            for _ in range(30):
                async_to_sync(pair.other.group_send)("group", AFTER)

        async with running(pair.receive(channel)) as [receiving]:
            await asyncio.to_thread(send)
            first = await receiving
        received = [first, *await pair.rest(channel)]
        # Messages through a group and to a channel can overtake each other.
        assert sorted(received, key=str) == [*[AFTER] * 30, BEFORE]
