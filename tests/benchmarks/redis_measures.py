"""The measurements on Redis, of the library that this interpreter has.

``python -m tests.benchmarks.redis_measures fast_channels 0.3 URL PYTHON`` takes each
measurement for at least 0.3 seconds, on the server of the URL, and writes them to
stdout as JSON. Most are CPU seconds of this process, with all its threads: what a
program with other things to do pays. ``PYTHON`` has Channels, and sends from another
process what is received here: the bytes on the server are the same for both.
"""

import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from tests.redis_servers.resp import Connection

from .harness import FLAT, Countdown, Recorder, connect, end, settle, silence
from .library import Layer, Library, Message, load

_SENDS = 50
_WAITING = 500
_PROCESSES = 20
_CHANNELS_OF_EACH = 5
_CONSUMERS = 100
# So many group messages arrive in a row.
_BURST = 10
_AT_ONCE = 500
# In so many seconds, whoever has begun to receive waits for messages, and what is to be
# done after receiving has been done. Nobody says when.
_A_WHILE = 0.01


@dataclass(frozen=True)
class _Setting:
    """Where everything is measured."""

    library: Library
    recorder: Recorder
    server: Connection
    """To look at the server, and to prepare it."""
    prefix: str
    """What the names of all keys begin with."""
    sender: "subprocess.Popen[str]"
    """Sends to a group so many messages as it reads from its stdin."""

    @property
    def layer(self) -> Layer:
        return self.library.layer


async def _measure(setting: _Setting) -> dict[str, float]:
    """Take all measurements."""
    for add in (_add_sends, _add_receives, _add_group_sends, _add_latency):
        await add(setting)
        setting.server.command("FLUSHDB")
    await _add_deliveries(setting)
    if setting.prefix == "fast_channels":
        setting.recorder.results["connections"] = await _connections(setting)
    await setting.library.close(setting.layer)
    return setting.recorder.results


async def _cpu(work: Awaitable[Any], count: int = 1) -> float:
    """Return the CPU seconds that something takes, of which there are so many."""
    start = time.process_time()
    await work
    return (time.process_time() - start) / count


def _made_up_channel(process: str) -> str:
    """Return a channel as Channels names them, of a process that there is not."""
    return f"specific.{process}!{secrets.token_hex(16)}"


# Sending


async def _add_sends(setting: _Setting) -> None:
    """Measure what it costs to send a message to one channel."""
    layer, channel = setting.layer, _made_up_channel(secrets.token_hex(16))

    async def one_by_one() -> None:
        for _ in range(_SENDS):
            await layer.send(channel, FLAT)

    async def at_once() -> None:
        await asyncio.gather(*(layer.send(channel, FLAT) for _ in range(_SENDS)))

    await setting.recorder.add("send", lambda: _cpu(one_by_one(), _SENDS))
    await setting.recorder.add("send, at once", lambda: _cpu(at_once(), _SENDS))


async def _add_group_sends(setting: _Setting) -> None:
    """Measure what it costs to send to a group; nobody receives."""
    layer = setting.layer
    processes = [secrets.token_hex(16) for _ in range(_PROCESSES)]
    channels = [_made_up_channel(p) for p in processes * _CHANNELS_OF_EACH]
    for channel in channels:
        await layer.group_add("many", channel)
    await layer.group_add("one", channels[0])

    async def send(group: str) -> None:
        for _ in range(_BURST):
            await layer.group_send(group, FLAT)

    await setting.recorder.add("group_send, 1", lambda: _cpu(send("one"), _BURST))
    await setting.recorder.add("group_send, 100", lambda: _cpu(send("many"), _BURST))
    for process in processes:
        mailbox = f"{setting.prefix}specific.{process}!"
        assert setting.server.command("ZCARD", mailbox), "nothing has arrived"


# Receiving


async def _add_receives(setting: _Setting) -> None:
    """Measure what it costs to receive each of many messages that wait.

    They wait in a channel that any process may receive from, as tasks for workers do,
    or in the channel of one consumer, which fell behind.
    """
    layer = setting.layer

    async def drain(channel: str) -> float:
        _fill(setting, channel)

        async def receive() -> None:
            for _ in range(_WAITING):
                message = await layer.receive(channel)
                assert message == FLAT

        return await _cpu(receive(), _WAITING)

    own = await layer.new_channel()
    await setting.recorder.add("receive", lambda: drain("tasks"))
    await setting.recorder.add("receive, own", lambda: drain(own))


