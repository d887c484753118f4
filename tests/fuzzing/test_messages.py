"""Messages arrive unchanged, and foreign bytes do no harm."""

import contextlib
from typing import Any, cast

import msgpack  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs] # it has none
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_channels.exceptions import UndecodableMessage
from fast_channels.layers import InMemoryChannelLayer
from fast_channels.layers.copies import copies_of
from fast_channels.layers.redis.serializers import (
    BaseMessageSerializer,
    JSONSerializer,
    MsgPackSerializer,
)

from .strategies import deep, messages, odd_messages, odd_values

SERIALIZERS: dict[str, BaseMessageSerializer] = {
    "msgpack": MsgPackSerializer(random_prefix_length=12),
    "json": JSONSerializer(random_prefix_length=12),
    "encrypted": MsgPackSerializer(symmetric_encryption_keys=["secret"], expiry=60),
    "encrypted json": JSONSerializer(symmetric_encryption_keys=["secret"]),
}
EVERY = pytest.mark.parametrize("name", SERIALIZERS)


def pack(value: object) -> bytes:
    """Return msgpack that the library's serializer could refuse to write."""
    return cast(
        "bytes",
        msgpack.packb(value, default=repr, unicode_errors="surrogatepass"),  # pyright: ignore[reportUnknownMemberType] # untyped
    )


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """Return msgpack in which some bytes are changed, added or cut off."""
    deepest = 500
    value = draw(messages() | deep(1, deepest) | st.dictionaries(st.text(), deep(1, 9)))
    data = bytearray(pack(value))
    for place in draw(st.lists(st.integers(0, 2**16), max_size=3)):
        data[place % len(data)] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))] + draw(st.binary(max_size=3)))


def nested_json(levels: int, opening: str, closing: str) -> bytes:
    return f'{{"type": "x", "value": {opening * levels}1{closing * levels}}}'.encode()


def hostile() -> st.SearchStrategy[bytes]:
    """Return bytes, some of which are messages."""
    packed = deep(1, 510).map(lambda value: pack({"type": "x", "value": value}))
    levels = st.integers(1, 2000)
    lists = levels.map(lambda count: nested_json(count, "[", "]"))
    dicts = levels.map(lambda count: nested_json(count, '{"a": ', "}"))
    return st.binary() | spoiled() | packed | lists | dicts


@EVERY
@given(data=hostile(), encrypt=st.booleans())
def test_foreign_bytes(name: str, data: bytes, encrypt: bool) -> None:
    """Foreign bytes are undecodable, or a message that each receiver gets a copy of."""
    serializer = SERIALIZERS[name]
    if encrypt and serializer.crypter is not None:
        data = serializer.crypter.encrypt(data)
    try:
        message = serializer.deserialize(bytes(serializer.random_prefix_length) + data)
    except UndecodableMessage:
        return
    copy = copies_of(message)
    one, two = copy(), copy()
    assert one is not two
    assert repr(one) == repr(two) == repr(message)


@EVERY
@given(data=st.data())
def test_serializers_keep_messages(name: str, data: st.DataObject) -> None:
    """Values that every layer can carry survive each serializer."""
    message = data.draw(messages(binary="json" not in name))
    serializer = SERIALIZERS[name]
    assert serializer.deserialize(serializer.serialize(message)) == message


@EVERY
@given(message=odd_messages())
def test_serializers_refuse_other_objects(name: str, message: Any) -> None:
    """Any other object raises TypeError, or is serialized to bytes."""
    with contextlib.suppress(TypeError):
        assert isinstance(SERIALIZERS[name].serialize(message), bytes)


@given(message=messages(), value=st.none() | deep(1, 90))
async def test_memory_keeps_messages(message: dict[str, Any], value: Any) -> None:
    """Values that every layer can carry arrive in memory unchanged, in a new dict."""
    sent = {**message, "value": value}
    layer = InMemoryChannelLayer()
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.send(channel, sent)
    await layer.group_send("group", sent)
    for _ in range(2):
        received = await layer.receive(channel)
        assert received == sent
        assert received is not sent
    await layer.close()


@given(message=odd_messages())
async def test_memory_refuses_or_keeps(message: Any) -> None:
    """Any other object arrives, or is refused by both send() and group_send()."""
    layer = InMemoryChannelLayer()
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    refused = 0
    for send, name in ((layer.send, channel), (layer.group_send, "group")):
        try:
            await send(name, message)
        except (TypeError, ValueError):
            refused += 1
    assert refused in {0, 2}
    waiting = layer.statistics()["waiting"]
    assert waiting == 2 - refused
    for _ in range(waiting):
        assert isinstance(await layer.receive(channel), dict)
    await layer.close()


@given(value=odd_values())
async def test_memory_accepts_what_msgpack_accepts(value: Any) -> None:
    """A message that arrives in a test, in memory, arrives in production too."""
    message = {"type": "test", "value": value}
    layer = InMemoryChannelLayer()
    try:
        await layer.send("channel", message)
    except (TypeError, ValueError):
        return
    received = await layer.receive("channel")
    serializer = SERIALIZERS["msgpack"]
    data = serializer.serialize(received)
    assert repr(serializer.deserialize(data)) == repr(received)
    await layer.close()
