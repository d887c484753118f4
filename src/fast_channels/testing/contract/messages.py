"""What every layer promises about messages."""

import collections
import datetime as dt
import enum
import re
import threading
import uuid
from typing import Any, NamedTuple, cast

import pytest

from fast_channels.layers import BaseChannelLayer

from .base import ContractBase, LayerPair, refusal

__all__ = ["MessageTests"]

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


class Color(enum.Enum):
    """A value that JSON does not have."""

    RED = "red"


class Size(str, enum.Enum):  # noqa: UP042 # its str() is not its value, unlike StrEnum's
    """An enum whose members are str."""

    LARGE = "large"


class Priority(enum.IntEnum):
    """An enum whose members are int."""

    HIGH = 3


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: float


ALIKE: dict[str, tuple[Any, Any]] = {
    "tuple": ((1, (2, [])), [1, [2, []]]),
    "named tuple": (Point(1, 2.5), [1, 2.5]),
    "str enum": (Size.LARGE, "large"),
    "str enum as a key": ({Size.LARGE: Priority.HIGH}, {"large": 3}),
    "dict subclass": (collections.OrderedDict(a=[True]), {"a": [True]}),
    "bytearray": (bytearray(b"bytes"), b"bytes"),
    "memoryview": ([memoryview(b"bytes")], [b"bytes"]),
    "bytes key": ({b"bytes": 1}, {b"bytes": 1}),
    "largest ints": ([2**64 - 1, -(2**63)], [2**64 - 1, -(2**63)]),
}


def nested(depth: int) -> list[Any]:
    """Return nested lists that make a message nested to a depth."""
    value: list[Any] = []
    for _ in range(depth - 2):
        value = [value]
    return value


NO_MESSAGES: dict[str, tuple[Any, str]] = {
    "None": (None, r"a message must be a dict, not NoneType: None"),
    "str": ("text", r"a message must be a dict, not str: 'text'"),
    "list": ([("a", 1)], r"a message must be a dict, not list: \[\('a', 1\)\]"),
    "int key": ({1: 2}, r"keys of a message must be str, but 1 is of type int"),
}

RING: list[Any] = []
RING.extend([RING, RING])

REFUSED: dict[str, tuple[Any, str]] = {
    "date": (
        dt.date(2020, 2, 29),
        r"message\['value'\] is of type datetime\.date; .*isoformat",
    ),
    "datetime below": (
        {"a": [0, 1, {"when": dt.datetime(2020, 2, 29, tzinfo=dt.UTC)}]},
        r"message\['value'\]\['a'\]\[2\]\['when'\] is of type datetime\.datetime; ",
    ),
    "set": ([{1}], r"message\['value'\]\[0\] is of type set; .* list of its items"),
    "enum": (Color.RED, r"message\['value'\] is of type .*Color; .* its value"),
    "lock": (threading.Lock(), r"message\['value'\] is of type .*lock; .* its str\(\)"),
    "UUID": (uuid.UUID(int=0), r"message\['value'\] is of type uuid\.UUID; "),
    "memoryview with gaps": (
        memoryview(b"bytes")[::2],
        r"message\['value'\] is of type memoryview; ",
    ),
    "int key": (
        {1: 2},
        r"the key 1 of message\['value'\] is of type int; keys are str",
    ),
    "large int": (2**64, r"message\['value'\] is an int beyond 64 bits"),
    "small int in a tuple": (
        (-(2**63) - 1,),
        r"message\['value'\]\[0\] is an int beyond 64 bits",
    ),
    "surrogate": ("a\ud800", r"message\['value'\] is a str with a lone surrogate"),
    "surrogate in a key": (
        {"\udfff": 1},
        r"the key '\\udfff' of message\['value'\] is a str with a lone",
    ),
    "ring": (
        RING,
        r"message\['value'\]\[0\]\[0\]\[0\]\[...\].* 100 levels deep, or contains",
    ),
    "too deep": (
        nested(101),
        r"message\['value'\]\[0\]\[0\]\[0\]\[...\].* more than 100 levels",
    ),
    "long key": (
        [{"key" * 1000: {2}}],
        r"message\['value'\]\[0\]\['key.*\.\.\..*key'\] is of ",
    ),
}


async def send(layer: BaseChannelLayer, way: str, channel: str, message: Any) -> None:
    """Send to a channel, or to the group that it is in."""
    if way == "send":
        await layer.send(channel, message)
    else:
        await layer.group_send("group", message)


