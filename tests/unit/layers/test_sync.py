"""Layers for synchronous code."""

import _thread
import asyncio
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fast_channels.exceptions import ChannelFull, InvalidChannelLayerError
from fast_channels.layers import (
    BaseChannelLayer,
    History,
    InMemoryChannelLayer,
    SyncChannelLayer,
    register_channel_layer,
    sync,
)
from fast_channels.layers.background import Call, LoopThread, background
from fast_channels.type_defs import ChannelMessage
from tests.redis_servers.server import wait_until

HELLO = {"type": "hello"}


class RecordingLayer(BaseChannelLayer):
    """Records the loops of its calls, and can wait."""

    def __init__(self) -> None:
        super().__init__()
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.started = threading.Event()
        self.cancelled = threading.Event()
        self.go_on = asyncio.Event()

    async def send(self, channel: str, message: ChannelMessage) -> None:
        self.loops.append(asyncio.get_running_loop())
        self.started.set()
        if channel == "slow":
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise


def background_threads() -> list[threading.Thread]:
    """Return the running background threads."""
    return [
        thread
        for thread in threading.enumerate()
        if thread.name == "fast_channels.layers.sync"
    ]


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """End the thread after each test."""
    yield
    SyncChannelLayer().close()
    # Idle threads end as soon as they can.
    wait_until(lambda: background_threads() == [], "no thread is left", 5)


def test_operations_reach_the_layer() -> None:
    """A facade sends to channels and groups, and changes groups, like its layer."""
    layer = InMemoryChannelLayer()
    with SyncChannelLayer(layer) as facade:
        facade.send("one", HELLO)
        facade.group_add("room", "two")
        facade.group_add("room", "three")
        facade.group_discard("room", "three")
        facade.group_send("room", {"type": "all"})
    # Closing the facade does not close the layer.
    assert set(layer.channels) == {"one", "two"}
    assert asyncio.run(layer.receive("one")) == HELLO
    assert asyncio.run(layer.receive("two")) == {"type": "all"}
    assert repr(facade) == f"<SyncChannelLayer of {layer!r}>"


def test_alias_is_looked_up_at_every_call() -> None:
    """A facade of an alias looks the layer up at each call."""
    facade = SyncChannelLayer()
    with pytest.raises(
        InvalidChannelLayerError,
        match=r"^no layer is registered for the alias 'default' \(registered: none\); ",
    ):
        facade.send("one", HELLO)
    layers = [InMemoryChannelLayer(), InMemoryChannelLayer()]
    for layer in layers:
        register_channel_layer("default", layer)
        facade.send("one", HELLO)
    assert [layer.statistics()["waiting"] for layer in layers] == [1, 1]
    with pytest.raises(InvalidChannelLayerError, match=r"'other'.*: 'default'\)"):
        SyncChannelLayer("other").group_send("room", HELLO)


def test_neither_layer_nor_alias_is_refused() -> None:
    """An argument that is neither a layer nor an alias is refused at once."""
    layer: Any = InMemoryChannelLayer
    with pytest.raises(TypeError, match=r"the alias of a registered one, not <class"):
        SyncChannelLayer(layer)


def test_errors_are_those_of_the_layer() -> None:
    """An exception of the layer is raised, and the next call works."""
    facade = SyncChannelLayer(InMemoryChannelLayer(capacity=1))
    facade.send("one", HELLO)
    with pytest.raises(ChannelFull):
        facade.send("one", HELLO)
    with pytest.raises(TypeError, match=r"^'two words' is not a channel name"):
        facade.send("two words", HELLO)
    facade.send("two", HELLO)


def test_history() -> None:
    """Messages are sent once, and the history is read."""
    facade = SyncChannelLayer(InMemoryChannelLayer(history={"room": History()}))
    sent = [facade.group_send("room", HELLO, once=key) for key in ("a", "a", "b")]
    assert sent[0] == sent[1] != sent[2]
    assert facade.group_history("room") == [HELLO, HELLO]
    assert facade.group_history("room", sent[0], 1) == [HELLO]


