"""Layers for code that has no event loop."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from fast_channels.exceptions import ChannelFull, InvalidChannelLayerError
from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    SyncChannelLayer,
    register_channel_layer,
    sync,
)
from fast_channels.type_defs import ChannelMessage

HELLO = {"type": "hello"}


class RecordingLayer(BaseChannelLayer):
    """Notes in which loops it is called, and waits when it is told to."""

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


def background() -> list[threading.Thread]:
    """Return the threads of the facades."""
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
    assert background() == []


def test_operations_reach_the_layer() -> None:
    """A facade sends to channels and groups, and changes groups, as its layer does."""
    layer = InMemoryChannelLayer()
    with SyncChannelLayer(layer) as facade:
        facade.send("one", HELLO)
        facade.group_add("room", "two")
        facade.group_add("room", "three")
        facade.group_discard("room", "three")
        facade.group_send("room", {"type": "all"})
    # Closing the facade leaves the layer as it is.
    assert set(layer.channels) == {"one", "two"}
    assert asyncio.run(layer.receive("one")) == HELLO
    assert asyncio.run(layer.receive("two")) == {"type": "all"}
    assert repr(facade) == f"<SyncChannelLayer of {layer!r}>"


def test_alias_is_looked_up_at_every_call() -> None:
    """A facade of an alias uses the layer that is registered at the time of a call."""
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
    """What is neither a layer nor an alias is refused at once."""
    layer: Any = InMemoryChannelLayer
    with pytest.raises(TypeError, match=r"the alias of a registered one, not <class"):
        SyncChannelLayer(layer)


def test_errors_are_those_of_the_layer() -> None:
    """What the layer raises comes out, and the next call works."""
    facade = SyncChannelLayer(InMemoryChannelLayer(capacity=1))
    facade.send("one", HELLO)
    with pytest.raises(ChannelFull):
        facade.send("one", HELLO)
    with pytest.raises(TypeError, match=r"^'two words' is not a channel name"):
        facade.send("two words", HELLO)
    facade.send("two", HELLO)


CALLS: dict[str, Callable[[SyncChannelLayer], None]] = {
    "send": lambda facade: facade.send("one", HELLO),
    "group_send": lambda facade: facade.group_send("room", HELLO),
    "group_add": lambda facade: facade.group_add("room", "one"),
    "group_discard": lambda facade: facade.group_discard("room", "one"),
    "close": lambda facade: facade.close(),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_from_async_code_are_refused(name: str) -> None:
    """In a thread in which an event loop runs, every method says what to do instead."""

    async def main() -> None:
        CALLS[name](SyncChannelLayer(InMemoryChannelLayer()))

    with pytest.raises(RuntimeError, match=rf"\.{name}\(\) .*'await layer\.{name}\("):
        asyncio.run(main())
    assert background() == []


def test_all_calls_share_one_event_loop() -> None:
    """Facades in many threads use one daemon thread; after close() there is another."""
    layer = RecordingLayer()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(24):
            threads.submit(SyncChannelLayer(layer).send, "one", HELLO)
    assert len(layer.loops) == 24
    assert len(set(layer.loops)) == 1
    (thread,) = background()
    assert thread.daemon
    facade = SyncChannelLayer(layer)
    facade.close()
    assert layer.loops[0].is_closed()
    facade.send("one", HELLO)
    assert layer.loops[0] is not layer.loops[-1]


def test_close_lets_calls_finish() -> None:
    """A call that is under way in another thread is finished before the thread ends."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(facade.send, "slow", HELLO)
        assert layer.started.wait(5)
        closing = threads.submit(facade.close)
        # It is told to end: a call starts another thread from now on.
        while not facade_restarted(layer):
            pass
        assert not call.done()
        layer.loops[0].call_soon_threadsafe(layer.go_on.set)
        call.result(5)
        closing.result(5)
    assert layer.loops[0].is_closed()


def facade_restarted(layer: RecordingLayer) -> bool:
    """Send once more, and return whether that took another event loop."""
    SyncChannelLayer(layer).send("one", HELLO)
    return layer.loops[-1] is not layer.loops[0]


def test_interrupting_a_call_cancels_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt comes out of a call, and the operation is cancelled."""
    layer = RecordingLayer()

    def interrupt(_: Future[None]) -> None:
        assert layer.started.wait(5)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Future, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            SyncChannelLayer(layer).send("slow", HELLO)
    assert layer.cancelled.wait(5)


def test_fork_begins_anew() -> None:
    """In a forked process the first call starts a thread; the parent's is untouched."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    facade.send("one", HELLO)
    (thread,) = background()
    # What a fork calls in the child, here in the process itself.
    facades = sync._background  # pyright: ignore[reportPrivateUsage] # its own test
    facades.forget()
    # And in a child of that, which has nothing to forget.
    facades.forget()
    facade.send("one", HELLO)
    facade.close()
    assert layer.loops[0].is_running()
    assert background() == [thread]
    (inherited,) = facades.inherited
    inherited.end()
    inherited.join(5)
    facades.inherited.clear()
