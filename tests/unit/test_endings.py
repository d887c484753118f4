"""Waits that end when the application shuts down."""

import asyncio
import gc
import threading

from fast_channels.endings import Waiter, end_waits, stopping


async def test_wake_resolves_the_last_sleeper() -> None:
    """A task that waits goes on when it is woken, once for each sleeper."""
    waiter = Waiter()
    waiter.wake()
    sleeper = waiter.sleeper()
    assert not sleeper.done()
    waiter.wake()
    waiter.wake()
    await sleeper
    assert not waiter.over


async def test_end_is_final() -> None:
    """The end wakes the task, from any thread."""
    waiter = Waiter()
    sleeper = waiter.sleeper()
    thread = threading.Thread(target=waiter.end)
    thread.start()
    await sleeper
    thread.join()
    assert waiter.over


async def test_end_waits_only_here() -> None:
    """The waits of this event loop end, and those of others go on."""
    here = Waiter()
    elsewhere: list[Waiter] = []

    async def begin() -> None:
        elsewhere.append(Waiter())

    await asyncio.to_thread(asyncio.run, begin())
    forgotten = Waiter()
    del forgotten
    gc.collect()
    end_waits()
    assert here.over
    assert not elsewhere[0].over


async def test_wait_that_begins_during_the_shutdown_is_over() -> None:
    """A request that is still being served does not begin to wait."""
    before = Waiter()
    with stopping():
        assert before.over
        assert Waiter().over
    assert not Waiter().over
