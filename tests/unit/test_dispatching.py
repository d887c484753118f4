"""Messages from several sources are dispatched one at a time."""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import pytest

from fast_channels.dispatching import DispatchLoop, await_many_dispatch
from fast_channels.exceptions import StopConsumer
from fast_channels.sources import Sources
from fast_channels.type_defs import ChannelMessage
from fast_channels.waking import wake
from tests.waiting import turn

from .dispatch_parts import (
    LAST,
    Box,
    Dispatch,
    Handler,
    nothing,
    others,
    source_of,
)


class Serve(Protocol):
    """Serves messages with the given names from one kind of source."""

    def __call__(
        self, dispatch: Dispatch, *names: str
    ) -> Coroutine[Any, Any, None]: ...


def serve_one_source(dispatch: Dispatch, *names: str) -> Coroutine[Any, Any, None]:
    return DispatchLoop(dispatch).run([source_of(*names)])


def serve_source_beside_others(
    dispatch: Dispatch, *names: str
) -> Coroutine[Any, Any, None]:
    return DispatchLoop(dispatch).run([nothing, source_of(*names)], Box().take)


def serve_mailbox(dispatch: Dispatch, *names: str) -> Coroutine[Any, Any, None]:
    return DispatchLoop(dispatch).run([nothing], Box(names).take)


@pytest.fixture(
    params=[serve_one_source, serve_source_beside_others, serve_mailbox],
    ids=["one source", "source beside others", "mailbox"],
)
def serve(request: pytest.FixtureRequest) -> Serve:
    """Give a test each kind of source of messages."""
    function: Serve = request.param
    return function


# Order


async def test_messages_of_one_source_are_dispatched_in_order(serve: Serve) -> None:
    """Messages of one source are dispatched in the order of arrival."""
    handler = Handler(turns=2)
    with pytest.raises(StopConsumer):
        await serve(handler, "a", "b", "c", LAST)
    assert handler.names == ["a", "b", "c", LAST]


async def test_handlers_run_in_the_task_that_runs_the_loop(serve: Serve) -> None:
    """A context variable set in one handler is visible in the next."""
    variable = contextvars.ContextVar[tuple[str, ...]]("variable", default=())

    async def remember(message: ChannelMessage) -> None:
        variable.set((*variable.get(), message["type"]))
        if message["type"] == LAST:
            raise StopConsumer

    with pytest.raises(StopConsumer):
        await serve(remember, "a", LAST)
    assert variable.get() == ("a", LAST)


async def test_source_and_mailbox_take_turns() -> None:
    """A source and a mailbox that both have messages are served alternately."""
    handler = Handler(turns=3)
    with pytest.raises(StopConsumer):
        await DispatchLoop(handler).run(
            [source_of("a", "a", "a", LAST)], Box(["b", "b", "b"]).take
        )
    # The source is awaited in a task of its own, so the mailbox is first.
    assert handler.names == ["b", "a", "b", "a", "b", "a", LAST]


async def test_several_sources_take_turns() -> None:
    """Several sources that all have messages take turns."""
    handler = Handler(turns=3)
    with pytest.raises(StopConsumer):
        await await_many_dispatch(
            [source_of("a", "a", "a", LAST), source_of("b", "b", "b")], handler
        )
    assert handler.names == ["a", "b", "a", "b", "a", "b", LAST]


# No overlap


async def test_dispatches_never_overlap() -> None:
    """A message is dispatched after the dispatch of the previous one has returned."""
    busy: list[str] = []
    overlaps: list[list[str]] = []
    count = 0

    async def handler(message: ChannelMessage) -> None:
        nonlocal count
        busy.append(message["type"])
        await turn()
        if len(busy) > 1:
            overlaps.append(list(busy))
        busy.pop()
        count += 1
        if count == 9:
            raise StopConsumer

    with pytest.raises(StopConsumer):
        await DispatchLoop(handler).run(
            [source_of("a", "a", "a"), source_of("b", "b", "b")],
            Box(["c", "c", "c"]).take,
        )
    assert overlaps == []


