"""What every layer promises about messages."""

import collections
import datetime as dt
import enum
import threading
import uuid
from typing import Any, NamedTuple, cast

import pytest

from fast_channels.layers import BaseChannelLayer

from .backends import Backend, Pair

CONTENTS: list[dict[str, Any]] = [
    {},
    {"none": None, "yes": True, "no": False},
    {"int": -(2**53), "float": 0.1, "infinity": float("inf")},
    {"text": "caf\u00e9 \U0001f600 \0", "empty": "", "bytes": b"\0\xff"},
    {"list": [1, [2, []]], "dict": {"a": {"b": {}}, "c": [{"d": "e"}]}},
    {"long": "x" * 100_000},
    {"two words": 1, "": 2, "caf\u00e9": 3},
]


async def member(layer: BaseChannelLayer) -> str:
    """Return a new channel that is in the group ``group``."""
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    return channel


@pytest.fixture(params=["send", "group_send"])
def way(request: pytest.FixtureRequest) -> str:
    """Give a test each way of sending: to a channel, and to a group."""
    name = request.param
    assert isinstance(name, str)
    return name


async def send(layer: BaseChannelLayer, way: str, channel: str, message: Any) -> None:
    """Send to a channel, or to the group that it is in."""
    if way == "send":
        await layer.send(channel, message)
    else:
        await layer.group_send("group", message)


@pytest.mark.parametrize(
    "content",
    CONTENTS,
    ids=lambda content: ",".join(content) or "empty",
)
async def test_message_arrives_as_it_was_sent(
    backend: Backend, pair: Pair, way: str, content: dict[str, Any]
) -> None:
    """A message may hold what JSON has, and in most layers bytes."""
    channel = await member(pair.layer)
    message = {"type": "test.message", **content}
    if "bytes" in repr(content) and not backend.carries_bytes:
        with pytest.raises(
            TypeError, match=r"cannot be sent.* bytes, which JSON does not"
        ):
            await send(pair.other, way, channel, message)
        return
    await send(pair.other, way, channel, message)
    assert await pair.rest(channel) == [message]


async def test_message_is_read_when_it_is_sent(pair: Pair, way: str) -> None:
    """Changing a message after it was sent changes nothing for the receiver."""
    channel = await member(pair.layer)
    message: dict[str, Any] = {"type": "test.message", "items": [{"a": 1}]}
    await send(pair.other, way, channel, message)
    message["items"][0]["a"] = 2
    message["items"].append(3)
    message["more"] = True
    assert await pair.rest(channel) == [{"type": "test.message", "items": [{"a": 1}]}]


@pytest.mark.parametrize("content", [{"a": 1}, {"a": [{"b": 1}]}], ids=["flat", "deep"])
async def test_received_message_is_the_receivers_own(
    pair: Pair, content: dict[str, Any]
) -> None:
    """Changing a received message shows nowhere else, neither in it nor below it."""
    channels = [await member(pair.layer) for _ in range(3)]
    message = {"type": "test.message", **content}
    await pair.other.group_send("group", message)
    received = [await pair.layer.receive(channel) for channel in channels]
    received[0]["a"] = "changed"
    if isinstance(received[1]["a"], list):
        received[1]["a"][0]["b"] = "changed"
    assert received[2] == message == {"type": "test.message", **content}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (None, r"a message must be a dict, not NoneType: None"),
        ("text", r"a message must be a dict, not str: 'text'"),
        ([("type", "a")], r"a message must be a dict, not list: \[\('type', 'a'\)\]"),
        ({"type": "a", 1: 2}, r"keys of a message must be str, but 1 is of type int"),
    ],
    ids=["None", "str", "list", "int key"],
)
async def test_what_is_no_message_is_refused(
    pair: Pair, way: str, message: Any, error: str
) -> None:
    """The error names what was to be sent, and nothing is sent."""
    channel = await member(pair.layer)
    with pytest.raises(TypeError, match=error):
        await send(pair.other, way, channel, message)
    assert await pair.rest(channel) == []


async def test_refused_by_a_group_without_members_too(other: BaseChannelLayer) -> None:
    """Whether a message is refused does not depend on who would receive it."""
    with pytest.raises(TypeError, match=r"keys of a message must be str"):
        await other.group_send("group", cast("Any", {1: 2}))


class Color(enum.Enum):
    """A value that JSON does not have."""

    RED = "red"


class Size(str, enum.Enum):  # noqa: UP042 # as many wrote it before StrEnum
    """A str to those that look for one."""

    LARGE = "large"

    def __str__(self) -> str:
        return "Size of your choice"


class Priority(enum.IntEnum):
    """An int to those that look for one."""

    HIGH = 3


class Point(NamedTuple):
    """A tuple to those that look for one."""

    x: int
    y: float


