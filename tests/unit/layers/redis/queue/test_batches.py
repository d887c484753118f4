"""A reader's requests to Redis and its handling of the replies, without I/O."""

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
    """Return a reply of Redis: the time, the number of the batch, messages."""
    messages = [part for value in values for part in (value, b"1000.5")]
    return [[b"1000.5", b"%d" % number, *messages]]


def received(
    queue: ProcessQueue, number: int, *values: bytes, waiting: int = 1
) -> list[bytes]:
    """Return the messages that a queue takes from a reply."""
    taken = queue.accept(reply(number, *values), waiting, now=0)
    return [popped.value for popped in taken]


def test_keys_of_a_queue_share_a_slot_of_a_cluster() -> None:
    """Redis hashes the part in braces: the key of the queue itself."""
    assert private_key("asgi", "receivers", "jobs") == "asgi:receivers:{asgijobs}"
    assert make_terms().key("inflight", "jobs", "me") == "asgi:inflight:{asgijobs}:me"


def test_messages_that_an_older_server_repeats_are_received_once() -> None:
    """After a reconnect, a queue can repeat messages until it was seen empty."""
    queue = ProcessQueue("mine!", make_terms())
    assert received(queue, 1, b"1", b"2") == [b"1", b"2"]
    queue.reconnected()
    assert received(queue, 2, b"2", b"3") == [b"3"]
    assert received(queue, 3, b"1", waiting=0) == []
    assert received(queue, 4, b"1", b"2") == [b"1", b"2"]


def test_the_record_of_received_messages_outlives_its_queue() -> None:
    """A queue that was given up for lack of readers repeats no message later."""
    terms = make_terms()
    assert received(ProcessQueue("mine!", terms), 1, b"1") == [b"1"]
    assert received(ProcessQueue("mine!", terms), 2, b"1", b"2") == [b"2"]
    assert received(ProcessQueue("other!", terms), 3, b"1") == [b"1"]


def test_only_the_latest_messages_are_remembered() -> None:
    """Memory is bounded: the record has at most twice the number it must have."""
    queue = ProcessQueue("mine!", replace(make_terms(), recent=Recent(2)))
    queue.reconnected()
    assert received(queue, 1, b"1", b"2", b"3") == [b"1", b"2", b"3"]
    assert received(queue, 2, b"2", b"3") == []
    assert received(queue, 3, b"4", b"5", b"1") == [b"4", b"5", b"1"]


def test_acknowledging_has_no_effect_on_a_process_queue() -> None:
    """Its messages are done as soon as they are received."""
    queue = ProcessQueue("mine!", make_terms())
    queue.readers = 1
    queue.ask(now=0)
    [popped] = queue.accept(reply(1, b"1"), 0, now=0)
    popped.acknowledge()
    popped.give_back()
    assert not queue.due(now=0)


def test_an_equal_message_is_not_settled_with_the_one_before() -> None:
    """An acknowledgement settles the earlier of two equal messages."""
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