async def test_source_is_not_awaited_while_its_message_is_dispatched() -> None:
    """A source is awaited again only after its last message has been dispatched."""
    awaited = 0
    seen: list[tuple[int, int]] = []

    async def source() -> ChannelMessage:
        nonlocal awaited
        awaited += 1
        return {"type": LAST if awaited == 3 else "a"}

    async def handler(message: ChannelMessage) -> None:
        before = awaited
        await turn()
        seen.append((before, awaited))
        if message["type"] == LAST:
            raise StopConsumer

    with pytest.raises(StopConsumer):
        await DispatchLoop(handler).run([source], Box().take)
    assert seen == [(1, 1), (2, 2), (3, 3)]


async def test_other_sources_are_awaited_while_a_message_is_dispatched() -> None:
    """A waiting handler doesn't prevent other sources from receiving."""
    received = asyncio.Event()

    async def later() -> ChannelMessage:
        if received.is_set():
            return await nothing()
        await turn()
        received.set()
        return {"type": LAST}

    async def handler(message: ChannelMessage) -> None:
        if message["type"] == LAST:
            raise StopConsumer
        await received.wait()

    with pytest.raises(StopConsumer):
        await await_many_dispatch([source_of("a"), later], handler)


async def test_mailbox_keeps_its_messages_during_a_dispatch() -> None:
    """A message is taken from the mailbox right before it is dispatched."""
    messages = Box(["a", "b", LAST])
    left: list[list[str]] = []

    async def handler(message: ChannelMessage) -> None:
        await turn()
        left.append(list(messages))
        if message["type"] == LAST:
            raise StopConsumer

    with pytest.raises(StopConsumer):
        await DispatchLoop(handler).run([nothing], messages.take)
    assert left == [["b", LAST], [LAST], []]


# Exceptions


class Broken(BaseException):
    """An error that is not an ``Exception``."""


ERRORS = [ValueError("broken"), StopConsumer(), Broken(), asyncio.CancelledError()]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_exception_in_a_handler_ends_the_loop(
    serve: Serve, error: BaseException
) -> None:
    """The loop raises a handler's exception, and leaves no task behind."""

    async def handler(message: ChannelMessage) -> None:
        await turn()
        raise error

    with pytest.raises(type(error)) as caught:
        await serve(handler, "a")
    assert caught.value is error
    assert others() == set()


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("count", [1, 2])
async def test_exception_in_a_source_ends_the_loop(
    count: int, error: BaseException
) -> None:
    """The loop raises a source's exception, and cancels the other sources."""

    async def failing() -> ChannelMessage:
        await turn()
        raise error

    sources = [failing, nothing][:count]
    with pytest.raises(type(error)) as caught:
        await await_many_dispatch(sources, Handler())
    assert caught.value is error
    assert others() == set()


async def test_exception_in_take_ends_the_loop() -> None:
    """The loop raises an exception of take(), and leaves no task behind."""

    def take() -> ChannelMessage:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await DispatchLoop(Handler()).run([nothing], take)
    assert others() == set()


async def test_messages_before_an_exception_are_dispatched_first() -> None:
    """Earlier messages are dispatched before the exception of a source is raised."""
    handler = Handler(turns=5)

    async def failing() -> ChannelMessage:
        await turn(2)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await await_many_dispatch([source_of("a", "b"), failing], handler)
    assert handler.names == ["a"]


# Cancellation


async def test_cancelling_an_idle_loop_ends_it(serve: Serve) -> None:
    """Cancelling an idle loop ends the loop and its sources."""
    running = asyncio.create_task(serve(Handler()))
    await turn()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert others() == set()


async def test_cancelling_reaches_the_handler(serve: Serve) -> None:
    """A waiting handler is cancelled, and ends before the loop does."""
    steps: list[str] = []

    async def handler(message: ChannelMessage) -> None:
        try:
            await nothing()
        except asyncio.CancelledError:
            steps.append("cancelled")
            await turn()
            steps.append("ended")
            raise

    running = asyncio.create_task(serve(handler, "a", "b"))
    await turn()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert steps == ["cancelled", "ended"]
    assert others() == set()


