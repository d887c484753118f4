"""Sources are awaited: in the task that listens, and until a last event."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import pytest

from fast_channels.dispatching import DispatchLoop
from fast_channels.exceptions import StopConsumer
from fast_channels.type_defs import ChannelMessage
from tests.waiting import turn, until

from .dispatch_parts import LAST, Box, Handler, nothing, others, source_of

# Listening in one task, working in another


async def listen(
    loop: DispatchLoop,
    source: Callable[[], Awaitable[ChannelMessage]],
    *,
    take: Callable[[], ChannelMessage | None] | None = None,
) -> None:
    """Run a loop in another task, and listen to a source in this one."""

    async def work() -> None:
        await loop.run([], take or Box().take)

    await loop.listen(source, work())


async def test_messages_are_dispatched_in_another_task() -> None:
    """One task receives messages, and another one dispatches them in order."""
    tasks: list[asyncio.Task[Any] | None] = []
    handler = Handler(turns=2)

    async def dispatch(message: ChannelMessage) -> None:
        tasks.append(asyncio.current_task())
        await handler(message)

    with pytest.raises(StopConsumer):
        await listen(DispatchLoop(dispatch), source_of("a", LAST))
    assert handler.names == ["a", LAST]
    assert len({*tasks, asyncio.current_task()}) == 2
    assert others() == set()


async def test_nothing_is_received_before_it_is_requested() -> None:
    """A source is awaited when the work requests a message, and not before."""
    polled: list[str] = []
    handled = asyncio.Event()

    async def source() -> ChannelMessage:
        polled.append("source")
        return {"type": "a"} if len(polled) == 1 else await nothing()

    async def dispatch(message: ChannelMessage) -> None:
        await turn()
        assert polled == ["source"]
        handled.set()

    loop = DispatchLoop(dispatch)

    async def work() -> None:
        await turn()
        assert polled == []
        await loop.run([], Box().take)

    listening = asyncio.create_task(loop.listen(source, work()))
    await handled.wait()
    await turn()
    assert polled == ["source", "source"]
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert others() == set()


@pytest.mark.parametrize("error", [ValueError("boom"), KeyError("boom")])
async def test_source_that_fails_ends_the_work(error: Exception) -> None:
    """An exception from the source is raised where the work requests a message."""

    async def source() -> ChannelMessage:
        raise error

    with pytest.raises(type(error), match="boom"):
        await listen(DispatchLoop(Handler()), source)
    assert others() == set()


async def test_work_that_fails_while_the_source_is_silent() -> None:
    """When the work fails, the listening task raises its error and is not cancelled."""
    with pytest.raises(StopConsumer):
        await listen(DispatchLoop(Handler()), nothing, take=Box([LAST]).take)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await turn()
    assert others() == set()


async def test_cancelled_while_it_listens_and_again() -> None:
    """Each cancellation reaches the work, which decides how to end."""
    cancelled: list[int] = []
    ending = asyncio.Event()

    async def work() -> None:
        for number in range(2):
            try:
                await nothing()
            except asyncio.CancelledError:
                cancelled.append(number)
        ending.set()
        await nothing()

    loop = DispatchLoop(Handler())
    listening = asyncio.create_task(loop.listen(nothing, work()))
    for expected in ([0], [0, 1]):
        await turn()
        listening.cancel()
        await turn()
        assert cancelled == expected
    await ending.wait()
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert others() == set()


async def test_work_that_ends_well_although_it_was_cancelled() -> None:
    """Work that suppresses its cancellation ends as if there had been none."""

    async def work() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await nothing()

    listening = asyncio.create_task(DispatchLoop(Handler()).listen(nothing, work()))
    await turn()
    listening.cancel()
    await listening
    assert others() == set()


@pytest.mark.parametrize("turns", range(4))
async def test_cancelled_when_the_work_has_just_ended(turns: int) -> None:
    """A cancellation that comes too late for the work is still raised."""
    end = asyncio.Event()

    async def work() -> None:
        await end.wait()

    listening = asyncio.create_task(DispatchLoop(Handler()).listen(nothing, work()))
    await turn()
    end.set()
    await turn(turns)
    if listening.cancel():
        with pytest.raises(asyncio.CancelledError):
            await listening
    else:
        await listening
    assert others() == set()


@pytest.mark.parametrize("turns", range(3))
async def test_code_after_listening_is_not_interrupted(turns: int) -> None:
    """A task that was cancelled as the work ended is not cancelled again."""
    end = asyncio.Event()
    afterwards: list[str] = []

    async def serve() -> None:
        try:
            await DispatchLoop(Handler()).listen(nothing, work())
        finally:
            await turn()
            afterwards.append("went on")

    async def work() -> None:
        await end.wait()

    serving = asyncio.create_task(serve())
    await turn()
    end.set()
    await turn(turns)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert afterwards == ["went on"]


async def test_source_that_is_cancelled_by_itself() -> None:
    """A source that raises CancelledError ends the work without blocking the loop."""

    async def source() -> ChannelMessage:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await listen(DispatchLoop(Handler()), source)
    assert others() == set()


async def test_cancelled_before_anything_is_requested() -> None:
    """Work that survives a cancellation still gets messages."""
    handler = Handler()
    loop = DispatchLoop(handler)

    async def work() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await nothing()
        await loop.run([], Box().take)

    listening = asyncio.create_task(loop.listen(source_of("a", LAST), work()))
    await turn()
    listening.cancel()
    with pytest.raises(StopConsumer):
        await listening
    assert handler.names == ["a", LAST]
    assert others() == set()


async def test_cancelled_when_the_loop_has_just_begun() -> None:
    """A loop that is cancelled and run again dispatches later messages."""
    handler = Handler()
    loop = DispatchLoop(handler)
    begin = asyncio.Event()

    async def work() -> None:
        await begin.wait()
        with contextlib.suppress(asyncio.CancelledError):
            await loop.run([], Box().take)
        await loop.run([], Box().take)

    listening = asyncio.create_task(loop.listen(source_of("a", LAST), work()))
    await turn()
    begin.set()
    listening.cancel()
    with pytest.raises(StopConsumer):
        await listening
    assert handler.names[-1] == LAST
    assert others() == set()


async def test_listening_with_a_task_factory_and_a_second_source() -> None:
    """A loop with a source of its own also dispatches the messages listened to."""

    def make_task(loop: Any, coroutine: Any, context: None = None) -> Any:
        return asyncio.Task(coroutine, loop=loop)

    handler = Handler()
    loop = DispatchLoop(handler)
    event_loop = asyncio.get_running_loop()
    event_loop.set_task_factory(make_task)
    try:
        async with asyncio.timeout(5):
            with pytest.raises(StopConsumer):
                await loop.listen(source_of("a", LAST), loop.run([source_of("b")]))
    finally:
        event_loop.set_task_factory(None)
    assert sorted(handler.names) == ["a", "b", LAST]


# Waiting for one last event

FRAME = {"type": "frame"}
BYE = {"type": "bye", "made up": False}
MADE_UP = {"type": "bye", "made up": True}


class Client:
    """A source that yields the given events and then waits forever."""

    def __init__(self, *events: ChannelMessage) -> None:
        self.events = list(events)

    async def receive(self) -> ChannelMessage:
        return self.events.pop(0) if self.events else await nothing()


class Run(Protocol):
    """Runs a loop with one source."""

    def __call__(
        self, loop: DispatchLoop, source: Callable[[], Awaitable[ChannelMessage]]
    ) -> Coroutine[Any, Any, None]: ...


def run_alone(
    loop: DispatchLoop, source: Callable[[], Awaitable[ChannelMessage]]
) -> Coroutine[Any, Any, None]:
    return loop.run([source])


def run_with_mailbox(
    loop: DispatchLoop, source: Callable[[], Awaitable[ChannelMessage]]
) -> Coroutine[Any, Any, None]:
    return loop.run([source], Box().take)


@pytest.fixture(
    params=[run_alone, run_with_mailbox, listen], ids=["alone", "mailbox", "listened"]
)
def run(request: pytest.FixtureRequest) -> Run:
    """Give a test each way of awaiting a source."""
    function: Run = request.param
    return function


class Closer:
    """Records events; closes at the first, and stops at the last."""

    def __init__(self, seconds: float, *, stays: bool = False) -> None:
        self.seen: list[ChannelMessage] = []
        self.loop = DispatchLoop(self.handle)
        self.seconds = seconds
        self.stays = stays

    async def handle(self, event: ChannelMessage) -> None:
        self.seen.append(event)
        if event["type"] == "bye" and not self.stays:
            raise StopConsumer
        self.close()

    def close(self) -> None:
        self.loop.expect(MADE_UP, self.seconds, drop="frame")


async def test_messages_of_the_dropped_type_are_dropped(run: Run) -> None:
    """The expected event is the next one that is dispatched."""
    closer = Closer(60)
    client = Client(FRAME, *[FRAME] * 100, BYE)
    async with asyncio.timeout(5):
        with pytest.raises(StopConsumer):
            await run(closer.loop, client.receive)
    assert closer.seen == [FRAME, BYE]
    assert others() == set()


async def test_missing_event_is_dispatched(run: Run) -> None:
    """If the expected event does not arrive in time, it is dispatched anyway."""
    closer = Closer(0.001)
    async with asyncio.timeout(5):
        with pytest.raises(StopConsumer):
            await run(closer.loop, Client(FRAME, FRAME).receive)
    assert closer.seen == [FRAME, MADE_UP]
    assert others() == set()


async def test_source_that_never_waits_starves_no_timer(run: Run) -> None:
    """The time limit holds although there is always a message to drop."""

    async def receive() -> ChannelMessage:
        return FRAME

    closer = Closer(0.001)
    async with asyncio.timeout(5):
        with pytest.raises(StopConsumer):
            await run(closer.loop, receive)
    assert closer.seen == [FRAME, MADE_UP]


@pytest.mark.parametrize("seconds", [-1, 0, 0.001])
async def test_missing_event_is_dispatched_while_the_source_is_awaited(
    run: Run, seconds: float
) -> None:
    """Another task can call expect(); the loop's own task is not cancelled."""
    closer = Closer(seconds)
    cancelling: list[int] = []

    async def serve() -> None:
        with contextlib.suppress(StopConsumer):
            await run(closer.loop, Client().receive)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        cancelling.append(task.cancelling())

    serving = asyncio.create_task(serve())
    await turn()
    closer.close()
    async with asyncio.timeout(5):
        await serving
    assert closer.seen == [MADE_UP]
    assert cancelling == [0]


