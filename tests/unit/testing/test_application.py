"""Any application can be run in a test, and never outlives it."""

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

# After so many seconds a test fails that would wait for ever.
LIMIT = 5
# For so many seconds is waited in vain, where waiting in vain is what is tested.
SHORT = 0.02

Call: TypeAlias = Callable[[ApplicationCommunicator], Awaitable[object]]


class Oops(Exception):
    """What applications fail with."""


class Greeter(AsyncConsumer):
    """Answers a greeting with its name, and leaves at a farewell."""

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
    """Send back whatever is received."""
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
    """An application that goes on although it is cancelled, so many times."""

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
    """Wait until the application has ended, without looking at how."""
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
    """A class may be given where an application is expected."""
    communicator = ApplicationCommunicator(application(), {"type": "greeting"})
    await communicator.send_input({"type": "hello", "from": "test"})
    output = await communicator.receive_output()
    assert output == {"type": "hello", "from": name, "to": "test"}
    await communicator.send_input({"type": "bye"})
    await communicator.wait()
    assert communicator.future.result() is None


async def test_application_starts_with_the_first_call_that_needs_it() -> None:
    """The scope may be changed until then."""

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


async def test_application_has_a_context_of_its_own() -> None:
    """Context variables of the test are not seen by the application, nor its own."""
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
    """What the application sends waits until it is received."""
    async with ApplicationCommunicator(echo, {"type": "test"}) as communicator:
        for name in "abc":
            await communicator.send_input({"type": name})
        received = [await communicator.receive_output() for _ in "abc"]
    assert received == [{"type": "a"}, {"type": "b"}, {"type": "c"}]


# Waiting in vain


async def test_receive_output_that_times_out_cancels_the_application() -> None:
    """The application is over when no output comes in time."""
    communicator = ApplicationCommunicator(echo, {"type": "test"})
    with pytest.raises(TimeoutError):
        await communicator.receive_output(timeout=SHORT)
    assert communicator.future.cancelled()


async def test_wait_that_times_out_cancels_the_application() -> None:
    """The application is over when it does not end in time."""
    communicator = ApplicationCommunicator(echo, {"type": "test"})
    await communicator.wait(timeout=SHORT)
    assert communicator.future.cancelled()


@pytest.mark.parametrize("application", [fail_later, fail_to_stop])
async def test_exception_comes_out_of_receive_output_in_place_of_a_timeout(
    application: ASGIApplication,
) -> None:
    """An application that ends without the output fails the test with its reason."""
    communicator = ApplicationCommunicator(application, {"type": "test"})
    await communicator.send_input({"type": "x"})
    with pytest.raises(Oops):
        await communicator.receive_output(timeout=SHORT)


async def test_receive_nothing_tells_whether_there_was_no_output() -> None:
    """receive_nothing() leaves the output to be received."""
    async with ApplicationCommunicator(echo, {"type": "test"}) as communicator:
        assert await communicator.receive_nothing(timeout=SHORT, interval=0.001)
        await communicator.send_input({"type": "x"})
        assert not await communicator.receive_nothing(timeout=LIMIT)
        assert not await communicator.receive_nothing(timeout=0)
        assert await communicator.receive_output() == {"type": "x"}


# Failing


@every_call
async def test_exception_of_the_application_comes_out_of_the_next_call(
    call: Call,
) -> None:
    """The test fails with what the application failed with."""
    communicator = ApplicationCommunicator(fail, {"type": "test"})
    await ended(communicator)
    with pytest.raises(Oops, match=r"^at once$"):
        await call(communicator)


async def test_exception_comes_out_of_wait_when_the_application_fails() -> None:
    """wait() raises what ends the application in the meantime."""
    communicator = ApplicationCommunicator(fail_later, {"type": "test"})
    await communicator.send_input({"type": "x"})
    with pytest.raises(Oops, match=r"^later$"):
        await communicator.wait()


# Stopping


async def test_stop_cancels_a_running_application() -> None:
    """stop() does not wait for the application, and raises nothing."""
    communicator = ApplicationCommunicator(echo, {"type": "test"})
    await communicator.send_input({"type": "x"})
    communicator.stop()
    await ended(communicator)
    assert communicator.future.cancelled()


async def test_stop_without_an_application_does_nothing() -> None:
    """An application that was never started is not started by stop()."""
    tasks = asyncio.all_tasks()
    ApplicationCommunicator(echo, {"type": "test"}).stop()
    assert asyncio.all_tasks() == tasks


async def test_stop_raises_no_exception_unless_asked_to() -> None:
    """An exception of the application stays inside with exceptions=False."""
    communicator = ApplicationCommunicator(fail, {"type": "test"})
    await ended(communicator)
    communicator.stop(exceptions=False)
    assert isinstance(communicator.future.exception(), Oops)


# As a context manager


async def test_block_that_starts_no_application_ends_silently() -> None:
    """Leaving the block does not start the application either."""
    tasks = asyncio.all_tasks()
    async with ApplicationCommunicator(fail, {"type": "test"}):
        pass
    assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_block_ends_the_application(times: int) -> None:
    """The application has ended after the block, even if it resists."""
    application = Stubborn(times)
    communicator = ApplicationCommunicator(application, {"type": "test"})
    try:
        async with asyncio.timeout(10), communicator:
            await communicator.send_input({"type": "x"})
            # By now it waits for another event.
            assert await communicator.receive_nothing(timeout=SHORT)
        assert communicator.future.done()
    finally:
        application.times = 0
        communicator.future.cancel()


@pytest.mark.parametrize("application", [echo, fail, fail_to_stop])
async def test_exception_in_the_block_comes_out(application: ASGIApplication) -> None:
    """A test fails with its own exception, and the application has ended."""
    communicator = ApplicationCommunicator(application, {"type": "test"})

    async def block() -> None:
        async with communicator:
            await communicator.send_input({"type": "x"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()
    assert communicator.future.done()


async def test_cancelling_the_block_ends_the_application() -> None:
    """The cancellation goes on when the application has ended."""
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
async def test_exception_that_no_call_has_shown_comes_out_at_the_end(
    application: ASGIApplication,
) -> None:
    """A failure of the application does not go unnoticed."""

    async def block() -> None:
        async with ApplicationCommunicator(
            application, {"type": "test"}
        ) as communicator:
            await communicator.send_input({"type": "x"})
            # It gets as far as it can before it is cancelled.
            await asyncio.wait([communicator.future], timeout=SHORT)

    with pytest.raises(Oops):
        await block()


@every_call
async def test_exception_that_a_call_has_shown_does_not_come_out_again(
    call: Call,
) -> None:
    """A test that expects a failure ends well."""
    async with ApplicationCommunicator(fail, {"type": "test"}) as communicator:
        await ended(communicator)
        with pytest.raises(Oops):
            await call(communicator)


async def test_call_that_was_given_up_has_shown_nothing() -> None:
    """A failure after a call that the test itself ended comes out all the same."""

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
