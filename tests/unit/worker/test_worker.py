"""A worker takes messages, has them handled, and stops."""

import asyncio
import contextlib
import contextvars
import logging
import os
import re
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from fast_channels.consumer import AsyncConsumer
from fast_channels.exceptions import ChannelFull
from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    register_channel_layer,
)
from fast_channels.routing import ChannelNameRouter
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelMessage,
    ChannelScope,
)
from fast_channels.worker import Worker
from tests.waiting import turn, until

# Seconds after which a test that would wait forever fails.
LIMIT = 5


@pytest.fixture
def layer() -> InMemoryChannelLayer:
    """Return a layer whose channels hold four messages."""
    return InMemoryChannelLayer(capacity=4)


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    """Record log lines of every level."""
    caplog.set_level(logging.DEBUG, "fast_channels")


@contextlib.asynccontextmanager
async def running(worker: Worker) -> AsyncGenerator[asyncio.Task[None]]:
    """Run a worker; stop it at the end of the block, if it is still running."""
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        if not task.cancelling():
            task.cancel()
        async with asyncio.timeout(LIMIT):
            await asyncio.wait([task])
        assert task.cancelled()
        assert worker.statistics()["running"] == 0


class Jobs:
    """An application whose jobs run until the test releases them."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.ended: list[int] = []
        self.gate = asyncio.Semaphore(0)

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        number = (await receive())["number"]
        self.begun.append((scope["channel"], number))
        await self.gate.acquire()
        self.ended.append(number)

    def finish(self, count: int = 1) -> None:
        for _ in range(count):
            self.gate.release()


async def send(layer: BaseChannelLayer, channel: str, *numbers: int) -> None:
    for number in numbers:
        await layer.send(channel, {"type": "job.do", "number": number})


# Handling


class Plain(AsyncConsumer):
    done: list[tuple[Any, ...]]

    async def job_do(self, message: ChannelMessage) -> None:
        self.done.append((self.scope, message, self))


class WithLayer(Plain):
    channel_layer_alias = "default"

    async def job_do(self, message: ChannelMessage) -> None:
        assert self.channel_name.endswith("!", 0, -16)
        await super().job_do(message)


async def function(
    scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    Plain.done.append((scope, await receive(), object()))


async def loop(
    scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    while True:
        Plain.done.append((scope, await receive(), object()))


@pytest.mark.parametrize(
    "application",
    [
        Plain,
        Plain.as_asgi(),
        WithLayer,
        function,
        loop,
        ChannelNameRouter({"jobs": Plain}),
    ],
)
async def test_one_call_for_each_message(
    layer: InMemoryChannelLayer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    application: Any,
) -> None:
    """Any kind of application is called once per message, and ends after it."""
    monkeypatch.setattr(Plain, "done", [], raising=False)
    register_channel_layer("default", layer)
    worker = Worker(application, ["jobs"], layer)
    async with running(worker):
        await send(layer, "jobs", 0, 1, 2)
        await until(lambda: worker.statistics()["handled"] == 3)
    scopes, messages, instances = zip(*Plain.done, strict=True)
    assert all(
        scope == {"type": "channel", "channel": "jobs", "asgi": {"version": "3.0"}}
        for scope in scopes
    )
    assert [message["number"] for message in messages] == [0, 1, 2]
    assert not layer.channels
    assert len({id(scope) for scope in scopes}) == len(set(instances)) == 3
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_failing_handler(
    layer: InMemoryChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception is logged with channel and type, and affects only that message."""

    class Fails(AsyncConsumer):
        async def job_do(self, message: ChannelMessage) -> None:
            if message["number"] == 1:
                raise ZeroDivisionError
            if message["number"] == 2:
                await self.send({"type": "http.response.start"})

    worker = Worker(Fails, ["jobs"], layer)
    async with running(worker):
        await send(layer, "jobs", 1, 2, 3)
        await layer.send("jobs", {"type": "unknown"})
        await until(lambda: sum(worker.statistics().values()) == 4)
    assert worker.statistics() == {
        "running": 0,
        "handled": 1,
        "failed": 3,
        "cancelled": 0,
    }
    records = [record for record in caplog.records if record.levelname == "ERROR"]
    first, second, third = sorted(records, key=lambda record: str(record.exc_info))
    assert first.getMessage() == third.getMessage()
    assert first.getMessage() == (
        "a message of type 'job.do' from channel 'jobs' could not be handled"
    )
    assert "'unknown' from channel 'jobs' could" in second.getMessage()
    texts = [str(record.exc_info and record.exc_info[1]) for record in records]
    assert (
        "a worker has no connection to send an event of type 'http.response.start' "
        "to: send a message through a channel layer instead"
    ) in texts


