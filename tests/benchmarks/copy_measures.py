"""The cost of a separate dict for each receiver of a pub/sub message.

``python -m tests.benchmarks.copy_measures fast_channels 0.3`` takes each measurement
for at least 0.3 seconds, and writes them to stdout as JSON: CPU seconds per receiver of
a message for a hundred receivers. The layer decodes the message once and copies it for
each receiver; the alternative is to decode it for each.
"""

import asyncio
import functools
import json
import sys
from collections.abc import Awaitable, Callable

from fast_channels.layers.copies import copies_of
from fast_channels.layers.redis.serializers import MsgPackSerializer

from .harness import NESTED, Recorder, cpu
from .library import Message

_RECEIVERS = 100
_MESSAGES = 10
_FLAT: Message = {
    "type": "chat.message",
    "room": "lobby",
    "user": "Ada",
    "text": "Does anybody know when the library opens?",
    "sent_at": 1760000000.25,
}


def copy_for_each(serializer: MsgPackSerializer, data: bytes) -> list[Message]:
    copy = copies_of(serializer.deserialize(data))
    return [copy() for _ in range(_RECEIVERS)]


def decode_for_each(serializer: MsgPackSerializer, data: bytes) -> list[Message]:
    return [serializer.deserialize(data) for _ in range(_RECEIVERS)]


async def _measure(seconds: float) -> dict[str, float]:
    """Take all measurements."""
    recorder, serializer = Recorder(seconds), MsgPackSerializer()
    for name, message in (("flat", _FLAT), ("nested", NESTED)):
        data = serializer.serialize(message)
        steps: dict[str, Callable[[], Awaitable[float]]] = {}
        for way in (copy_for_each, decode_for_each):
            receive = functools.partial(way, serializer, data)
            assert receive() == [message] * _RECEIVERS
            steps[f"{way.__name__}, {name}"] = functools.partial(_cpu, receive)
        await recorder.add_all(steps)
    return recorder.results


async def _cpu(receive: Callable[[], list[Message]]) -> float:
    """Return the CPU seconds per receiver."""

    async def work() -> None:
        for _ in range(_MESSAGES):
            receive()

    return await cpu(work(), _MESSAGES * _RECEIVERS)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(float(sys.argv[2])))))
