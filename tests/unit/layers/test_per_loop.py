"""A state for each event loop, which ends with it."""

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import pytest
import uvloop
from asgiref.sync import async_to_sync

from fast_channels import forks
from fast_channels.layers.per_loop import LoopStopped, PerLoop, in_loop

Main: TypeAlias = Callable[[], Coroutine[Any, Any, "State"]]


class State:
    """Records the loops in which it was created and closed."""

    def __init__(self) -> None:
        self.made_in = asyncio.get_running_loop()
        self.closed_in: asyncio.AbstractEventLoop | None = None
        self.closed = threading.Event()

    async def close(self) -> None:
        # Closing a connection takes a few turns of the loop.
        await asyncio.sleep(0)
        assert self.closed_in is None, "the state was closed twice"
        self.closed_in = asyncio.get_running_loop()
        self.closed.set()


class States(PerLoop[State]):
    def __init__(self) -> None:
        super().__init__(State, State.close)


def runner_run(main: Main) -> State:
    with asyncio.Runner() as runner:
        first = runner.run(main())
        assert first.closed_in is None
        assert runner.run(main()) is first
        return first


def in_thread(function: Callable[[], State]) -> State:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


WAYS: dict[str, Callable[[Main], State]] = {
    "run": lambda main: asyncio.run(main()),
    "Runner": runner_run,
    "uvloop": lambda main: uvloop.run(main()),
    "async_to_sync": lambda main: async_to_sync(main)(),
}


@pytest.fixture
async def states() -> AsyncIterator[States]:
    states = States()
    yield states
    await states.close()
    assert states.peek() == []


async def test_created_once(states: States) -> None:
    """A loop has one state, which is created on first use."""
    assert states.peek() == []
    first = states.get()
    assert states.get() is first
    assert states.peek() == [first]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_closed_with_loop(way: Callable[[Main], State]) -> None:
    """When a loop shuts down properly, its state is closed in it and dropped."""
    states = States()

    async def main() -> State:
        state = states.get()
        await asyncio.sleep(0)
        return state

    ended: list[State] = []
    for _ in range(3):
        state = in_thread(lambda: way(main))
        assert state.closed_in is state.made_in
        assert state not in ended
        assert states.peek() == []
        ended.append(state)


async def test_bare_close(states: States) -> None:
    """The state of a loop that was only closed is dropped by the next loop."""

    async def main() -> State:
        return states.get()

    def bare() -> State:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(main())
        finally:
            loop.close()

    left = weakref.ref(in_thread(bare))
    gc.collect()
    assert left() is not None
    assert states.peek() == []
    next_ = states.get()
    gc.collect()
    assert left() is None
    assert states.peek() == [next_]


async def test_bare_close_and_close(states: States) -> None:
    """The state of a closed loop does not prevent closing the others."""
    here = states.get()
    loop = asyncio.new_event_loop()

    async def main() -> State:
        return states.get()

    left = await asyncio.to_thread(loop.run_until_complete, main())
    assert set(states.peek()) == {here, left}
    loop.close()
    assert states.peek() == [here]
    await states.close()
    assert here.closed_in is here.made_in
    assert left.closed_in is None


class Thread:
    """A thread with its own loop, which has a state as long as it runs."""

    def __init__(self, states: States) -> None:
        self.states = states
        self.ready = threading.Event()
        self.seen: list[State] = []
        self.thread = threading.Thread(target=lambda: asyncio.run(self.main()))
        self.thread.start()

    async def main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.done = asyncio.Event()
        self.get()
        self.ready.set()
        await self.done.wait()

    def get(self) -> None:
        self.seen.append(self.states.get())

    def get_soon(self) -> None:
        """Use the state in the thread, and wait until that is done."""
        asked = threading.Event()

        def get() -> None:
            self.get()
            asked.set()

        self.loop.call_soon_threadsafe(get)
        assert asked.wait(5)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.done.set)
        self.thread.join(5)
        assert not self.thread.is_alive()


def started(states: States) -> Thread:
    thread = Thread(states)
    assert thread.ready.wait(5)
    return thread


async def test_loops_at_once(states: States) -> None:
    """Loops that run at once each have a state, and end one by one."""
    here = states.get()
    threads = [await asyncio.to_thread(started, states) for _ in range(2)]
    there = [thread.seen[0] for thread in threads]
    assert len({here, *there}) == 3
    assert set(states.peek()) == {here, *there}
    await asyncio.to_thread(threads[0].end)
    assert there[0].closed_in is there[0].made_in
    assert set(states.peek()) == {here, there[1]}
    await asyncio.to_thread(threads[1].end)
    assert states.peek() == [here]


async def test_close_all(states: States) -> None:
    """close() closes every state in its own loop; the loops can get new ones."""
    thread = await asyncio.to_thread(started, states)
    here = states.get()
    await states.close()
    assert here.closed_in is here.made_in
    there = thread.seen[0]
    assert await asyncio.to_thread(there.closed.wait, 5)
    assert there.closed_in is there.made_in
    assert states.peek() == []
    await asyncio.to_thread(thread.get_soon)
    again = states.get()
    assert again is not here
    assert thread.seen[1] is not there
    assert set(states.peek()) == {again, thread.seen[1]}
    await asyncio.to_thread(thread.end)
    assert thread.seen[1].closed_in is thread.loop
    assert states.peek() == [again]