def _fill(setting: _Setting, channel: str) -> None:
    """Let messages wait in a channel, as both libraries write them."""
    process, mark, _ = channel.partition("!")
    message = FLAT | ({"__asgi_channel__": channel} if mark else {})
    body: bytes = import_module("msgpack").packb(message)
    words: list[str | bytes] = []
    for _ in range(_WAITING):
        words += [f"{time.time():.6f}", secrets.token_bytes(12) + body]
    setting.server.command("ZADD", f"{setting.prefix}{process}{mark}", *words)


async def _add_latency(setting: _Setting) -> None:
    """Measure the time on the clock from one layer's ``send()`` to another's receiver.

    Both are in this process, and nothing else happens there.
    """
    library, receiver = setting.library, setting.library.new_layer()
    channel = await receiver.new_channel()

    async def receive() -> float:
        assert await receiver.receive(channel) == FLAT
        return time.perf_counter()

    async def step() -> float:
        receiving = asyncio.create_task(receive())
        await asyncio.sleep(_A_WHILE)
        start = time.perf_counter()
        await library.layer.send(channel, FLAT)
        return await receiving - start

    await setting.recorder.add("latency", step)
    await library.close(receiver)


async def _add_deliveries(setting: _Setting) -> None:
    """Measure what a group message from another process costs for each of its members.

    "loops" are what serves a consumer and nothing else, "consumers" are whole; all wait
    for their client and for their channel.
    """
    library, handled = setting.library, Countdown()

    async def dispatch(message: Message) -> None:
        handled.tick()

    async def receive(group: str) -> None:
        handled.start(_BURST * _CONSUMERS)
        assert setting.sender.stdin
        setting.sender.stdin.write(f"{group} {_BURST}\n")
        setting.sender.stdin.flush()
        await handled.wait()
        await asyncio.sleep(_A_WHILE)

    async def add(name: str, group: str) -> None:
        # What is prepared when the first message is awaited is prepared now.
        await receive(group)
        await setting.recorder.add(
            name, lambda: _cpu(receive(group), _BURST * _CONSUMERS)
        )

    channels = [await setting.layer.new_channel() for _ in range(_CONSUMERS)]
    for channel in channels:
        await setting.layer.group_add("loops", channel)
    tasks = [
        asyncio.create_task(library.serve(silence, channel, dispatch))
        for channel in channels
    ]
    await settle()
    await add("group, loops", "loops")
    await end(tasks)

    tasks, _ = await connect(library, _CONSUMERS, handled, ["consumers"])
    await add("group, consumers", "consumers")
    await end(tasks)


# Connections


async def _connections(setting: _Setting) -> float:
    """Return how many connections a layer opens for 500 ``group_send()`` at once.

    A receiver waits meanwhile, and gets every message.
    """
    layer = setting.library.new_layer()
    before = _opened(setting.server)
    channel = await layer.new_channel()
    await layer.group_add("members", channel)

    async def receive() -> None:
        for _ in range(_AT_ONCE):
            assert await layer.receive(channel) == FLAT

    receiving = asyncio.create_task(receive())
    await asyncio.sleep(_A_WHILE)
    await asyncio.gather(*(layer.group_send("members", FLAT) for _ in range(_AT_ONCE)))
    await receiving
    opened = _opened(setting.server) - before
    await setting.library.close(layer)
    return opened


def _opened(server: Connection) -> int:
    """Return how many connections the server has had."""
    info = server.command("INFO", "stats")
    assert isinstance(info, bytes)
    fields = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    return int(fields[b"total_connections_received"])


def main() -> None:
    """Measure, and print the results."""
    name, seconds, url, python = sys.argv[1:]
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    command = [python, "-m", "tests.benchmarks.sender", "channels", url, name]
    with (
        Connection(address.hostname, address.port) as server,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as sender,
    ):
        assert sender.stdout
        assert sender.stdout.readline(), "the sender did not start"
        library = load(name, url, name)
        setting = _Setting(library, Recorder(float(seconds)), server, name, sender)
        results = asyncio.run(_measure(setting), debug=False)
        server.command("FLUSHDB")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
