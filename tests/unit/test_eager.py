"""Handlers that begin while their task is asleep behave as if inside it."""

import asyncio
import contextvars
import functools
import gc
import itertools
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fast_channels.dispatching import DispatchLoop
from fast_channels.eager import FirstSteps
from fast_channels.sources import RUN
from fast_channels.type_defs import ChannelMessage
from tests.waiting import turn, until

color: contextvars.ContextVar[str] = contextvars.ContextVar("color")


class Consumer:
    """A sleeping loop in its own task, with a mailbox of handlers to call."""

    def __init__(self) -> None:
        self.box: list[Callable[[], Any]] = []
        self.ended: asyncio.Task[None] | None = None
        self.worker: asyncio.Task[Any] | None = None
        self.loop = DispatchLoop(self._dispatch)
        self.source: asyncio.Queue[ChannelMessage] = asyncio.Queue()

    def start(self) -> None:
        """Start the loop, which soon falls asleep."""

        async def work() -> None:
            self.worker = asyncio.current_task()
            await self.loop.run([], self._take)

        self.ended = asyncio.create_task(self.loop.listen(self.source.get, work()))

    def call(self, handler: Callable[[], Any]) -> None:
        """Put a handler into the mailbox."""
        self.box.append(handler)
        self.loop.wake()

    async def do(self, handler: Callable[[], Any]) -> None:
        """Put a handler into the mailbox, and give it time to end."""
        self.call(handler)
        await turn()

    async def stop(self) -> None:
        """Cancel the loop."""
        assert self.ended is not None
        self.ended.cancel()
        await asyncio.wait([self.ended])

    async def end(self) -> None:
        """Wait until the loop has ended, and raise its exception."""
        assert self.ended is not None
        async with asyncio.timeout(5):
            await self.ended

    def _take(self) -> ChannelMessage | None:
        return {"type": "call", "handler": self.box.pop(0)} if self.box else None

    def _dispatch(self, message: ChannelMessage) -> Awaitable[None]:
        called: Awaitable[None] = message["handler"]()
        return called


@pytest.fixture
async def consumer() -> AsyncIterator[Consumer]:
    """Give a test a sleeping consumer."""
    consumer = Consumer()
    consumer.start()
    await turn()
    yield consumer
    await consumer.stop()


async def test_a_handler_is_in_its_task(consumer: Consumer) -> None:
    """current_task() in a handler is the consumer's task, before and after a wait."""
    seen: list[asyncio.Task[Any] | None] = []

    async def handler() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    async def quick() -> None:
        seen.append(asyncio.current_task())

    await consumer.do(handler)
    await consumer.do(quick)
    assert seen == [consumer.worker] * 3


async def test_handlers_share_a_context(consumer: Consumer) -> None:
    """A context variable set in one handler is visible in the others only."""
    seen: list[str] = []

    async def set_at_once() -> None:
        color.set("red")

    async def set_later() -> None:
        seen.append(color.get())
        await asyncio.sleep(0)
        seen.append(color.get())
        color.set("blue")

    async def look() -> None:
        seen.append(color.get())

    for handler in (set_at_once, set_later, look):
        await consumer.do(handler)
    assert seen == ["red", "red", "blue"]
    assert color.get("none") == "none"


async def test_handlers_that_wait_do_not_overlap(consumer: Consumer) -> None:
    """Messages that arrive while a handler waits are dispatched after it."""
    events: list[str] = []
    going_on = asyncio.Event()

    async def slow() -> None:
        events.append("slow")
        await going_on.wait()
        await asyncio.sleep(0)
        events.append("slow has ended")

    async def next_one() -> None:
        events.append("next")

    consumer.call(slow)
    consumer.call(next_one)
    await turn()
    await consumer.do(next_one)
    assert events == ["slow"]
    going_on.set()
    await turn()
    assert events == ["slow", "slow has ended", "next", "next"]


async def test_results_and_exceptions_reach_a_handler(consumer: Consumer) -> None:
    """Awaiting in a handler gives results and exceptions as in any task."""
    results: list[object] = []
    loop = asyncio.get_running_loop()
    good, bad = loop.create_future(), loop.create_future()

    async def handler() -> None:
        results.append(await good)
        try:
            await bad
        except ValueError as exc:
            results.append(str(exc))
        results.append(await asyncio.gather(*[asyncio.sleep(0, n) for n in range(3)]))

    consumer.call(handler)
    await turn()
    good.set_result("good")
    bad.set_exception(ValueError("bad"))
    await turn()
    assert results == ["good", "bad", [0, 1, 2]]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_exception_ends_the_consumer(
    consumer: Consumer, at_once: bool, error: type[BaseException]
) -> None:
    """A handler's exception ends the consumer, whether it has waited before or not."""

    async def handler() -> None:
        if not at_once:
            await asyncio.sleep(0)
        raise error

    consumer.call(handler)
    with pytest.raises(error):
        await consumer.end()


