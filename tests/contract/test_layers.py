"""What every layer promises about itself: flushing, closing, event loops, threads."""

import asyncio
import contextlib
import threading

import pytest
from asgiref.sync import async_to_sync

from fast_channels.layers import BaseChannelLayer

from .backends import LIMIT, Backend, Pair

BEFORE = {"type": "test.before"}
AFTER = {"type": "test.after"}


async def test_flush_drops_messages_and_groups(backend: Backend, pair: Pair) -> None:
    """Nothing that was sent or joined before a flush has any effect after it."""
    channel = await pair.layer.new_channel()
    await pair.layer.group_add("group", channel)
    await pair.other.send(channel, BEFORE)
    if not backend.keeps_messages_for_later_receivers:
        # It is somewhere between the two.
        async with asyncio.timeout(LIMIT):
            while not backend.held_by(pair.layer)["waiting"]:  # noqa: ASYNC110 # nothing tells
                await asyncio.sleep(0.001)
    await pair.layer.flush()
    await pair.other.group_send("group", BEFORE)
    received = await pair.next_after(pair.other.send, channel, AFTER, channel)
    assert received == AFTER


async def test_flush_leaves_receivers_waiting(pair: Pair) -> None:
    """A receiver that waits during a flush gets the next message."""
    channel = await pair.layer.new_channel()
    receiving = asyncio.create_task(pair.layer.receive(channel))
    await asyncio.sleep(0)
    await pair.layer.flush()
    await pair.other.send(channel, AFTER)
    async with asyncio.timeout(LIMIT):
        assert await receiving == AFTER


async def test_flush_empties_a_layer(backend: Backend, pair: Pair) -> None:
    """A layer without receivers holds nothing after a flush."""
    channel = await pair.layer.new_channel()
    await pair.layer.group_add("group", channel)
    await pair.other.send(channel, BEFORE)
    await pair.layer.flush()
    await pair.layer.flush()
    assert not any(backend.held_by(pair.layer).values())


async def test_closed_layer_can_be_used_again(backend: Backend, pair: Pair) -> None:
    """close() releases everything, may be repeated, and ends nothing for ever."""
    layer = pair.layer
    for _ in range(2):
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        await layer.group_send("group", AFTER)
        assert await pair.rest(channel) == [AFTER]
        await layer.close()
        await layer.close()
        assert not any(backend.held_by(layer).values())


async def test_closing_that_is_cancelled(backend: Backend, pair: Pair) -> None:
    """Whenever close() is cancelled, the layer closes all the same."""
    layer = pair.layer
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
        while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 # they end by themselves
            await asyncio.sleep(0.001)
    assert not any(backend.held_by(layer).values())


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
async def test_leaving_the_context_of_a_layer_closes_it(
    backend: Backend, pair: Pair, error: type[Exception] | None
) -> None:
    """``async with`` releases everything, however the block ends."""
    with contextlib.suppress(ZeroDivisionError):
        async with pair.layer as layer:
            assert layer is pair.layer
            await layer.group_add("group", await layer.new_channel())
            if error is not None:
                raise error
    assert not any(backend.held_by(pair.layer).values())


async def test_layer_does_what_its_extensions_say(layer: BaseChannelLayer) -> None:
    """Every layer has groups, and can be flushed."""
    assert {"groups", "flush"} <= set(layer.extensions)


async def test_repr_is_a_report_in_one_line(layer: BaseChannelLayer) -> None:
    """The repr of a layer names its class and says what the layer holds."""
    report = repr(layer)
    assert report.startswith(f"<{type(layer).__name__} [")
    assert report.endswith("]>")
    assert "\n" not in report


async def test_event_loops_use_a_layer_one_after_the_other(pair: Pair) -> None:
    """A layer that was used in one event loop works in the next."""

    async def use(group: str) -> None:
        channel = await pair.layer.new_channel()
        await pair.layer.group_add(group, channel)
        async with asyncio.timeout(LIMIT):
            await pair.other.group_send(group, BEFORE)
            assert await pair.layer.receive(channel) == BEFORE
            await pair.other.send(channel, AFTER)
            assert await pair.layer.receive(channel) == AFTER
        await pair.layer.group_discard(group, channel)

    await use("group")
    for number in range(3):
        await asyncio.to_thread(asyncio.run, use(f"group-{number}"))
    await use("group")


async def test_event_loops_use_a_layer_at_once(pair: Pair) -> None:
    """Members of a group in several threads get every message of all of them."""
    threads, count = 4, 20
    everybody_joined = threading.Barrier(threads, timeout=LIMIT)

    async def use(thread: int) -> None:
        channel = await pair.layer.new_channel()
        await pair.layer.group_add("group", channel)
        await asyncio.to_thread(everybody_joined.wait)
        sent = [{"type": "a", "from": thread, "number": n} for n in range(count)]
        for message in sent:
            await pair.other.group_send("group", message)
        async with asyncio.timeout(LIMIT):
            received = [
                await pair.layer.receive(channel) for _ in range(threads * count)
            ]
        for sender in range(threads):
            numbers = [one["number"] for one in received if one["from"] == sender]
            assert numbers == list(range(count))
        await pair.layer.group_discard("group", channel)

    runs = [asyncio.to_thread(asyncio.run, use(thread)) for thread in range(threads)]
    await asyncio.gather(*runs)


async def test_thread_without_an_event_loop_sends(pair: Pair) -> None:
    """What async_to_sync() sends from a thread reaches a receiver that waits."""
    channel = await pair.layer.new_channel()
    await pair.layer.group_add("group", channel)
    receiving = asyncio.create_task(pair.layer.receive(channel))
    await asyncio.sleep(0)

    def send() -> None:
        async_to_sync(pair.other.send)(channel, BEFORE)
        for _ in range(30):
            async_to_sync(pair.other.group_send)("group", AFTER)

    await asyncio.to_thread(send)
    async with asyncio.timeout(LIMIT):
        first = await receiving
    received = [first, *await pair.rest(channel)]
    # Several hosts may deliver what they carry in another order.
    assert sorted(received, key=str) == [*[AFTER] * 30, BEFORE]
