"""The queue of messages of one channel."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.shared import SharedMessage
from tests.waiting import turn


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a test a clock to advance."""
    return Clock()


@pytest.fixture
def mailbox(clock: Clock) -> Mailbox:
    """Give a test an empty mailbox with room for three messages."""
    return Mailbox(3, clock=clock)


def message(name: str) -> Callable[[], dict[str, Any]]:
    """Return a message as it is put into a mailbox."""
    return lambda: {"name": name}


def put(mailbox: Mailbox, *names: str) -> None:
    """Put messages into a mailbox that has room for them."""
    for name in names:
        assert mailbox.put(message(name))


def take_all(mailbox: Mailbox) -> list[str]:
    """Empty a mailbox, and return the names of its messages."""
    names: list[str] = []
    while (taken := mailbox.take()) is not None:
        names.append(taken["name"])
    return names


async def start(*mailboxes: Mailbox) -> list[asyncio.Task[dict[str, Any]]]:
    """Return a task for each mailbox that waits in get()."""
    tasks = [asyncio.create_task(mailbox.get()) for mailbox in mailboxes]
    await turn()
    return tasks


# Taking


def test_messages_leave_in_the_order_in_which_they_came(mailbox: Mailbox) -> None:
    """take() returns the oldest message, or None if there is none."""
    put(mailbox, "a", "b")
    assert len(mailbox) == 2
    assert mailbox.take() == {"name": "a"}
    assert mailbox.take() == {"name": "b"}
    assert mailbox.take() is None
    assert len(mailbox) == 0


def test_message_is_copied_when_it_is_taken(mailbox: Mailbox) -> None:
    """Mailboxes that share a message each return their own dict."""
    original = {"name": "a"}
    mailbox.put(original.copy)
    mailbox.put(original.copy)
    first, second = mailbox.take(), mailbox.take()
    assert first == second == original
    assert first is not second
    assert first is not original


def test_full_mailbox_refuses_messages(mailbox: Mailbox) -> None:
    """put() to a full mailbox returns False, and changes nothing."""
    put(mailbox, "a", "b", "c")
    assert not mailbox.put(message("d"))
    assert take_all(mailbox) == ["a", "b", "c"]
    assert mailbox.put(message("e"))


def test_drain_takes_every_message_out(mailbox: Mailbox) -> None:
    """drain() returns all messages in order, and makes room."""
    put(mailbox, "a", "b", "c")
    assert [one()["name"] for one in mailbox.drain()] == ["a", "b", "c"]
    assert len(mailbox) == 0
    assert mailbox.take() is None
    put(mailbox, "d")


# Expiry


def test_oldest_message_can_be_compared(mailbox: Mailbox) -> None:
    """The oldest is the same object until a message is taken; None if empty."""
    assert mailbox.oldest is None
    put(mailbox, "a", "b")
    oldest = mailbox.oldest
    assert oldest is not None
    assert mailbox.oldest is oldest
    mailbox.take()
    assert mailbox.oldest is not oldest
    mailbox.take()
    assert mailbox.oldest is None


def test_message_is_dropped_at_its_deadline(mailbox: Mailbox, clock: Clock) -> None:
    """take() skips expired messages."""
    mailbox.put(message("a"), deadline=clock.now + 10)
    mailbox.put(message("b"), deadline=clock.now + 11)
    clock.now += 10
    assert take_all(mailbox) == ["b"]


def test_messages_without_a_deadline_never_expire(
    mailbox: Mailbox, clock: Clock
) -> None:
    """A message without a deadline waits forever."""
    put(mailbox, "a")
    clock.now += 1e9
    assert take_all(mailbox) == ["a"]


def test_expired_message_makes_room(mailbox: Mailbox, clock: Clock) -> None:
    """A full mailbox drops its oldest message for a new one if that has expired."""
    mailbox.put(message("a"), deadline=clock.now + 10)
    put(mailbox, "b", "c")
    clock.now += 10
    put(mailbox, "d")
    assert not mailbox.put(message("e"))
    assert take_all(mailbox) == ["b", "c", "d"]


def test_mailbox_has_lapsed_when_everything_in_it_has(
    mailbox: Mailbox, clock: Clock
) -> None:
    """A mailbox has lapsed if it is empty or its last message has expired."""
    assert mailbox.lapsed
    mailbox.put(message("a"), deadline=clock.now + 10)
    mailbox.put(message("b"), deadline=clock.now + 20)
    clock.now += 10
    assert not mailbox.lapsed
    clock.now += 10
    assert mailbox.lapsed


