"""What every layer promises about messages."""

import datetime as dt
import threading
from typing import Any, cast

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
        with pytest.raises(TypeError, match=r"cannot be sent.* bytes "):
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


async def test_objects_arrive_or_are_refused(
    backend: Backend, pair: Pair, way: str
) -> None:
    """An object is copied by a layer that can, and refused with its name by others."""
    channel = await member(pair.layer)
    message = {"type": "test.message", "when": dt.date(2020, 2, 29), "in": [{1}]}
    if backend.carries_any_python_object:
        await send(pair.other, way, channel, message)
        assert await pair.rest(channel) == [message]
    else:
        with pytest.raises(TypeError, match=r"cannot be sent.*datetime\.date"):
            await send(pair.other, way, channel, message)
        assert await pair.rest(channel) == []


async def test_what_no_layer_carries_is_refused(pair: Pair, way: str) -> None:
    """A lock cannot be sent anywhere, and nothing is sent in its place."""
    channel = await member(pair.layer)
    with pytest.raises(TypeError, match=r"cannot be sent.*<unlocked _thread\.lock"):
        await send(pair.other, way, channel, {"type": "a", "lock": threading.Lock()})
    assert await pair.rest(channel) == []