async def test_context_of_each_message(layer: InMemoryChannelLayer) -> None:
    """A context variable set in one handler is not visible in another."""
    variable = contextvars.ContextVar("variable", default="outer")
    seen: list[str] = []

    class Writes(AsyncConsumer):
        async def job_do(self, message: ChannelMessage) -> None:
            seen.append(variable.get())
            variable.set("inner")

    worker = Worker(Writes, ["jobs"], layer, concurrency=1)
    async with running(worker):
        await send(layer, "jobs", 0, 1)
        await until(lambda: worker.statistics()["handled"] == 2)
    assert seen == ["outer", "outer"]


# Slots


async def test_concurrency(layer: InMemoryChannelLayer) -> None:
    """A worker takes no more messages than it handles at once, so channels can fill."""
    jobs = Jobs()
    worker = Worker(jobs, ["a", "b"], layer, concurrency=3)
    async with running(worker):
        await send(layer, "a", 0, 1, 2, 3)
        await send(layer, "b", 4, 5, 6, 7)
        await until(lambda: len(jobs.begun) == 3)
        await turn()
        assert repr(worker) == "<Worker [a, b, 3 of 3 handlers busy]>"
        assert layer.statistics()["waiting"] == 5
        await send(layer, "a", 8)
        with pytest.raises(ChannelFull):
            await send(layer, "a", *range(5))
        waiting = layer.statistics()["waiting"]
        jobs.finish()
        await until(lambda: len(jobs.begun) == 4)
        await turn()
        assert layer.statistics()["waiting"] == waiting - 1
        jobs.finish(100)
        await until(lambda: not layer.statistics()["waiting"])
    assert len(jobs.ended) == worker.statistics()["handled"] == 3 + waiting


async def test_fair_turns(layer: InMemoryChannelLayer) -> None:
    """Channels that all have messages take turns, and each keeps its order."""
    jobs = Jobs()
    jobs.finish(100)
    await send(layer, "a", 0, 1, 2, 3)
    await send(layer, "b", 0, 1, 2)
    await send(layer, "c", 0)
    async with running(Worker(jobs, ["a", "b", "c"], layer, concurrency=1)):
        await until(lambda: len(jobs.ended) == 8)
    assert [channel for channel, _ in jobs.begun] == list("abcababa")
    assert [number for channel, number in jobs.begun if channel == "a"] == [0, 1, 2, 3]


async def test_two_workers(layer: InMemoryChannelLayer) -> None:
    """Workers share the messages of a channel, each taking as many as it can handle."""
    first, second = Jobs(), Jobs()
    workers = [Worker(jobs, ["a"], layer, concurrency=2) for jobs in (first, second)]
    async with running(workers[0]), running(workers[1]):
        await send(layer, "a", 0, 1, 2, 3)
        await until(lambda: len(first.begun) == len(second.begun) == 2)
        first.finish(100)
        second.finish(100)
    assert sorted(first.ended + second.ended) == [0, 1, 2, 3]


# Layers that fail


class Broken(InMemoryChannelLayer):
    """A layer whose first reads fail."""

    broken = 3

    async def receive(self, channel: str) -> dict[str, Any]:
        if self.broken:
            self.broken -= 1
            raise ConnectionError("nobody is there")
        return await super().receive(channel)


async def test_broken_layer(caplog: pytest.LogCaptureFixture) -> None:
    """A failing layer is tried again; the failure and the recovery are logged once."""

    class Impatient(Worker):
        _backoff = (0.001, 0.002)

    layer = Broken()
    jobs = Jobs()
    jobs.finish(2)
    async with running(Impatient(jobs, ["a"], layer)):
        await send(layer, "a", 0, 1)
        await until(lambda: len(jobs.ended) == 2)
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "take from" in line] == [
        "cannot take from channel 'a'; trying again until it can",
        "can take from channel 'a' again",
    ]
    assert "nobody is there" in caplog.text


class Stubborn(InMemoryChannelLayer):
    """A layer that returns a message although it was cancelled."""

    async def receive(self, channel: str) -> dict[str, Any]:
        try:
            return await super().receive(channel)
        except asyncio.CancelledError:
            return {"type": "job.do", "number": -1}


async def test_message_despite_cancellation() -> None:
    """A message that a layer returns when it is cancelled is handled."""
    layer = Stubborn()
    jobs = Jobs()
    worker = Worker(jobs, ["a", "b"], layer, concurrency=1, shutdown_timeout=None)
    async with running(worker) as task:
        await turn()
        await send(layer, "a", 0)
        await until(lambda: worker.statistics()["running"] == 2)
        assert jobs.begun == [("a", 0)]
        task.cancel()
        jobs.finish(100)
    assert jobs.ended == [0, -1]


# Stopping