class MessageTests(ContractBase):
    """What messages can hold, and how they arrive."""

    @pytest.fixture(params=["send", "group_send"])
    def way(self, request: pytest.FixtureRequest) -> str:
        """Both ways to send: to a channel, and to its group."""
        name: str = request.param
        return name

    async def test_messages_arrive_as_they_were_sent(
        self, pair: LayerPair, way: str
    ) -> None:
        """A message holds what JSON has, and in most layers bytes."""
        channel = await member(pair.layer)
        for content in CONTENTS:
            message = {"type": "test.message", **content}
            if "bytes" in repr(content) and not self.carries_bytes:
                assert await refusal(send(pair.other, way, channel, message)), content
            else:
                await send(pair.other, way, channel, message)
                assert await pair.rest(channel) == [message]

    async def test_message_is_read_when_it_is_sent(
        self, pair: LayerPair, way: str
    ) -> None:
        """Changing a message after it was sent changes nothing for the receiver."""
        channel = await member(pair.layer)
        message: dict[str, Any] = {"type": "test.message", "items": [{"a": 1}]}
        await send(pair.other, way, channel, message)
        message["items"][0]["a"] = 2
        message["items"].append(3)
        message["more"] = True
        assert await pair.rest(channel) == [
            {"type": "test.message", "items": [{"a": 1}]}
        ]

    @pytest.mark.parametrize(
        "content", [{"a": 1}, {"a": [{"b": 1}]}], ids=["flat", "deep"]
    )
    async def test_received_message_belongs_to_the_receiver(
        self, pair: LayerPair, content: dict[str, Any]
    ) -> None:
        """Changing a received message, at any depth, changes no other copy."""
        channels = [await member(pair.layer) for _ in range(3)]
        message = {"type": "test.message", **content}
        await pair.other.group_send("group", message)
        received = [await pair.receive(channel) for channel in channels]
        received[0]["a"] = "changed"
        if isinstance(received[1]["a"], list):
            received[1]["a"][0]["b"] = "changed"
        assert received[2] == message == {"type": "test.message", **content}

    async def test_invalid_message_is_refused(self, pair: LayerPair, way: str) -> None:
        """The error shows the value, and nothing is sent."""
        channel = await member(pair.layer)
        for name, (message, error) in NO_MESSAGES.items():
            said = await refusal(send(pair.other, way, channel, message))
            assert re.search(error, said), name
        assert await pair.rest(channel) == []

    async def test_invalid_message_to_a_group_without_members_is_refused(
        self, other: BaseChannelLayer
    ) -> None:
        """A message is checked even if it has no receiver."""
        with pytest.raises(TypeError, match=r"keys of a message must be str"):
            await other.group_send("group", cast("Any", {1: 2}))

    async def test_values_arrive_as_builtin_types(
        self, pair: LayerPair, way: str
    ) -> None:
        """A tuple arrives as a list, and a value of a subclass as its base type."""
        channel = await member(pair.layer)
        expected: dict[str, str] = {}
        for name, (value, received) in ALIKE.items():
            message = {"type": "test.message", "name": name, "value": value}
            if "bytes" in repr(received) and not self.carries_bytes:
                assert await refusal(send(pair.other, way, channel, message)), name
            else:
                await send(pair.other, way, channel, message)
                # Compare the repr, because a Size equals a str.
                expected[name] = repr(received)
        messages = await pair.rest(channel)
        assert {each["name"]: repr(each["value"]) for each in messages} == expected

    async def test_value_that_some_layers_cannot_carry_is_refused(
        self, pair: LayerPair, way: str
    ) -> None:
        """The error gives the place of the value and a cure, and nothing is sent."""
        channel = await member(pair.layer)
        for name, (value, error) in REFUSED.items():
            message = {"type": "test.message", "text": "x" * 10_000, "value": value}
            said = await refusal(send(pair.other, way, channel, message))
            assert re.search(f"cannot be sent: .*{error}", said), name
            assert "__asgi_channel__" not in said
            assert len(said) < 400
        assert await pair.rest(channel) == []

    async def test_deepest_message_reaches_every_member(self, pair: LayerPair) -> None:
        """A message can be nested 100 levels deep."""
        channels = [await member(pair.layer) for _ in range(2)]
        message = {"type": "test.message", "value": nested(100)}
        await pair.other.send(channels[0], message)
        await pair.other.group_send("group", message)
        assert await pair.rest(channels[0]) == [message, message]
        assert await pair.rest(channels[1]) == [message]
