"""How a published value carries the position of its message.

Redis numbers a message when its value is complete, so it writes the position into the
value. The formats of the library end with a value that can be replaced: the position is
one more key of the message. An encrypted value is base64, whose decoders skip any other
bytes, so the position follows it in bytes above 127. Django processes ignore both.
"""

from typing import Any, cast

from fast_channels.layers.serializers import (
    LIST_ENDS,
    BaseMessageSerializer,
    MessageSerializer,
)
from fast_channels.type_defs import ChannelMessage

__all__ = ["POSITION_KEY", "Positions"]

POSITION_KEY = "__asgi_position__"
"""Key of a message for its position."""

# Added to the characters of a position that follows an encrypted value.
_HIGH = 128


class Positions:
    """Reads and writes positions in values of one format.

    Args:
        serializer: The format.
    """

    def __init__(self, serializer: MessageSerializer) -> None:
        self._serializer = serializer
        self._end = LIST_ENDS.get(type(serializer))
        self._encrypted = (
            self._end is not None
            and cast("BaseMessageSerializer", serializer).crypter is not None
        )

    @property
    def in_redis(self) -> bool:
        """Whether Redis can write the position: not into other formats."""
        return self._end is not None

    def parts(self, message: ChannelMessage) -> tuple[str, bytes, bytes]:
        """Return how Redis writes a position, and the value before and after it."""
        if self._end is None:
            return "", self._serializer.serialize(message), b""
        if self._encrypted:
            return "token", self._serializer.serialize(message), b""
        value = self._serializer.serialize({**message, POSITION_KEY: []})
        empty, tail, encoding = self._end
        return encoding, value.removesuffix(empty + tail), tail

    def take(self, message: dict[str, Any], value: bytes) -> str | None:
        """Remove the position from a message, and return it; None if there is none."""
        if not self._encrypted:
            return cast("str | None", message.pop(POSITION_KEY, None))
        start = len(value)
        while start and value[start - 1] >= _HIGH:
            start -= 1
        return bytes(byte - _HIGH for byte in value[start:]).decode("ascii") or None