def test_deadlines_are_measured_with_the_monotonic_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By default, a mailbox uses time.monotonic()."""
    mailbox = Mailbox(1)
    mailbox.put(message("a"), deadline=0)
    assert mailbox.lapsed


# Waiting


async def test_get_returns_a_message_that_waits(mailbox: Mailbox) -> None:
    """get() returns the oldest message at once."""
    put(mailbox, "a", "b")
    assert await mailbox.get() == {"name": "a"}
    assert take_all(mailbox) == ["b"]


async def test_get_waits_for_a_message(mailbox: Mailbox) -> None:
    """get() waits until there is a message."""
    (getting,) = await start(mailbox)
    assert not getting.done()
    put(mailbox, "a")
    assert await getting == {"name": "a"}
    assert len(mailbox) == 0


async def test_get_skips_expired_messages(mailbox: Mailbox, clock: Clock) -> None:
    """A message that expires before the woken task runs is not returned."""
    (getting,) = await start(mailbox)
    mailbox.put(message("a"), deadline=clock.now + 10)
    clock.now += 10
    await turn()
    assert not getting.done()
    put(mailbox, "b")
    assert await getting == {"name": "b"}


def test_shared_messages_are_taken_whole(mailbox: Mailbox, clock: Clock) -> None:
    """take_shared() returns what several mailboxes share, unless that has expired."""
    content = {"type": "a"}
    shared = SharedMessage(content, content.copy)
    mailbox.put_item((clock.now + 10, content.copy, shared))
    mailbox.put_item((clock.now + 20, content.copy, shared))
    put(mailbox, "b")
    clock.now += 10
    assert mailbox.take_shared() is shared
    assert mailbox.take_shared() == {"name": "b"}
    assert mailbox.take_shared() is None


async def test_every_waiting_task_gets_a_message(mailbox: Mailbox) -> None:
    """Several messages go to different tasks, in the order of arrival."""
    tasks = await start(mailbox, mailbox, mailbox)
    put(mailbox, "a", "b", "c")
    received = [task["name"] for task in await asyncio.gather(*tasks)]
    assert received == ["a", "b", "c"]


async def test_task_that_lost_its_message_to_another_waits_on(
    mailbox: Mailbox,
) -> None:
    """A task that finds no message when it wakes up waits again."""
    (getting,) = await start(mailbox)
    put(mailbox, "a")
    assert take_all(mailbox) == ["a"]
    await turn()
    assert not getting.done()
    put(mailbox, "b")
    assert await getting == {"name": "b"}


async def test_drain_leaves_waiting_tasks_waiting(mailbox: Mailbox) -> None:
    """A task that waits when the mailbox is drained gets the next message."""
    (getting,) = await start(mailbox)
    put(mailbox, "a")
    mailbox.drain()
    await turn()
    assert not getting.done()
    put(mailbox, "b")
    assert await getting == {"name": "b"}


# Cancelling


async def test_task_that_is_cancelled_takes_nothing(mailbox: Mailbox) -> None:
    """A message that arrives after the cancellation waits for the next receiver."""
    (getting,) = await start(mailbox)
    getting.cancel()
    await asyncio.wait([getting])
    put(mailbox, "a")
    assert await mailbox.get() == {"name": "a"}


async def test_task_that_is_cancelled_when_just_woken_takes_nothing(
    mailbox: Mailbox,
) -> None:
    """A message that arrives right before the cancellation stays in the mailbox."""
    (getting,) = await start(mailbox)
    put(mailbox, "a")
    getting.cancel()
    await asyncio.wait([getting])
    assert getting.cancelled()
    assert take_all(mailbox) == ["a"]


async def test_task_that_is_cancelled_when_just_woken_wakes_the_next(
    mailbox: Mailbox,
) -> None:
    """The cancelled task's message goes to another waiting task."""
    first, second = await start(mailbox, mailbox)
    put(mailbox, "a")
    first.cancel()
    assert await second == {"name": "a"}
    assert first.cancelled()


async def test_task_that_is_being_cancelled_is_not_woken(mailbox: Mailbox) -> None:
    """A message that arrives right after the cancellation goes to another task."""
    first, second = await start(mailbox, mailbox)
    first.cancel()
    put(mailbox, "a")
    assert await second == {"name": "a"}
    assert first.cancelled()


async def test_get_that_is_closed_when_just_woken_wakes_the_next(
    mailbox: Mailbox,
) -> None:
    """A coroutine that is closed instead of cancelled takes no message either."""
    thrown_away = mailbox.get()
    thrown_away.send(None)
    (getting,) = await start(mailbox)
    put(mailbox, "a")
    thrown_away.close()
    assert await getting == {"name": "a"}


async def test_get_that_was_closed_is_not_woken(mailbox: Mailbox) -> None:
    """A closed coroutine does not keep other tasks waiting."""
    thrown_away = mailbox.get()
    thrown_away.send(None)
    (getting,) = await start(mailbox)
    thrown_away.close()
    put(mailbox, "a")
    assert await getting == {"name": "a"}


# The listener


@pytest.fixture
def calls(mailbox: Mailbox) -> list[int]:
    """Give a test the calls of a listener: the number of messages at each."""
    calls: list[int] = []
    mailbox.listener = lambda: calls.append(len(mailbox))
    return calls