async def test_timeouts(consumer: Consumer) -> None:
    """asyncio.timeout() in a handler cancels what the handler awaits."""
    outcomes: list[object] = []

    async def handler() -> None:
        for seconds in (0, 0.001):
            inner = asyncio.create_task(asyncio.sleep(60))
            try:
                async with asyncio.timeout(seconds):
                    await inner
            except TimeoutError:
                outcomes.append(inner.cancelled())
        task = asyncio.current_task()
        assert task is not None
        outcomes.append(task.cancelling())
        done.set()

    done = asyncio.Event()
    consumer.call(handler)
    async with asyncio.timeout(5):
        await done.wait()
    assert outcomes == [True, True, 0]


@pytest.mark.parametrize("wait_for_child", [True, False])
@pytest.mark.parametrize("turns_before", range(5))
async def test_cancelling_reaches_the_handler(
    consumer: Consumer, turns_before: int, wait_for_child: bool
) -> None:
    """At any step, cancelling the consumer cancels the handler where it waits."""
    events: list[object] = []

    async def handler() -> None:
        child = asyncio.create_task(asyncio.sleep(60))
        try:
            if wait_for_child:
                await child
            else:
                while True:  # noqa: ASYNC110 # it waits for no future
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            events.append("cancelled")
            events.append(child.cancelled())
            child.cancel()
            raise

    consumer.call(handler)
    # The handler has begun; its task may be awake or not.
    await asyncio.sleep(0)
    await turn(turns_before)
    assert consumer.worker is not None
    consumer.worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer.end()
    assert events == ["cancelled", wait_for_child]


async def test_handler_that_goes_on_though_cancelled(consumer: Consumer) -> None:
    """A handler can catch a cancellation that comes before its task is awake."""
    events: list[str] = []

    async def handler() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            events.append("caught")

    async def next_one() -> None:
        events.append("next")

    assert consumer.worker is not None
    consumer.call(handler)
    asyncio.get_running_loop().call_soon(consumer.worker.cancel)
    await turn()
    await consumer.do(next_one)
    assert events == ["caught", "next"]


@pytest.mark.parametrize("then", ["end", "wait", "raise"])
async def test_handler_that_cancels_its_own_task(consumer: Consumer, then: str) -> None:
    """A handler that cancels its own task runs until it waits, and is the last one."""
    events: list[str] = []

    async def handler() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        events.append("still here")
        if then == "raise":
            raise ValueError
        if then == "wait":
            await asyncio.sleep(0)
            events.append("not here")

    consumer.call(handler)
    consumer.call(handler)
    error = ValueError if then == "raise" else asyncio.CancelledError
    with pytest.raises(error):
        await consumer.end()
    assert events == ["still here"]


async def test_handler_that_is_not_a_coroutine(consumer: Consumer) -> None:
    """Any awaitable is awaited; anything else raises the error of ``await``."""
    future = asyncio.get_running_loop().create_future()
    waited: list[object] = []

    class Awaitable:
        def __await__(self) -> Any:
            waited.append((yield from future.__await__()))

    await consumer.do(Awaitable)
    future.set_result("result")
    await turn()
    assert waited == ["result"]
    consumer.call(lambda: None)
    with pytest.raises(TypeError, match="await"):
        await consumer.end()


async def test_frame_and_message_at_once(consumer: Consumer) -> None:
    """A frame and a message that arrive at once are both dispatched, every time."""
    events: list[str] = []

    async def handler() -> None:
        events.append("message")

    async def frame() -> None:
        events.append("frame")

    consumer.call(handler)
    consumer.source.put_nowait({"type": "frame", "handler": frame})
    await turn()
    assert sorted(events) == ["frame", "message"]
    consumer.source.put_nowait({"type": "frame", "handler": frame})
    await asyncio.sleep(0)
    consumer.call(handler)
    await turn()
    assert sorted(events) == ["frame"] * 2 + ["message"] * 2