async def test_cancelling_again_interrupts_the_end_of_a_handler(serve: Serve) -> None:
    """A handler that waits during its cleanup is cancelled there too."""

    async def handler(message: ChannelMessage) -> None:
        try:
            await nothing()
        finally:
            await nothing()

    running = asyncio.create_task(serve(handler, "a"))
    await turn()
    running.cancel()
    await turn()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert others() == set()


@pytest.mark.parametrize("turns", range(8))
async def test_cancelling_twice_leaves_no_source_behind(turns: int) -> None:
    """The loop ends after its sources, even if it is cancelled twice."""

    async def slow_to_end() -> ChannelMessage:
        try:
            return await nothing()
        finally:
            await turn()

    running = asyncio.create_task(DispatchLoop(Handler()).run([slow_to_end, nothing]))
    await turn()
    running.cancel()
    await turn(turns)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert others() == set()


async def test_cancelling_during_the_end_is_not_swallowed() -> None:
    """A cancellation while the loop waits for its sources is raised."""

    async def slow_to_end() -> ChannelMessage:
        try:
            return await nothing()
        finally:
            await turn()

    waiting = Box()
    loop = DispatchLoop(Handler())
    running = asyncio.create_task(loop.run([slow_to_end], waiting.take))
    await turn()
    waiting.append(LAST)
    loop.wake()
    await turn(2)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert others() == set()


async def test_cancelling_all_tasks_ends_the_loop_of_a_stubborn_handler() -> None:
    """A handler that suppresses a cancellation of all tasks cannot go on."""

    async def stubborn(message: ChannelMessage) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await nothing()

    running = asyncio.create_task(
        DispatchLoop(stubborn).run([source_of("a")], Box().take)
    )
    await turn()
    for task in others():
        task.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert others() == set()


@pytest.mark.parametrize("turns", range(12))
async def test_no_message_is_taken_and_not_dispatched(turns: int) -> None:
    """Wherever the loop is cancelled, each message is either waiting or dispatched."""
    waiting = Box(["a", "b", "c", "d"])
    handler = Handler(turns=2)

    running = asyncio.create_task(
        DispatchLoop(handler).run([source_of("x")], waiting.take)
    )
    await turn(turns)
    running.cancel()
    await asyncio.wait([running])
    handled = [name for name in handler.names if name != "x"]
    assert handled + list(waiting) == ["a", "b", "c", "d"]


async def test_loop_that_is_cancelled_when_just_woken_takes_nothing() -> None:
    """A message that arrives together with the cancellation stays in the mailbox."""
    handler = Handler()
    loop = DispatchLoop(handler)
    waiting = Box()
    running = asyncio.create_task(loop.run([nothing], waiting.take))
    await turn()
    waiting.append("a")
    loop.wake()
    running.cancel()
    await asyncio.wait([running])
    assert list(waiting) == ["a"]
    assert handler.names == []


# Fairness


@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize("take", [None, lambda: {"type": "mailbox"}])
async def test_handlers_that_never_wait_do_not_starve_the_event_loop(
    sources: int, take: Callable[[], ChannelMessage] | None
) -> None:
    """Other tasks run, although there is always a message and no handler waits."""
    count = 0

    async def endless() -> ChannelMessage:
        return {"type": "source"}

    async def handler(message: ChannelMessage) -> None:
        nonlocal count
        count += 1
        assert count < 2000, "no other task had a turn"

    running = asyncio.create_task(DispatchLoop(handler).run([endless] * sources, take))
    await turn(10)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_source_gets_its_turn_though_the_mailbox_is_never_empty() -> None:
    """A source's message is soon dispatched, even if no handler ever waits."""
    count = 0

    async def handler(message: ChannelMessage) -> None:
        nonlocal count
        count += 1
        assert count < 200, "the source had no turn"
        if message["type"] == LAST:
            raise StopConsumer

    with pytest.raises(StopConsumer):
        await DispatchLoop(handler).run([source_of(LAST)], lambda: {"type": "mailbox"})


# Waking