async def test_event_arrives_after_another_task_has_called_expect(run: Run) -> None:
    """The source's message is dropped or dispatched, depending on its type."""
    for event, expected in ((BYE, [BYE]), (FRAME, [MADE_UP])):
        closer = Closer(60 if event is BYE else 0.01)
        arrival: asyncio.Future[ChannelMessage] = asyncio.Future()
        events = [arrival]

        async def receive(events: Any = events) -> ChannelMessage:
            return (await events.pop()) if events else await nothing()

        serving = asyncio.create_task(run(closer.loop, receive))
        await turn()
        closer.close()
        arrival.set_result(event)
        async with asyncio.timeout(5):
            with pytest.raises(StopConsumer):
                await serving
        assert closer.seen == expected


async def test_latest_call_of_expect_counts(run: Run) -> None:
    """A second call replaces the event and the time limit of the first."""
    closer = Closer(60)
    serving = asyncio.create_task(run(closer.loop, Client(FRAME).receive))
    await turn()
    closer.loop.expect({"type": "bye", "number": 2}, 0.001, drop="frame")
    async with asyncio.timeout(5):
        with pytest.raises(StopConsumer):
            await serving
    assert closer.seen[1:] == [{"type": "bye", "number": 2}]


async def test_loop_is_cancelled_when_the_time_is_up(run: Run) -> None:
    """A cancellation is raised even if the time is up at the same moment."""
    closer = Closer(0)
    serving = asyncio.create_task(run(closer.loop, Client().receive))
    await turn()
    closer.close()
    serving.cancel()
    await asyncio.wait([serving])
    assert serving.cancelled()
    assert serving.cancelling() == 1
    assert others() == set()