ALIKE: list[tuple[Any, Any]] = [
    ((1, (2, [])), [1, [2, []]]),
    (Point(1, 2.5), [1, 2.5]),
    (Size.LARGE, "large"),
    ({Size.LARGE: Priority.HIGH}, {"large": 3}),
    (collections.OrderedDict(a=[True]), {"a": [True]}),
    (bytearray(b"bytes"), b"bytes"),
    ([memoryview(b"bytes")], [b"bytes"]),
    ({b"bytes": 1}, {b"bytes": 1}),
    ([2**64 - 1, -(2**63)], [2**64 - 1, -(2**63)]),
]


@pytest.mark.parametrize(
    ("sent", "received"),
    ALIKE,
    ids=[
        "tuple",
        "named tuple",
        "str enum",
        "str enum as a key",
        "dict subclass",
        "bytearray",
        "memoryview",
        "bytes key",
        "largest ints",
    ],
)
async def test_values_arrive_as_builtin_types(
    backend: Backend, pair: Pair, way: str, sent: Any, received: Any
) -> None:
    """A tuple arrives as a list, and a subclass as what it stands for, everywhere."""
    channel = await member(pair.layer)
    message = {"type": "test.message", "value": sent}
    if "bytes" in repr(received) and not backend.carries_bytes:
        with pytest.raises(TypeError, match=r"which JSON does not carry"):
            await send(pair.other, way, channel, message)
        return
    await send(pair.other, way, channel, message)
    [arrived] = await pair.rest(channel)
    # The repr, as a Size equals a str.
    assert repr(arrived["value"]) == repr(received)


def nested(depth: int) -> list[Any]:
    """Return lists in one another, so many that a message of them has that depth."""
    value: list[Any] = []
    for _ in range(depth - 2):
        value = [value]
    return value


RING: list[Any] = []
RING.extend([RING, RING])
REFUSED: list[tuple[Any, str]] = [
    (
        dt.date(2020, 2, 29),
        r"message\['value'\] is of type datetime\.date; .*isoformat",
    ),
    (
        {"a": [0, 1, {"when": dt.datetime(2020, 2, 29, tzinfo=dt.UTC)}]},
        r"message\['value'\]\['a'\]\[2\]\['when'\] is of type datetime\.datetime; ",
    ),
    ([{1}], r"message\['value'\]\[0\] is of type set; .* list of its items"),
    (Color.RED, r"message\['value'\] is of type .*Color; .* its value"),
    (threading.Lock(), r"message\['value'\] is of type .*lock; .* its str\(\)"),
    (uuid.UUID(int=0), r"message\['value'\] is of type uuid\.UUID; "),
    (memoryview(b"bytes")[::2], r"message\['value'\] is of type memoryview; "),
    ({1: 2}, r"the key 1 of message\['value'\] is of type int; keys are str"),
    (2**64, r"message\['value'\] is an int beyond 64 bits"),
    ((-(2**63) - 1,), r"message\['value'\]\[0\] is an int beyond 64 bits"),
    ("a\ud800", r"message\['value'\] is a str with a lone surrogate"),
    ({"\udfff": 1}, r"the key '\\udfff' of message\['value'\] is a str with a lone"),
    (RING, r"message\['value'\]\[0\]\[0\]\[0\]\[...\].* 100 levels deep, or contains"),
    (nested(101), r"message\['value'\]\[0\]\[0\]\[0\]\[...\].* more than 100 levels"),
    ([{"key" * 1000: {2}}], r"message\['value'\]\[0\]\['key.*\.\.\..*key'\] is of "),
]


@pytest.mark.parametrize(
    ("value", "error"),
    REFUSED,
    ids=[
        "date",
        "datetime below",
        "set",
        "enum",
        "lock",
        "UUID",
        "memoryview with gaps",
        "int key",
        "large int",
        "small int in a tuple",
        "surrogate",
        "surrogate in a key",
        "ring",
        "too deep",
        "long key",
    ],
)
async def test_what_not_every_layer_carries_is_refused(
    pair: Pair, way: str, value: Any, error: str
) -> None:
    """The error says where the value is and what to send, and nothing is sent."""
    channel = await member(pair.layer)
    message = {"type": "test.message", "text": "x" * 10_000, "value": value}
    with pytest.raises(TypeError, match=f"cannot be sent: .*{error}") as caught:
        await send(pair.other, way, channel, message)
    assert "__asgi_channel__" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert await pair.rest(channel) == []


async def test_deepest_message_reaches_every_member(pair: Pair) -> None:
    """A message may be nested 100 levels deep, for every receiver."""
    channels = [await member(pair.layer) for _ in range(2)]
    message = {"type": "test.message", "value": nested(100)}
    await pair.other.send(channels[0], message)
    await pair.other.group_send("group", message)
    assert await pair.rest(channels[0]) == [message, message]
    assert await pair.rest(channels[1]) == [message]


async def test_keys_of_statistics(pair: Pair) -> None:
    """Every layer counts under the same names, in the same order."""
    assert list(pair.layer.statistics()) == [
        "channels",
        "groups",
        "waiting",
        "delivered",
        "dropped",
        "undecodable",
        "reconnects",
    ]
