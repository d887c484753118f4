"""What a reader asks Redis for, and what it makes of the replies, on paper."""

from dataclasses import replace

from fast_channels.layers.redis.keys import private_key
from fast_channels.layers.redis.queue.batches import Popped, ProcessQueue, Recent, Terms
from fast_channels.layers.redis.queue.plain_queue import PlainQueue


def make_terms() -> Terms:
    return Terms(
        "asgi",
        receiver="me",
        expiry=60,
        lease=35,
        max_deliveries=5,
        batch=100,
        quick=0.001,
    )


def reply(number: int, *values: bytes) -> list[list[bytes]]:
    """Return what Redis replies: the time, the number of the batch, messages."""
    messages = [part for value in values for part in (value, b"1000.5")]
    return [[b"1000.5", b"%d" % number, *messages]]


def received(
    queue: ProcessQueue, number: int, *values: bytes, waiting: int = 1
) -> list[bytes]:
    """Return what a queue makes of a reply."""
    taken = queue.accept(reply(number, *values), waiting, now=0)
    return [popped.value for popped in taken]


def test_keys_of_a_queue_share_a_slot_of_a_cluster() -> None:
    """What is in braces is hashed: the key of the queue itself."""
    assert private_key("asgi", "receivers", "jobs") == "asgi:receivers:{asgijobs}"
    assert make_terms().key("inflight", "jobs", "me") == "asgi:inflight:{asgijobs}:me"


def test_what_an_older_server_has_again_is_received_once() -> None:
    """After a reconnect, until it was seen empty, a queue may repeat messages."""
    queue = ProcessQueue("mine!", make_terms())
    assert received(queue, 1, b"1", b"2") == [b"1", b"2"]
    queue.reconnected()
    assert received(queue, 2, b"2", b"3") == [b"3"]
    assert received(queue, 3, b"1", waiting=0) == []
    assert received(queue, 4, b"1", b"2") == [b"1", b"2"]


def test_what_was_received_outlives_its_queue() -> None:
    """A queue that was given up while no reader was there may repeat nothing either."""
    terms = make_terms()
    assert received(ProcessQueue("mine!", terms), 1, b"1") == [b"1"]
    assert received(ProcessQueue("mine!", terms), 2, b"1", b"2") == [b"2"]
    assert received(ProcessQueue("other!", terms), 3, b"1") == [b"1"]


def test_only_the_latest_messages_are_remembered() -> None:
    """Memory is bounded: at least so many messages, and at most twice as many."""
    queue = ProcessQueue("mine!", replace(make_terms(), recent=Recent(2)))
    queue.reconnected()
    assert received(queue, 1, b"1", b"2", b"3") == [b"1", b"2", b"3"]
    assert received(queue, 2, b"2", b"3") == []
    assert received(queue, 3, b"4", b"5", b"1") == [b"4", b"5", b"1"]


def test_acknowledging_has_no_effect_on_the_queue_of_a_process() -> None:
    """Its messages are done when they have been received."""
    queue = ProcessQueue("mine!", make_terms())
    queue.readers = 1
    queue.ask(now=0)
    [popped] = queue.accept(reply(1, b"1"), 0, now=0)
    popped.acknowledge()
    popped.give_back()
    assert not queue.due(now=0)


def test_an_equal_message_is_not_settled_with_the_one_before() -> None:
    """What was acknowledged while an equal message was taken is the earlier one."""
    queue = PlainQueue("jobs", make_terms(), waiting=lambda _: 0, wake=lambda: None)
    queue.readers = 1
    taken: list[Popped] = []
    for score in (b"1", b"2"):
        queue.ask(now=0)
        for popped in taken:
            popped.acknowledge()
        taken = queue.accept([[b"3", b"0", b"0", [], [b"same", score]]], 0, now=0)
    [(_, _, arguments)] = queue.ask(now=0)
    assert arguments[7:] == [1, 0, 0]