async def test_received_messages_are_dropped() -> None:
    """A received message that is waiting is dropped, and its source awaited again."""
    closer = Closer(60)
    client = Client(FRAME, BYE)

    async def close() -> ChannelMessage:
        # The frame has been received by now.
        await turn()
        closer.close()
        return await nothing()

    busy = asyncio.Event()

    async def dispatch(event: ChannelMessage) -> None:
        if event["type"] == "mailbox":
            await busy.wait()
        else:
            await closer.handle(event)

    closer.loop = DispatchLoop(dispatch)
    running = asyncio.create_task(
        closer.loop.run([client.receive, close], Box(["mailbox"]).take)
    )
    await until(lambda: closer.loop.has_received("bye"))
    assert not closer.loop.has_received("frame")
    busy.set()
    with pytest.raises(StopConsumer):
        await running
    assert closer.seen == [BYE]


async def test_time_limit_ends_with_the_expected_event(run: Run) -> None:
    """A loop that continues after the event waits for its sources as before."""
    closer = Closer(0.01, stays=True)
    closer.close = lambda: None  # type: ignore[method-assign] # called once, below
    running = asyncio.create_task(run(closer.loop, Client(BYE).receive))
    closer.loop.expect(MADE_UP, 0.01, drop="frame")
    await asyncio.sleep(0.03)
    assert closer.seen == [BYE]
    running.cancel()
    await asyncio.wait([running])


async def test_loop_can_run_again_until_the_event() -> None:
    """If a handler raises after expect(), a second run still waits for the event."""
    seen: list[str] = []

    async def dispatch(event: ChannelMessage) -> None:
        seen.append(event["type"])
        loop.expect(MADE_UP, 0.001, drop="frame")
        raise KeyError if event["type"] == "frame" else StopConsumer

    loop = DispatchLoop(dispatch)
    client = Client(FRAME, FRAME)

    async def serve() -> None:
        with contextlib.suppress(KeyError):
            await loop.run([client.receive])
        await loop.run([client.receive])

    async with asyncio.timeout(5):
        with pytest.raises(StopConsumer):
            await serve()
    assert seen == ["frame", "bye"]
    assert others() == set()