def test_listener_is_called_after_each_put(mailbox: Mailbox, calls: list[int]) -> None:
    """The listener finds the message in the mailbox."""
    put(mailbox, "a", "b")
    assert calls == [1, 2]


def test_listener_is_not_called_for_a_refused_message(
    mailbox: Mailbox, calls: list[int]
) -> None:
    """The listener is not called for a message that a full mailbox refuses."""
    put(mailbox, "a", "b", "c")
    mailbox.put(message("d"))
    assert calls == [1, 2, 3]


async def test_waiting_task_takes_precedence_over_the_listener(
    mailbox: Mailbox, calls: list[int]
) -> None:
    """The listener is not called for a message that a waiting task gets."""
    (getting,) = await start(mailbox)
    put(mailbox, "a")
    assert await getting == {"name": "a"}
    assert calls == []


async def test_listener_gets_the_message_of_a_cancelled_task(
    mailbox: Mailbox, calls: list[int]
) -> None:
    """If the woken task is cancelled, the listener is called instead."""
    (getting,) = await start(mailbox)
    put(mailbox, "a")
    getting.cancel()
    await asyncio.wait([getting])
    assert calls == [1]


async def test_listener_is_called_if_the_waiting_task_is_being_cancelled(
    mailbox: Mailbox, calls: list[int]
) -> None:
    """The listener is called for a message if the only waiting task was cancelled."""
    (getting,) = await start(mailbox)
    getting.cancel()
    put(mailbox, "a")
    assert 1 in calls
    await asyncio.wait([getting])
    assert take_all(mailbox) == ["a"]


# Threads and event loops


async def test_thread_puts_a_message(mailbox: Mailbox) -> None:
    """A thread without an event loop wakes a task that waits in this one."""
    (getting,) = await start(mailbox)
    try:
        await asyncio.to_thread(put, mailbox, "a")
        assert await getting == {"name": "a"}
    finally:
        getting.cancel()


async def test_event_loop_of_a_thread_puts_a_message(mailbox: Mailbox) -> None:
    """A task in the event loop of another thread wakes a task in this one."""

    async def put_there() -> None:
        put(mailbox, "a")

    (getting,) = await start(mailbox)
    await asyncio.to_thread(asyncio.run, put_there())
    assert await getting == {"name": "a"}


async def test_task_of_a_closed_event_loop_is_skipped(
    mailbox: Mailbox,
) -> None:
    """A waiting task whose event loop was closed gets no message."""
    closed = asyncio.new_event_loop()
    mailbox_of_another_thread: asyncio.Future[None] = closed.create_future()
    closed.close()
    mailbox._sleepers.append(mailbox_of_another_thread)  # pyright: ignore[reportPrivateUsage] # a task would be destroyed while it waits, which is logged
    (getting,) = await start(mailbox)
    put(mailbox, "a")
    assert await getting == {"name": "a"}


async def test_message_that_comes_while_a_task_falls_asleep_is_seen(
    mailbox: Mailbox,
) -> None:
    """No message is lost if a thread puts one just before a task falls asleep."""

    class Sleepers(list[asyncio.Future[None]]):
        def append(self, sleeper: asyncio.Future[None], /) -> None:
            put(mailbox, "a")
            super().append(sleeper)

    mailbox._sleepers = Sleepers()  # pyright: ignore[reportPrivateUsage] # the moment of the other thread
    assert await mailbox.get() == {"name": "a"}


class Emptied(deque[Any]):
    """A deque whose last item another thread takes after a check."""

    def __len__(self) -> int:
        return 1


class Woken(list[Any]):
    """A list whose last item another thread takes after a check."""

    def __len__(self) -> int:
        return 1


def test_message_that_another_thread_takes_first(
    mailbox: Mailbox,
) -> None:
    """take() returns None if another thread is faster."""
    mailbox.messages = Emptied()
    assert mailbox.take() is None
    assert mailbox.take_shared() is None


def test_sleeper_that_another_thread_wakes_first(
    mailbox: Mailbox, calls: list[int]
) -> None:
    """put() calls the listener if another thread has woken the last sleeper."""
    mailbox._sleepers = Woken()  # pyright: ignore[reportPrivateUsage] # as above
    put(mailbox, "a")
    assert calls == [1]


@pytest.mark.parametrize(
    ("waiting", "left"), [("a", "x"), ("ab", "x"), ("abc", "cx")], ids=repr
)
def test_receiver_makes_room_while_another_thread_needs_it(
    waiting: str, left: str
) -> None:
    """A receiver can take an expired message just before put() drops it."""

    def clock() -> float:
        # The other thread acts when put() has just checked the first message.
        if others:
            others.pop()()
        return 100

    others: list[Callable[[], Any]] = []
    mailbox = Mailbox(len(waiting), clock=clock)
    mailbox.put(message("a"), deadline=50)
    put(mailbox, *waiting[1:])
    others.append(mailbox.take)
    assert mailbox.put(message("x"))
    assert take_all(mailbox) == list(left)
