"""Any application can run in a test, and never outlives it."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from fast_channels.consumer import AsyncConsumer
from fast_channels.exceptions import StopConsumer
from fast_channels.testing import ApplicationCommunicator
from fast_channels.type_defs import (
    ASGIApplication,
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelMessage,
    ChannelScope,
)

# Seconds after which a test that would wait forever fails.
LIMIT = 5
# Seconds to wait for something that does not happen.
SHORT = 0.02

Call: TypeAlias = Callable[[ApplicationCommunicator], Awaitable[object]]


class Oops(Exception):
    """The error of the applications."""


class Greeter(AsyncConsumer):
    """Answers a greeting with its name, and stops at a farewell."""

    def __init__(self, name: str = "nobody") -> None:
        super().__init__()
        self.name = name

    async def hello(self, message: ChannelMessage) -> None:
        await self.send({"type": "hello", "from": self.name, "to": message["from"]})

    async def bye(self, message: ChannelMessage) -> None:
        raise StopConsumer


async def echo(
    scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Send every received event back."""
    while True:
        await send(await receive())


async def fail(
    scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Send one event, and fail."""
    await send({"type": "last words"})
    raise Oops("at once")


async def fail_later(
    scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Fail at the first event."""
    await receive()
    raise Oops("later")


async def fail_to_stop(
    scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Fail when it is cancelled."""
    try:
        await receive()
    finally:
        raise Oops("in the end")


class Stubborn:
    """An application that ignores a number of cancellations."""

    def __init__(self, times: int) -> None:
        self.times = times

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        while self.times > 0:
            try:
                await receive()
            except asyncio.CancelledError:
                self.times -= 1
        await asyncio.sleep(0)


async def ended(communicator: ApplicationCommunicator) -> None:
    """Wait until the application has ended, and ignore how."""
    async with asyncio.timeout(LIMIT):
        await asyncio.wait([communicator.future])


async def call_stop(communicator: ApplicationCommunicator) -> None:
    communicator.stop()


CALLS: dict[str, Call] = {
    "send_input": lambda communicator: communicator.send_input({"type": "x"}),
    "receive_output": lambda communicator: communicator.receive_output(),
    "receive_nothing": lambda communicator: communicator.receive_nothing(),
    "wait": lambda communicator: communicator.wait(),
    "stop": call_stop,
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


# Running


@pytest.mark.parametrize(
    ("application", "name"),
    [
        (lambda: Greeter, "nobody"),
        (lambda: Greeter.as_asgi(name="Ada"), "Ada"),
        (lambda: Greeter(name="Bob"), "Bob"),
    ],
    ids=["class", "as_asgi", "instance"],
)
async def test_consumer_is_run_as_a_class_or_as_an_application(
    application: Callable[[], ASGIApplication | type[AsyncConsumer]], name: str
) -> None:
    """The communicator accepts a consumer class as an application."""
    communicator = ApplicationCommunicator(application(), {"type": "greeting"})
    await communicator.send_input({"type": "hello", "from": "test"})
    output = await communicator.receive_output()
    assert output == {"type": "hello", "from": name, "to": "test"}
    await communicator.send_input({"type": "bye"})
    await communicator.wait()
    assert communicator.future.result() is None


async def test_application_starts_with_the_first_call_that_needs_it() -> None:
    """The scope can be changed until the application starts."""

    async def tell_scope(
        scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        await send(scope)

    tasks = asyncio.all_tasks()
    communicator = ApplicationCommunicator(tell_scope, {"type": "test"})
    assert asyncio.all_tasks() == tasks
    communicator.scope["user"] = "Ada"
    assert await communicator.receive_output() == {"type": "test", "user": "Ada"}
    await communicator.wait()


async def test_application_has_its_own_context() -> None:
    """Test and application do not see each other's changes of context variables."""
    variable = contextvars.ContextVar("variable", default="unset")

    async def tell_variable(
        scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        await send({"type": variable.get()})
        variable.set("of the application")

    variable.set("of the test")
    communicator = ApplicationCommunicator(tell_variable, {"type": "test"})
    assert await communicator.receive_output() == {"type": "unset"}
    await communicator.wait()
    assert variable.get() == "of the test"


async def test_outputs_are_received_in_order() -> None:
    """The application's outputs are kept until they are received."""
    async with ApplicationCommunicator(echo, {"type": "test"}) as communicator:
        for name in "abc":
            await communicator.send_input({"type": name})
        received = [await communicator.receive_output() for _ in "abc"]
    assert received == [{"type": "a"}, {"type": "b"}, {"type": "c"}]


# Time limits


async def test_receive_output_that_times_out_cancels_the_application() -> None:
    """The application is cancelled if no output comes in time."""
    communicator = ApplicationCommunicator(echo, {"type": "test"})
    with pytest.raises(TimeoutError):
        await communicator.receive_output(timeout=SHORT)
    assert communicator.future.cancelled()


async def test_wait_that_times_out_cancels_the_application() -> None:
    """The application is cancelled if it does not end in time."""
    communicator = ApplicationCommunicator(echo, {"type": "test"})
    await communicator.wait(timeout=SHORT)
    assert communicator.future.cancelled()


@pytest.mark.parametrize("application", [fail_later, fail_to_stop])
async def test_receive_output_raises_an_exception_instead_of_a_timeout(
    application: ASGIApplication,
) -> None:
    """If the application fails before the output, its exception is raised."""
    communicator = ApplicationCommunicator(application, {"type": "test"})
    await communicator.send_input({"type": "x"})
    with pytest.raises(Oops):
        await communicator.receive_output(timeout=SHORT)


async def test_receive_nothing_returns_whether_there_was_no_output() -> None:
    """receive_nothing() does not consume the output."""
    async with ApplicationCommunicator(echo, {"type": "test"}) as communicator:
        assert await communicator.receive_nothing(timeout=SHORT, interval=0.001)
        await communicator.send_input({"type": "x"})
        assert not await communicator.receive_nothing(timeout=LIMIT)
        assert not await communicator.receive_nothing(timeout=0)
        assert await communicator.receive_output() == {"type": "x"}


# Failing


@every_call
async def test_next_call_raises_the_exception_of_the_application(
    call: Call,
) -> None:
    """The test fails with the application's exception."""
    communicator = ApplicationCommunicator(fail, {"type": "test"})
    await ended(communicator)
    with pytest.raises(Oops, match=r"^at once$"):
        await call(communicator)


async def test_wait_raises_the_exception_of_the_application() -> None:
    """wait() raises the exception that ends the application meanwhile."""
    communicator = ApplicationCommunicator(fail_later, {"type": "test"})
    await communicator.send_input({"type": "x"})
    with pytest.raises(Oops, match=r"^later$"):
        await communicator.wait()


# Stopping


async def test_stop_cancels_a_running_application() -> None:
    """stop() cancels the application, and raises nothing."""
    communicator = ApplicationCommunicator(echo, {"type": "test"})
    await communicator.send_input({"type": "x"})
    communicator.stop()
    await ended(communicator)
    assert communicator.future.cancelled()


async def test_stop_without_an_application_does_nothing() -> None:
    """stop() does not start an application that was never started."""
    tasks = asyncio.all_tasks()
    ApplicationCommunicator(echo, {"type": "test"}).stop()
    assert asyncio.all_tasks() == tasks


async def test_stop_can_hide_an_exception() -> None:
    """With exceptions=False, an exception of the application is not raised."""
    communicator = ApplicationCommunicator(fail, {"type": "test"})
    await ended(communicator)
    communicator.stop(exceptions=False)
    assert isinstance(communicator.future.exception(), Oops)


# As a context manager


async def test_block_that_starts_no_application_ends_silently() -> None:
    """Leaving the block does not start the application."""
    tasks = asyncio.all_tasks()
    async with ApplicationCommunicator(fail, {"type": "test"}):
        pass
    assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_block_ends_the_application(times: int) -> None:
    """The application has ended after the block, even if it ignores cancellations."""
    application = Stubborn(times)
    communicator = ApplicationCommunicator(application, {"type": "test"})
    try:
        async with asyncio.timeout(10), communicator:
            await communicator.send_input({"type": "x"})
            # By now the application waits for another event.
            assert await communicator.receive_nothing(timeout=SHORT)
        assert communicator.future.done()
    finally:
        application.times = 0
        communicator.future.cancel()


@pytest.mark.parametrize("application", [echo, fail, fail_to_stop])
async def test_exception_in_the_block_is_raised(application: ASGIApplication) -> None:
    """A test fails with its own exception, and the application is ended."""
    communicator = ApplicationCommunicator(application, {"type": "test"})

    async def block() -> None:
        async with communicator:
            await communicator.send_input({"type": "x"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()
    assert communicator.future.done()


async def test_cancelling_the_block_ends_the_application() -> None:
    """The cancellation is raised after the application has ended."""
    communicator = ApplicationCommunicator(echo, {"type": "test"})

    async def block() -> None:
        async with communicator:
            await communicator.receive_output(timeout=LIMIT)

    running = asyncio.create_task(block())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert communicator.future.cancelled()


@pytest.mark.parametrize("application", [fail, fail_later, fail_to_stop])
async def test_block_raises_an_exception_that_no_call_has_raised(
    application: ASGIApplication,
) -> None:
    """A failure of the application does not go unnoticed."""

    async def block() -> None:
        async with ApplicationCommunicator(
            application, {"type": "test"}
        ) as communicator:
            await communicator.send_input({"type": "x"})
            # The application runs as far as it can before it is cancelled.
            await asyncio.wait([communicator.future], timeout=SHORT)

    with pytest.raises(Oops):
        await block()


@every_call
async def test_exception_is_not_raised_twice(
    call: Call,
) -> None:
    """A test that expects a failure passes."""
    async with ApplicationCommunicator(fail, {"type": "test"}) as communicator:
        await ended(communicator)
        with pytest.raises(Oops):
            await call(communicator)


async def test_exception_after_a_cancelled_call_is_raised() -> None:
    """A failure after a call that the test itself cancelled is raised at the end."""

    async def block() -> None:
        async with ApplicationCommunicator(
            fail_later, {"type": "test"}
        ) as communicator:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(communicator.receive_output(), SHORT)
            await communicator.send_input({"type": "x"})
            await ended(communicator)

    with pytest.raises(Oops):
        await block()