CALLS: dict[str, Callable[[SyncChannelLayer], object]] = {
    "send": lambda facade: facade.send("one", HELLO),
    "group_send": lambda facade: facade.group_send("room", HELLO),
    "group_history": lambda facade: facade.group_history("room"),
    "group_add": lambda facade: facade.group_add("room", "one"),
    "group_discard": lambda facade: facade.group_discard("room", "one"),
    "close": lambda facade: facade.close(),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_from_async_code_are_refused(name: str) -> None:
    """In a thread with a running event loop, the error says what to do instead."""

    async def main() -> None:
        CALLS[name](SyncChannelLayer(InMemoryChannelLayer()))

    with pytest.raises(RuntimeError, match=rf"\.{name}\(\) .*'await layer\.{name}\("):
        asyncio.run(main())
    assert background_threads() == []


def test_all_calls_share_one_event_loop() -> None:
    """Facades in many threads share one daemon thread, and a new one after close()."""
    layer = RecordingLayer()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(24):
            threads.submit(SyncChannelLayer(layer).send, "one", HELLO)
    assert len(layer.loops) == 24
    assert len(set(layer.loops)) == 1
    # Several threads can be started at once; all but one of them end.
    wait_until(lambda: len(background_threads()) == 1, "one thread is left", 5)
    (thread,) = background_threads()
    assert thread.daemon
    facade = SyncChannelLayer(layer)
    facade.close()
    assert layer.loops[0].is_closed()
    facade.send("one", HELLO)
    assert layer.loops[0] is not layer.loops[-1]


def test_close_lets_calls_finish() -> None:
    """close() waits for calls in other threads before the background thread ends."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(facade.send, "slow", HELLO)
        assert layer.started.wait(5)
        closing = threads.submit(facade.close)
        # The thread is about to end: from now on a call starts another one.
        while not facade_restarted(layer):
            pass
        assert not call.done()
        layer.loops[0].call_soon_threadsafe(layer.go_on.set)
        call.result(5)
        closing.result(5)
    assert layer.loops[0].is_closed()


def facade_restarted(layer: RecordingLayer) -> bool:
    """Send once more, and return whether that used another event loop."""
    SyncChannelLayer(layer).send("one", HELLO)
    return layer.loops[-1] is not layer.loops[0]


class Interrupt(Exception):
    """The exception of a signal handler, like Celery's for a time limit."""


@pytest.fixture
def interrupting(request: pytest.FixtureRequest) -> Iterator[type[Exception]]:
    """Make SIGUSR1 raise an exception in the main thread."""
    error: type[Exception] = getattr(request, "param", Interrupt)

    def interrupt(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield error
    signal.signal(signal.SIGUSR1, before)


def interrupt_soon(ready: threading.Event) -> threading.Thread:
    """Send SIGUSR1 to the main thread when an event is set."""

    def interrupt() -> None:
        assert ready.wait(5)
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


@pytest.mark.parametrize("interrupting", [Interrupt, RuntimeError], indirect=True)
def test_interrupting_a_call_cancels_it(interrupting: type[Exception]) -> None:
    """A signal handler's exception is raised by the call, and cancels the operation."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    thread = interrupt_soon(layer.started)
    with pytest.raises(interrupting):
        facade.send("slow", HELLO)
    assert layer.cancelled.wait(5)
    thread.join()
    facade.send("one", HELLO)
    assert len(set(layer.loops)) == 1


def test_interrupting_twice(
    interrupting: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If cancelling is interrupted too, the operation is cancelled a little later."""
    monkeypatch.setattr(background, "interval", 0.01)
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    facade.send("one", HELLO)
    (thread,) = background.threads

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(thread, "look_soon", interrupt)
    layer.started.clear()
    sender = interrupt_soon(layer.started)
    with pytest.raises(KeyboardInterrupt):
        facade.send("slow", HELLO)
    assert layer.cancelled.wait(5)
    sender.join()


def test_interrupting_before_the_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is interrupted before the thread takes it is never performed."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", interrupt)
        with pytest.raises(KeyboardInterrupt):
            facade.send("slow", HELLO)
    facade.send("one", HELLO)
    assert len(layer.loops) == 1


def test_signal_handler_that_sends() -> None:
    """A signal handler can use a facade in the middle of another call."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)

    def handle(*_: object) -> None:
        facade.send("one", HELLO)
        layer.loops[0].call_soon_threadsafe(layer.go_on.set)

    before = signal.signal(signal.SIGUSR1, handle)
    thread = interrupt_soon(layer.started)
    try:
        facade.send("slow", HELLO)
    finally:
        signal.signal(signal.SIGUSR1, before)
    thread.join()
    assert len(layer.loops) == 2


def test_calls_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Python has ended all threads, a call raises an error instead of waiting."""
    facade = SyncChannelLayer(InMemoryChannelLayer())
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    with pytest.raises(RuntimeError, match=r"__del__\(\) at the end of the process"):
        facade.send("one", HELLO)
    # Nothing to close.
    facade.close()


def test_exit_does_not_wait_forever() -> None:
    """At exit, the process waits a limited time for calls of other threads."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(facade.send, "slow", HELLO)
        assert layer.started.wait(5)
        background.end(0.01)
        assert not call.done()
        layer.loops[0].call_soon_threadsafe(layer.go_on.set)
        call.result(5)


def test_call_that_comes_late() -> None:
    """A call that wakes a thread that has just ended is performed by another one."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    facade.send("one", HELLO)
    (ended,) = background.threads
    facade.close()
    background.threads.append(ended)
    facade.send("one", HELLO)
    background.threads.remove(ended)
    assert len(set(layer.loops)) == 2


def test_two_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """If two threads are started at once, one serves and the other ends."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)

    def twice(start: Callable[[], None], _: object) -> None:
        start()
        start()

    with monkeypatch.context() as patch:
        # In this thread.
        patch.setattr(
            _thread,
            "start_new_thread",
            twice,
        )
        facade.send("one", HELLO)
    background.start_soon()
    wait_until(lambda: len(background_threads()) == 1, "the others have ended", 5)
    facade.send("one", HELLO)
    assert len(set(layer.loops)) == 1


def test_calls_during_close() -> None:
    """A call that comes during close() is performed by the next thread."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        while not go_on.is_set():
            pass

    facade.send("one", HELLO)
    layer.loops[0].call_soon_threadsafe(hold)
    assert held.wait(5)
    with ThreadPoolExecutor(2) as threads:
        closing = threads.submit(facade.close)
        wait_until(lambda: len(background.waiting) == 1, "it waits", 5)
        call = threads.submit(facade.send, "one", HELLO)
        wait_until(lambda: len(background.waiting) == 2, "it waits", 5)
        go_on.set()
        closing.result(5)
        call.result(5)
    assert len(set(layer.loops)) == 2


def test_no_thread_after_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started for a call after close(), it raises the error."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    facade.send("one", HELLO)

    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    def end_and_send() -> None:
        calls = [Call(None), Call(None)]
        background.waiting.extend(calls)
        (thread,) = background.threads
        thread.submit()
        results.extend(call.result.get(timeout=5) for call in calls)

    results: list[object] = []
    (thread,) = background_threads()
    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", fail)
        end_and_send()
    assert results[0] is thread
    assert str(results[1]) == "can't start new thread"


def test_error_while_waking_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A RuntimeError of a signal handler is not mistaken for that of a closed loop."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    facade.send("one", HELLO)

    def fail(*_: object) -> None:
        raise RuntimeError("a handler's own")

    with monkeypatch.context() as patch:
        patch.setattr(layer.loops[0], "call_soon_threadsafe", fail)
        with pytest.raises(RuntimeError, match=r"^a handler's own$"):
            facade.send("one", HELLO)
    facade.send("one", HELLO)
    assert len(layer.loops) == 2


def test_thread_that_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread whose calls were taken by another one ends, and others can serve."""

    class Vanishing(deque[object]):
        """A queue that is empty when it is checked again."""

        def __bool__(self) -> bool:
            full = len(self) > 0
            self.clear()
            return full

    with monkeypatch.context() as patch:
        patch.setattr(background, "waiting", Vanishing([None]))
        thread = LoopThread(background).thread
        thread.start()
        thread.join()
    assert not background.serving.locked()


def test_nothing_to_look_for() -> None:
    """Looking for abandoned operations is harmless if there are none."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    facade.send("one", HELLO)
    (thread,) = background.threads
    thread.look_soon()
    facade.send("one", HELLO)
    assert len(set(layer.loops)) == 1


class NoThread(threading.Thread):
    """Cannot be started, as in a process at its limit of threads."""

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def test_thread_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the call raises the error; the next can work."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)

    def here(start: Callable[[], None], _: object) -> None:
        start()

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", NoThread)
        # In this thread, to measure what is covered.
        patch.setattr(_thread, "start_new_thread", here)
        with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
            facade.send("one", HELLO)
    facade.send("one", HELLO)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", NoThread)
        # One that is not needed.
        background._start()  # pyright: ignore[reportPrivateUsage] # its own test
    facade.send("one", HELLO)
    assert len(set(layer.loops)) == 1


def test_event_loop_cannot_be_created(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no event loop can be created, calls and close() raise that error."""
    facade = SyncChannelLayer(InMemoryChannelLayer())

    def fail() -> asyncio.AbstractEventLoop:
        raise OSError("too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", fail)
        with pytest.raises(OSError, match=r"^too many open files$"):
            facade.send("one", HELLO)
        call = Call(None)
        background.waiting.append(call)
        facade.close()
    facade.send("one", HELLO)


def test_operation_that_ends_the_loop() -> None:
    """An exception that ends the event loop is raised by all calls; the next works."""

    class Leaving(RecordingLayer):
        async def group_send(
            self, group: str, message: ChannelMessage, *, once: str | None = None
        ) -> None:
            raise SystemExit(3)

    layer = Leaving()
    facade = SyncChannelLayer(layer)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(facade.send, "slow", HELLO)
        assert layer.started.wait(5)
        with pytest.raises(SystemExit):
            facade.group_send("room", HELLO)
        layer.loops[0].call_soon_threadsafe(layer.go_on.set)
        call.result(5)
    facade.send("one", HELLO)


def test_green_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls work if all threads seem to run in the background thread's loop."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    facade.send("one", HELLO)
    # As in gevent and eventlet: asyncio's state is that of their only real thread.
    monkeypatch.setattr(sync, "running_loop", lambda: layer.loops[0])
    facade.send("one", HELLO)
    assert len(layer.loops) == 2
    monkeypatch.setattr(sync, "running_loop", object)
    with pytest.raises(RuntimeError, match="where an event loop runs"):
        facade.send("one", HELLO)
    monkeypatch.undo()


def test_layer_that_calls_the_facade() -> None:
    """A call in the background thread is refused, as it would deadlock."""

    class Calling(RecordingLayer):
        async def group_send(
            self, group: str, message: ChannelMessage, *, once: str | None = None
        ) -> None:
            facade.send("one", message)

    facade = SyncChannelLayer(Calling())
    with pytest.raises(RuntimeError, match="where an event loop runs"):
        facade.group_send("room", HELLO)


def test_fork() -> None:
    """In a fork, the first call starts a thread; the parent's is unaffected."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    facade.send("one", HELLO)
    (thread,) = background.threads
    layer.started.clear()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(facade.send, "slow", HELLO)
        assert layer.started.wait(5)
        # The child's part of a fork, in this process.
        background.forget()
        # And in a child of the child, which has nothing to reset.
        background.forget()
        with pytest.raises(RuntimeError, match=r"^the process was forked"):
            call.result(5)
    facade.send("one", HELLO)
    facade.close()
    loop = layer.loops[0]
    assert loop.is_running()
    assert background_threads() == [thread.thread]
    # The thread is in no list any more, so the test ends it.
    loop.call_soon_threadsafe(layer.go_on.set)
    stop: Callable[[], None] = getattr(thread, "_stopped").set  # noqa: B009
    loop.call_soon_threadsafe(stop)
    thread.thread.join(5)
