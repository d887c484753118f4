"""A process with layers, which executes commands from its standard input.

The interpreter has channels_redis but not fast_channels, or gets the folder of another
version of fast_channels as its argument, so it runs this file by path.

Each line of the input is a command: its number, the number of a layer, the name of a
method, the arguments. "open" makes the layer, with its kind and options as arguments,
and "close" closes it. Each line of the output is a result or an error, with the number
of its command. Commands run concurrently. The process ends when its input does.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

__all__ = ["decode", "encode"]

# Maximum bytes of a line.
_LIMIT = 2**24

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
    "our pubsub": ("fast_channels.layers", "RedisPubSubChannelLayer", "close"),
}


class _Layer:
    """A layer, and the commands that are running on it."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        module, name, self._close = _LAYERS[kind]
        self._layer = getattr(import_module(module), name)(**options)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, number: int, name: str, arguments: list[Any]) -> None:
        method: Callable[..., Awaitable[Any]] = getattr(self._layer, name)
        task = asyncio.create_task(_answer(number, method, *arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel the commands in flight, and close the layer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await getattr(self._layer, self._close)()


async def main() -> None:
    """Execute commands until the input ends; close the remaining layers."""
    lines = asyncio.StreamReader(_LIMIT)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    layers: dict[int, _Layer] = {}

    async def open_layer(key: int, kind: str, options: dict[str, Any]) -> None:
        layers[key] = _Layer(kind, options)

    async for line in lines:
        number, key, name, *arguments = decode(line)
        if name == "open":
            await _answer(number, open_layer, key, *arguments)
        elif name == "close":
            await _answer(number, layers.pop(key).close)
        else:
            layers[key].start(number, name, arguments)
    for layer in layers.values():
        await layer.close()


async def _answer(
    number: int, method: Callable[..., Awaitable[Any]], *arguments: Any
) -> None:
    try:
        answer = [number, await method(*arguments), None]
    except Exception as exc:  # noqa: BLE001 # any error goes to the test
        answer = [number, None, f"{type(exc).__name__}: {exc}"]
    sys.stdout.buffer.write(encode(answer))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.path[:0] = sys.argv[1:]
    asyncio.run(main())
