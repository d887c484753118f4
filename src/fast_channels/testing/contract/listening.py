"""What every layer promises about ``listen()``."""

import asyncio
import gc
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from fast_channels.layers import BaseChannelLayer, History

from .base import LIMIT, ContractBase, LayerPair, held_by, running, with_options
from .history import with_history

__all__ = ["ListeningTests"]

FIRST = {"type": "test.first"}
SECOND = {"type": "test.second"}
# Seconds between two looks at a layer that releases something in another task.
_PAUSE = 0.005


async def listen(
    layer: BaseChannelLayer, *groups: str
) -> AsyncGenerator[dict[str, Any]]:
    """Yield the messages of groups, as the endpoint of an application does."""
    async with layer.listen(*groups) as messages:
        async for message in messages:
            yield message


class ListeningTests(ContractBase):
    """Groups as an asynchronous iterator."""

    async def assert_released(self, pair: LayerPair) -> None:
        """Wait until the layer holds no channel and no group."""
        async with asyncio.timeout(LIMIT):
            while any(held_by(pair.layer).values()):  # noqa: ASYNC110 # another task
                await asyncio.sleep(_PAUSE)
        # For a layer without statistics: nothing is left that could raise this.
        await pair.other.group_send("group", FIRST)

    async def test_listener_gets_the_messages_of_its_groups(
        self, pair: LayerPair
    ) -> None:
        """A loop gets the messages of all groups in order, until it breaks."""
        async with asyncio.timeout(LIMIT), pair.layer.listen("a", "b") as messages:
            assert not messages.ended
            await pair.other.group_send("a", FIRST)
            assert await messages.get() == FIRST
            await pair.other.group_send("c", FIRST)
            await pair.other.group_send("b", SECOND)
            async for message in messages:
                assert message == SECOND
                break
        assert messages.ended
        assert [message async for message in messages] == []
        await self.assert_released(pair)

    async def test_listeners_have_their_own_channels(self, pair: LayerPair) -> None:
        """Each listener gets a copy; a message to its channel reaches only that one."""
        async with (
            asyncio.timeout(LIMIT),
            pair.layer.listen("group") as one,
            pair.layer.listen("group") as another,
        ):
            await pair.other.group_send("group", FIRST)
            assert [await one.get(), await another.get()] == [FIRST, FIRST]
            await pair.other.send(another.channel_name, SECOND)
            assert await another.get() == SECOND
            assert await one.get(timeout=0) is None

    async def test_waiting_listener_gets_a_message(self, pair: LayerPair) -> None:
        """A message wakes the task that waits for it; a wait can be limited."""
        async with pair.layer.listen("group") as messages:
            assert await messages.get(timeout=0.01) is None
            async with running(messages.get(timeout=LIMIT)) as [getting]:
                with pytest.raises(RuntimeError, match="another task is reading"):
                    await messages.get()
                await pair.other.group_send("group", FIRST)
                assert await getting == FIRST
            async with running(messages.get()) as [getting]:
                await asyncio.sleep(0)
            assert getting.cancelled()
            # A wait that was cancelled has taken no message.
            await pair.other.group_send("group", SECOND)
            assert await messages.get(timeout=LIMIT) == SECOND

    @with_options(capacity=2)
    async def test_listener_is_bounded(self, pair: LayerPair) -> None:
        """Messages for which there is no room are dropped; it gets later ones."""
        async with pair.layer.listen("group") as messages:
            for _ in range(10):
                await pair.other.group_send("group", FIRST)
            await pair.arrival()
            received = [await messages.get(timeout=LIMIT) for _ in range(2)]
            assert received == [FIRST, FIRST]
            await pair.other.group_send("group", SECOND)
            last = await messages.get(timeout=LIMIT)
            # A layer can hand one more over before the others arrive.
            assert last == SECOND or await messages.get(timeout=LIMIT) == SECOND

    async def test_listener_is_released_by_an_exception(self, pair: LayerPair) -> None:
        """The groups are left, and the exception propagates."""
        with pytest.raises(LookupError):
            async with pair.layer.listen("group"):
                raise LookupError
        await self.assert_released(pair)

    async def test_listener_is_released_by_cancelling(self, pair: LayerPair) -> None:
        """A cancelled loop leaves the groups, even if it is cancelled again."""
        generator = listen(pair.layer, "group")
        async with running(anext(generator)) as [waiting]:
            await asyncio.sleep(_PAUSE)
            waiting.cancel()
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        await self.assert_released(pair)

    async def test_listener_is_released_with_its_generator(
        self, pair: LayerPair
    ) -> None:
        """A generator that is dropped while it has more to yield leaves the groups."""
        generator = listen(pair.layer, "group")
        async with running(anext(generator)) as [first]:
            while not first.done():
                await pair.other.group_send("group", FIRST)
                await asyncio.wait([first], timeout=_PAUSE)
            assert await first == FIRST
        del generator, first
        gc.collect()
        await self.assert_released(pair)

    async def test_listener_that_is_dropped_is_released(self, pair: LayerPair) -> None:
        """A block that begins and is forgotten leaves the groups."""
        messages = pair.layer.listen("group")
        await messages.__aenter__()
        del messages
        gc.collect()
        await self.assert_released(pair)

    async def test_invalid_listeners(self, pair: LayerPair) -> None:
        """Mistakes raise at once, and leave nothing behind."""
        with pytest.raises(TypeError, match="at least one group"):
            pair.layer.listen()
        with pytest.raises(TypeError, match="not a group name"):
            await pair.layer.listen("group", "").__aenter__()
        messages = pair.layer.listen("group")
        with pytest.raises(RuntimeError, match="not joined yet"):
            await messages.get()
        async with messages:
            with pytest.raises(RuntimeError, match="call listen"):
                await messages.__aenter__()
        await self.assert_released(pair)

    async def test_closing_the_layer_ends_its_listeners(self, pair: LayerPair) -> None:
        """Loops end without an exception, whether they wait or not."""

        async def count() -> int:
            return len([message async for message in listen(pair.layer, "group")])

        async with pair.layer.listen("group") as idle, running(count()) as [counting]:
            await asyncio.sleep(_PAUSE)
            await pair.layer.close()
            async with asyncio.timeout(LIMIT):
                assert await counting == 0
                assert await idle.get() is None
            assert idle.ended
        # A closed layer can be used again.
        async with pair.layer.listen("group") as messages:
            await pair.other.group_send("group", FIRST)
            assert await messages.get(timeout=LIMIT) == FIRST

    async def test_closed_event_loop_releases_its_listeners(
        self, pair: LayerPair
    ) -> None:
        """A loop over messages ends with its event loop, without an exception."""
        self.require("serves_several_event_loops")

        async def begin() -> None:
            generator = listen(pair.layer, "group")
            async with running(anext(generator)):
                await asyncio.sleep(_PAUSE)
            again = listen(pair.layer, "group")
            abandoned.append(asyncio.ensure_future(anext(again)))
            await asyncio.sleep(_PAUSE)

        abandoned: list[asyncio.Future[dict[str, Any]]] = []
        await asyncio.to_thread(asyncio.run, begin())
        assert abandoned.pop().cancelled()
        await self.assert_released(pair)

    @with_history()
    async def test_listener_resumes(self, pair: LayerPair) -> None:
        """A loop gets what was sent since a position, and then what follows, once."""
        sent = [await self._send(pair, number) for number in range(4)]
        # In the process that sent, and in another one.
        for layer in (pair.layer, pair.other):
            async with (
                asyncio.timeout(LIMIT),
                layer.listen("room.1", "other", since=sent[1]) as messages,
            ):
                assert messages.complete
                assert messages.position == sent[1]
                sent.append(await self._send(pair, len(sent)))
                for number in range(2, len(sent)):
                    assert (await anext(messages))["number"] == number
                    assert messages.position == sent[number]
                assert await messages.get(timeout=0) is None
        async with (
            asyncio.timeout(LIMIT),
            pair.layer.listen("room.1", last=2) as messages,
        ):
            assert messages.position == sent[-3]
            assert [(await anext(messages))["number"] for _ in range(2)] == [4, 5]

    @with_history(History(messages=2))
    async def test_listener_whose_position_is_lost(self, pair: LayerPair) -> None:
        """A loop knows that it has missed messages, and where it begins."""
        sent = [await self._send(pair, number) for number in range(4)]
        async with (
            asyncio.timeout(LIMIT),
            pair.layer.listen("room.1", since=sent[0]) as messages,
        ):
            assert not messages.complete
            assert messages.position == sent[-1]
            await self._send(pair, 4)
            assert (await anext(messages))["number"] == 4

    async def _send(self, pair: LayerPair, number: int) -> str:
        message = {"type": "test.numbered", "number": number}
        position = await pair.other.group_send("room.1", message)
        assert position is not None
        return position