async def test_frame_that_comes_during_a_handler(consumer: Consumer) -> None:
    """A frame gets its turn although the mailbox is never empty."""
    events: list[str] = []

    async def handler() -> None:
        if "frame" not in events:
            consumer.call(handler)

    async def frame() -> None:
        events.append("frame")

    consumer.call(handler)
    await turn()
    consumer.source.put_nowait({"type": "frame", "handler": frame})
    async with asyncio.timeout(5):
        while not events:  # noqa: ASYNC110 # the subject of the test
            await asyncio.sleep(0)


async def test_messages_from_another_thread(consumer: Consumer) -> None:
    """Messages from a thread wake the task, even if a step is already scheduled."""
    events: list[str] = []

    async def handler() -> None:
        events.append("message")

    def send() -> None:
        for _ in range(100):
            consumer.call(handler)

    thread = threading.Thread(target=send)
    thread.start()
    for _ in range(100):
        await consumer.do(handler)
    await asyncio.to_thread(thread.join)
    await turn()
    assert len(events) == 200


@pytest.mark.parametrize("count", [3, 3 * RUN])
async def test_many_messages_at_once(consumer: Consumer, count: int) -> None:
    """Many messages are handled in order, and other tasks run in between."""
    handled: list[int] = []

    async def handler(number: int) -> None:
        handled.append(number)

    for number in range(count):
        consumer.call(functools.partial(handler, number))
    seen: list[int] = []
    async with asyncio.timeout(5):
        while len(handled) < count:
            await asyncio.sleep(0)
            seen.append(len(handled))
    assert handled == list(range(count))
    assert max(b - a for a, b in zip([0, *seen], seen, strict=False)) <= RUN


async def test_handler_that_sends_to_itself(consumer: Consumer) -> None:
    """A message that arrives during a handler is dispatched after it, endlessly."""
    handled = 0

    async def handler() -> None:
        nonlocal handled
        handled += 1
        if handled < 100:
            consumer.call(handler)
            consumer.call(nothing)

    async def nothing() -> None:
        pass

    consumer.call(handler)
    async with asyncio.timeout(5):
        while handled < 100 or consumer.box:  # noqa: ASYNC110 # the subject of the test
            await asyncio.sleep(0)


async def test_message_that_another_reader_takes(consumer: Consumer) -> None:
    """A consumer stays asleep if the message that came for it is taken."""
    events: list[str] = []

    async def handler() -> None:
        events.append("message")

    consumer.call(handler)
    consumer.box.clear()
    await turn()
    assert not events
    await consumer.do(handler)
    assert events == ["message"]


async def test_many_consumers_let_other_tasks_run() -> None:
    """A group of thousands doesn't block the event loop until all have handled."""
    handled = 0

    async def handler() -> None:
        nonlocal handled
        handled += 1

    consumers = [Consumer() for _ in range(3 * RUN)]
    for consumer in consumers:
        consumer.start()
    await turn()
    for consumer in consumers:
        consumer.call(handler)
    seen: list[int] = []
    while handled < len(consumers):
        await asyncio.sleep(0)
        seen.append(handled)
    assert len(seen) >= 3
    assert max(b - a for a, b in zip([0, *seen], seen, strict=False)) <= RUN
    for consumer in consumers:
        await consumer.stop()


async def test_event_loop_that_runs_inside_of_a_task(consumer: Consumer) -> None:
    """While another task is running, no handler begins; the task runs them later."""
    seen: list[asyncio.Task[Any] | None] = []

    async def handler() -> None:
        seen.append(asyncio.current_task())

    consumer.box.append(handler)
    eager = consumer.loop._eager  # pyright: ignore[reportPrivateUsage] # no public code calls it there
    assert eager is not None
    eager.step()
    assert not seen
    await turn()
    assert seen == [consumer.worker]


async def test_anyio(consumer: Consumer) -> None:
    """AnyIO's state of the task is valid from the first step on."""
    outcomes: list[object] = []

    async def handler() -> None:
        for seconds in (0, 0.001):
            with anyio.move_on_after(seconds) as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep_forever)
                    await anyio.sleep_forever()
            outcomes.append(scope.cancelled_caught)
        outcomes.append(await anyio.to_thread.run_sync(str, 1))
        done.set()

    done = asyncio.Event()
    consumer.call(handler)
    async with asyncio.timeout(5):
        await done.wait()
    assert outcomes == [True, True, "1"]


