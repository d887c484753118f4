"""Positions in published values."""

from typing import Any

import pytest

from fast_channels.layers.redis.pubsub.positions import POSITION_KEY, Positions
from fast_channels.layers.serializers import JSONSerializer, MsgPackSerializer

POSITION = "0123abcd.42"
MESSAGE: dict[str, Any] = {"type": "hello", "list": []}


@pytest.mark.parametrize("kind", [MsgPackSerializer, JSONSerializer])
def test_position_is_a_key(kind: type[MsgPackSerializer | JSONSerializer]) -> None:
    """It completes the value, and is taken out of the message."""
    serializer = kind()
    positions = Positions(serializer)
    encoding, head, tail = positions.parts(MESSAGE)
    text = POSITION.encode()
    encoded = {"msgpack": bytes([0xA0 + len(text)]) + text, "json": b'"%b"' % text}
    value = head + encoded[encoding] + tail
    message = serializer.deserialize(value)
    assert message == {**MESSAGE, POSITION_KEY: POSITION}
    assert positions.take(message, value) == POSITION
    assert message == MESSAGE
    assert positions.take(message, value) is None


def test_position_follows_an_encrypted_value() -> None:
    """Decryption ignores it."""
    serializer = MsgPackSerializer(["secret"])
    positions = Positions(serializer)
    encoding, head, tail = positions.parts(MESSAGE)
    assert (encoding, tail) == ("token", b"")
    value = head + bytes(byte + 128 for byte in POSITION.encode())
    message = serializer.deserialize(value)
    assert message == MESSAGE
    assert positions.take(message, value) == POSITION
    assert positions.take(message, head) is None
    assert positions.in_redis


def test_other_formats() -> None:
    """The sender writes the position."""

    class Own(MsgPackSerializer):
        pass

    positions = Positions(Own())
    assert not positions.in_redis
    assert positions.parts(MESSAGE) == ("", Own().serialize(MESSAGE), b"")