async def test_used_again_before_closed(states: States) -> None:
    """A loop whose old state is still closing gets a new one, and keeps it."""
    thread = await asyncio.to_thread(started, states)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        # The loop runs the request of close() only after this.
        held.set()
        assert go_on.wait(5)
        thread.get()

    thread.loop.call_soon_threadsafe(hold)
    assert await asyncio.to_thread(held.wait, 5)
    await states.close()
    go_on.set()
    old = thread.seen[0]
    assert await asyncio.to_thread(old.closed.wait, 5)
    await asyncio.to_thread(thread.get_soon)
    _, new, later = thread.seen
    assert new is later
    assert new is not old
    assert new.closed_in is None
    await asyncio.to_thread(thread.end)
    assert new.closed_in is thread.loop


class Idle:
    """An open loop that runs only now and then."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run an awaitable, and everything that was scheduled before it."""
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(self.loop.run_until_complete, main).result(5)


@pytest.fixture
def idle() -> Iterator[Idle]:
    idle = Idle()
    yield idle
    idle.loop.close()


async def test_in_loop() -> None:
    """in_loop() runs a coroutine in another event loop."""
    here = asyncio.get_running_loop()
    done_in: list[asyncio.AbstractEventLoop] = []

    async def change(name: str) -> None:
        assert name == "change"
        done_in.append(asyncio.get_running_loop())

    await in_loop(here, change, "change")
    elsewhere = in_loop(here, change, "change")
    await asyncio.to_thread(asyncio.run, elsewhere)
    assert done_in == [here, here]


async def test_in_loop_that_does_not_run(idle: Idle) -> None:
    """in_loop() doesn't wait for a stopped loop, which does the work later."""
    done: list[str] = []

    async def change(name: str) -> None:
        await asyncio.sleep(0)
        done.append(name)

    with pytest.raises(LoopStopped, match=r"^the event loop <.*> does not run$"):
        await in_loop(idle.loop, change, "later")
    assert done == []
    await asyncio.to_thread(idle.run, asyncio.sleep(0.01))
    assert done == ["later"]
    idle.loop.close()
    with pytest.raises(LoopStopped, match=r" does not run$"):
        await in_loop(idle.loop, change, "never")
    assert done == ["later"]


async def test_in_loop_that_stops(idle: Idle) -> None:
    """in_loop() doesn't wait for a loop that stops in the middle."""
    done = threading.Event()

    async def change() -> None:
        idle.loop.stop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done.set()

    running = threading.Thread(target=idle.loop.run_forever)
    started = threading.Event()
    idle.loop.call_soon(started.set)
    running.start()
    await asyncio.to_thread(started.wait, 5)
    with pytest.raises(LoopStopped, match=r" has stopped$"):
        await in_loop(idle.loop, change, interval=0.01)
    await asyncio.to_thread(running.join)
    assert not done.is_set()
    # The work continues with the loop.
    await asyncio.to_thread(idle.run, asyncio.to_thread(done.wait, 5))
    assert done.is_set()


async def test_in_loop_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """in_loop() waits for a running loop, however long the work takes."""
    here = asyncio.get_running_loop()
    checks = 0
    done = asyncio.Event()

    async def change() -> None:
        await done.wait()

    async def main() -> None:
        wait = asyncio.wait

        async def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal checks
            checks += 1
            if checks == 3:
                here.call_soon_threadsafe(done.set)
            return await wait(*args, **kwargs)

        monkeypatch.setattr(asyncio, "wait", counted)
        await in_loop(here, change, interval=0)

    await asyncio.to_thread(asyncio.run, main())
    assert checks >= 3


async def test_cancelling_in_loop() -> None:
    """Cancelling the caller cancels its work in the other loop."""
    here = asyncio.get_running_loop()
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def change() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def main() -> None:
        asking = asyncio.create_task(in_loop(here, change, interval=0))
        asyncio.run_coroutine_threadsafe(started.wait(), here).add_done_callback(
            lambda _: there.call_soon_threadsafe(asking.cancel)
        )
        there = asyncio.get_running_loop()
        with pytest.raises(asyncio.CancelledError):
            await asking

    await asyncio.to_thread(asyncio.run, main())
    await cancelled.wait()


async def test_fork(states: States, idle: Idle) -> None:
    """A forked process starts without state, and never closes its parent's."""
    parent = states.get()

    async def get() -> State:
        return states.get()

    other = await asyncio.to_thread(idle.run, get())
    # The child's part of a fork, in this process.
    forks._begin()  # pyright: ignore[reportPrivateUsage] # there is no public way
    assert states.peek() == []
    assert states.here() is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        child = states.get()
        assert child is not parent
        await asyncio.to_thread(idle.run, idle.loop.shutdown_asyncgens())
        await states.close()
        assert child.closed_in is child.made_in
    assert other.closed_in is None
    assert parent.closed_in is None