async def test_task_factory() -> None:
    """With another class of tasks, each task makes all of its steps itself."""

    class OwnTask(asyncio.Task[Any]):
        pass

    async def handler() -> None:
        seen.append(asyncio.current_task())

    seen: list[asyncio.Task[Any] | None] = []
    loop = asyncio.get_running_loop()

    def make_task(loop: Any, coroutine: Any, context: None = None) -> OwnTask:
        # asyncio omits a context of None, as older factories don't accept it.
        assert context is None
        return OwnTask(coroutine, loop=loop)

    loop.set_task_factory(make_task)
    consumer = Consumer()
    consumer.start()
    await turn()
    await consumer.do(handler)
    assert seen == [consumer.worker]
    assert isinstance(consumer.worker, OwnTask)
    await consumer.stop()
    loop.set_task_factory(None)


def test_event_loops_are_not_kept() -> None:
    """Each event loop has its own steps, which are released with it."""

    async def find() -> FirstSteps:
        first_steps = FirstSteps.here()
        assert FirstSteps.here() is first_steps
        return first_steps

    first = asyncio.run(find())
    second = asyncio.run(find())
    assert first.loop is not second.loop
    kept = weakref.ref(first)
    del first
    gc.collect()
    assert kept() is None


# Frames of the client


async def test_frames_are_handled_without_waking_the_task(consumer: Consumer) -> None:
    """A frame's handler is in the consumer's task and context, which stays asleep."""
    seen: list[object] = []

    async def handler() -> None:
        seen.append(asyncio.current_task())
        color.set("red")

    async def message() -> None:
        seen.append(color.get())

    consumer.source.put_nowait({"type": "frame", "handler": handler})
    await turn()
    await consumer.do(message)
    assert seen == [consumer.worker, "red"]
    assert asyncio.current_task() is not consumer.worker


async def test_frames_and_messages_do_not_overlap(consumer: Consumer) -> None:
    """While the handler of a frame waits, other frames and messages do too."""
    events: list[str] = []
    going_on = asyncio.Event()

    async def slow() -> None:
        events.append("slow")
        await going_on.wait()
        events.append("slow has ended")

    async def quick() -> None:
        events.append("quick")

    consumer.source.put_nowait({"type": "frame", "handler": slow})
    consumer.source.put_nowait({"type": "frame", "handler": quick})
    await turn()
    await consumer.do(quick)
    assert events == ["slow"]
    going_on.set()
    await turn()
    assert events == ["slow", "slow has ended", "quick", "quick"]


@pytest.mark.parametrize("at_once", [True, False])
async def test_exception_of_a_frame_ends_the_consumer(
    consumer: Consumer, at_once: bool
) -> None:
    """An exception in the handler of a frame ends the consumer."""

    async def handler() -> None:
        if not at_once:
            await asyncio.sleep(0)
        raise ValueError("wrong")

    consumer.source.put_nowait({"type": "frame", "handler": handler})
    with pytest.raises(ValueError, match="wrong"):
        await consumer.end()


async def test_frames_that_never_wait_give_others_a_turn(consumer: Consumer) -> None:
    """Other tasks run after at most RUN frames whose handlers never wait."""
    count = 3 * RUN
    handled = 0

    async def handler() -> None:
        nonlocal handled
        handled += 1

    for _ in range(count):
        consumer.source.put_nowait({"type": "frame", "handler": handler})
    seen = [0]
    while handled < count:
        await asyncio.sleep(0)
        seen.append(handled)
    assert max(b - a for a, b in itertools.pairwise(seen)) <= RUN


@pytest.mark.parametrize("turns_before", range(4))
async def test_cancelling_reaches_the_handler_of_a_frame(
    consumer: Consumer, turns_before: int
) -> None:
    """At any step, cancelling the consumer cancels the handler where it waits."""
    events: list[str] = []

    async def handler() -> None:
        events.append("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    consumer.source.put_nowait({"type": "frame", "handler": handler})
    await until(lambda: events)
    await turn(turns_before)
    await consumer.stop()
    assert events == ["begun", "cancelled"]


async def test_awaitable_for_a_frame(consumer: Consumer) -> None:
    """The handler of a frame can return any awaitable."""
    future = asyncio.get_running_loop().create_future()
    consumer.source.put_nowait({"type": "frame", "handler": lambda: future})
    await turn()
    future.set_result(None)
    await turn()
    assert consumer.ended is not None
    assert not consumer.ended.done()