async def test_orderly_stop(
    layer: InMemoryChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """A cancelled worker finishes its messages and takes no more; it can run again."""
    jobs = Jobs()
    worker = Worker(jobs, ["a", "b"], layer, concurrency=2)
    async with running(worker) as task:
        await send(layer, "a", 0)
        await until(lambda: jobs.begun)
        task.cancel()
        await until(lambda: "stops" in caplog.text)
        await send(layer, "a", 7)
        await turn()
        assert not task.done()
        jobs.finish()
    assert jobs.ended == [0]
    assert layer.statistics()["waiting"] == 1
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    pid = os.getpid()
    assert lines[0][0] == "INFO"
    assert re.fullmatch(
        rf"worker {pid} reads a, b from <InMemoryChannelLayer .*>, 2 messages at once",
        lines[0][1],
    )
    assert lines[1:] == [
        ("DEBUG", "a message of type 'job.do' from channel 'a'"),
        (
            "INFO",
            (
                f"worker {pid} stops: it waits for 1 messages that are being handled, "
                "30 seconds at most"
            ),
        ),
        (
            "INFO",
            f"worker {pid} has stopped: 1 messages handled, 0 failed, 0 cancelled",
        ),
    ]
    jobs.finish()
    async with running(worker):
        await until(lambda: jobs.ended == [0, 7])


@pytest.mark.parametrize("cause", ["limit", "no time at all", "second cancel"])
async def test_stop_with_a_handler_that_does_not_end(
    layer: InMemoryChannelLayer, caplog: pytest.LogCaptureFixture, cause: str
) -> None:
    """Handlers over the time limit, or on a second cancel, are cancelled and logged."""
    timeout = {"limit": 0.01, "no time at all": 0, "second cancel": None}[cause]
    jobs = Jobs()
    worker = Worker(jobs, ["a"], layer, concurrency=2, shutdown_timeout=timeout)
    async with running(worker) as task:
        await send(layer, "a", 0)
        await until(lambda: jobs.begun)
        task.cancel()
        if cause == "second cancel":
            await until(lambda: "handled, as long as it takes" in caplog.text)
            await turn()
            assert not task.done()
            task.cancel()
    assert worker.statistics()["cancelled"] == 1
    assert (
        "a message of type 'job.do' from channel 'a' was cancelled before it was "
        "handled"
    ) in caplog.text
    assert "0 messages handled, 0 failed, 1 cancelled" in caplog.text


async def test_stop_with_a_handler_that_resists(
    layer: InMemoryChannelLayer,
) -> None:
    """The worker waits for a handler that ignores cancellation, and cancels again."""
    cancels = 0

    async def refuse(
        scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        nonlocal cancels
        while cancels < 2:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancels += 1

    worker = Worker(refuse, ["a"], layer, shutdown_timeout=0)
    async with running(worker) as task:
        await send(layer, "a", 0)
        await until(lambda: worker.statistics()["running"])
        await turn()
        task.cancel()
        await until(lambda: cancels == 1)
        task.cancel()
    assert worker.statistics()["handled"] == 1


async def test_running_twice(layer: InMemoryChannelLayer) -> None:
    """A running worker cannot be started a second time."""
    worker = Worker(Jobs(), ["a"], layer)
    async with running(worker):
        await turn()
        with pytest.raises(RuntimeError, match=r"<Worker .*> runs already; make"):
            await worker.run()


async def test_layer_that_broadcasts(caplog: pytest.LogCaptureFixture) -> None:
    """A layer that delivers every message to each worker causes a warning."""

    class Broadcasts(InMemoryChannelLayer):
        broadcasts = True

    worker = Worker(Jobs(), ["a"], Broadcasts())
    async with running(worker):
        await turn()
    assert "every worker gets every message" in caplog.text


# Arguments


def test_channels_are_read_once() -> None:
    """A channel that is named twice is read once."""
    assert Worker(function, iter("aba"), BaseChannelLayer()).channels == ("a", "b")


ROUTER = ChannelNameRouter({"mail": function})


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"application": 1}, TypeError, r"must be callable, not 1"),
        ({"channels": "mail"}, TypeError, r"must be a list of names, not 'mail'"),
        ({"channels": None}, TypeError, r"must be a list of names, not None"),
        ({"channels": []}, ValueError, r"needs the name of at least one channel"),
        ({"channels": ["a b"]}, TypeError, r"'a b' is not a channel name: it must"),
        ({"channels": ["a!b"]}, ValueError, r"channel 'a!b' belongs to one process"),
        (
            {"application": ROUTER, "channels": ["mail", "mial"]},
            ValueError,
            r"<ChannelNameRouter \[mail\]> has no application for channel 'mial'",
        ),
        ({"channel_layer": None}, TypeError, r"an instance of a subclass .*, not None"),
        ({"concurrency": 0}, ValueError, r"concurrency must be at least 1, not 0"),
        ({"shutdown_timeout": "1"}, TypeError, r"must be a number or None, not '1'"),
        ({"shutdown_timeout": -1}, ValueError, r"must not be negative, but is -1"),
    ],
)
def test_wrong_arguments(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The error names the invalid argument and says what it should be."""
    arguments: dict[str, Any] = {
        "application": function,
        "channels": ["mail"],
        "channel_layer": BaseChannelLayer(),
    }
    with pytest.raises(error, match=message):
        Worker(**{**arguments, **changed})
