"""A process with a layer, which executes commands from its standard input.

The interpreter has channels_redis but not fast_channels, or gets the folder of another
version of fast_channels, so it runs this file by path. The arguments are the kind of
the layer, its options, and that folder. Each line of the input is a command: its
number, the name of a method, the arguments. Each line of the output is a result or an
error, with the number of its command. Commands run concurrently. The process ends when
its input does.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

__all__ = ["LIMIT", "decode", "encode"]

LIMIT = 2**24
"""Maximum bytes of a line."""

_BYTES = "$bytes"


def encode(value: Any) -> bytes:
    """Encode a value of JSON's types and bytes as a line."""
    return json.dumps(value, default=lambda data: {_BYTES: data.hex()}).encode() + b"\n"


def decode(line: str | bytes) -> Any:
    """Decode a line."""
    return json.loads(line, object_hook=_to_bytes)


def _to_bytes(pairs: dict[str, Any]) -> Any:
    return bytes.fromhex(pairs[_BYTES]) if pairs.keys() == {_BYTES} else pairs


# For each kind: the module, the name of its layer, and how to close it.
_LAYERS = {
    "core": ("channels_redis.core", "RedisChannelLayer", "close_pools"),
    "pubsub": ("channels_redis.pubsub", "RedisPubSubChannelLayer", "flush"),
    "ours": ("fast_channels.layers", "RedisChannelLayer", "close"),
}


async def main(kind: str, options: dict[str, Any]) -> None:
    """Execute commands until the input ends; cancel those in flight."""
    module, name_of_class, close = _LAYERS[kind]
    layer = getattr(import_module(module), name_of_class)(**options)
    lines = asyncio.StreamReader(LIMIT)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    tasks: set[asyncio.Task[None]] = set()
    async for line in lines:
        number, name, *arguments = decode(line)
        method: Callable[..., Awaitable[Any]] = getattr(layer, name)
        task = asyncio.create_task(_answer(number, method, arguments))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await getattr(layer, close)()


async def _answer(
    number: int, method: Callable[..., Awaitable[Any]], arguments: list[Any]
) -> None:
    try:
        answer = [number, await method(*arguments), None]
    except Exception as exc:  # noqa: BLE001 # any error goes to the test
        answer = [number, None, f"{type(exc).__name__}: {exc}"]
    sys.stdout.buffer.write(encode(answer))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.path[:0] = sys.argv[3:]
    asyncio.run(main(sys.argv[1], decode(sys.argv[2])))