async def test_wake_makes_the_loop_check_the_mailbox() -> None:
    """A message is dispatched once, and only after wake()."""
    handler = Handler()
    loop = DispatchLoop(handler)
    waiting = Box()
    running = asyncio.create_task(loop.run([nothing], waiting.take))
    await turn()
    waiting.append("a")
    await turn()
    assert handler.names == []
    loop.wake()
    loop.wake()
    await turn()
    assert handler.names == ["a"]
    waiting.append(LAST)
    loop.wake()
    with pytest.raises(StopConsumer):
        await running
    assert handler.names == ["a", LAST]


async def test_message_that_arrives_while_the_loop_falls_asleep_is_seen() -> None:
    """A message that arrives between checking the mailbox and sleeping is noticed."""
    handler = Handler()
    loop = DispatchLoop(handler)
    waiting = Box()

    def look() -> ChannelMessage | None:
        message = waiting.take()
        if message is None:
            waiting.append(LAST)
            loop.wake()
        return message

    with pytest.raises(StopConsumer):
        await loop.run([nothing], look)
    assert handler.names == [LAST]


async def test_wake_without_need_does_nothing() -> None:
    """wake() is harmless for a loop that is not running, is idle or has ended."""
    handler = Handler()
    loop = DispatchLoop(handler)
    loop.wake()
    running = asyncio.create_task(loop.run([nothing], Box().take))
    await turn()
    loop.wake()
    await turn()
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    loop.wake()
    assert handler.names == []


def wake_from_an_event_loop(loop: DispatchLoop) -> None:
    """Call wake() in a new event loop."""

    async def main() -> None:
        loop.wake()

    asyncio.run(main())


def wake_directly(loop: DispatchLoop) -> None:
    """Call wake() in a thread without an event loop."""
    loop.wake()


@pytest.mark.parametrize("wake_loop", [wake_directly, wake_from_an_event_loop])
async def test_wake_works_in_any_thread(
    wake_loop: Callable[[DispatchLoop], None],
) -> None:
    """A thread can wake the loop, with or without an event loop of its own."""
    waiting = Box()
    loop = DispatchLoop(Handler())
    running = asyncio.create_task(loop.run([nothing], waiting.take))
    await turn()
    waiting.append(LAST)
    try:
        await asyncio.to_thread(wake_loop, loop)
        with pytest.raises(StopConsumer):
            await running
    finally:
        running.cancel()


async def test_wake_tolerates_a_loop_that_wakes_up_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop can remove its sleeper while another thread is in wake()."""
    sleeper = asyncio.get_running_loop().create_future()
    reads = [sleeper, None]
    changes = property(lambda _: reads.pop(0), lambda _, value: None)
    monkeypatch.setattr(Sources, "sleeper", changes)
    loop = DispatchLoop(Handler())
    loop.wake()
    assert sleeper.done()


async def test_waking_twice_is_waking_once() -> None:
    """Waking a sleeper again, or one whose task was cancelled, is harmless."""
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    wake(woken)
    wake(woken)
    assert woken.result() is None
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    wake(cancelled)
    assert cancelled.cancelled()


async def test_sleeper_of_a_closed_event_loop_is_left_alone() -> None:
    """Waking a task whose event loop is closed does nothing."""
    closed = asyncio.new_event_loop()
    sleeper: asyncio.Future[None] = closed.create_future()
    closed.close()
    wake(sleeper)
    assert not sleeper.done()


# Numbers of sources


async def test_mailbox_needs_no_source() -> None:
    """A loop can serve a mailbox without any source."""
    handler = Handler()
    with pytest.raises(StopConsumer):
        await DispatchLoop(handler).run([], Box(["a", LAST]).take)
    assert handler.names == ["a", LAST]


async def test_await_many_dispatch_serves_one_callable() -> None:
    """await_many_dispatch() with a single callable dispatches its messages."""
    handler = Handler()
    with pytest.raises(StopConsumer):
        await await_many_dispatch([source_of("a", LAST)], handler)
    assert handler.names == ["a", LAST]


async def test_await_many_dispatch_without_callables_waits_to_be_cancelled() -> None:
    """await_many_dispatch() without a callable waits until it is cancelled."""
    running = asyncio.create_task(await_many_dispatch([], Handler()))
    await turn()
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
