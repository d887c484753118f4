"""The measurements on Redis, of this interpreter's library.

``python -m tests.benchmarks.redis_measures fast_channels 0.3 1000 KIND URL PYTHON``
takes each measurement for at least 0.3 seconds, in groups of up to 1000, with a
``queue`` or a ``pubsub`` layer on the server of the URL, and writes them to stdout as
JSON. Most are CPU seconds of this process, with all its threads: the cost for a busy
program. Each operation also has the numbers of commands sent to Redis and run there:
a script runs others. ``PYTHON`` has Channels; it sends the messages that are received
here, and receives those sent here, from another process: the bytes on the server are
the same for both.
"""

import asyncio
import functools
import json
import secrets
import sys
import time
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from tests.redis_servers.resp import Connection

from .harness import (
    FLAT,
    Countdown,
    Recorder,
    Setting,
    connect,
    cpu,
    end,
    settle,
    silence,
)
from .library import Message, load
from .processes import Process

_SENDS = 50
_WAITING = 500
_PROCESSES = 20
_CHANNELS = 100
_SIZES = (1, 100, 1000)
# Group messages that are sent in a row.
_BURST = 10
_AT_ONCE = 500
# Seconds until receivers wait for messages and work after receiving is done. There is
# no event for that.
_A_WHILE = 0.01


async def _measure(setting: Setting) -> dict[str, float]:
    """Take all measurements."""
    # The other process is busy for a while after the last measurement.
    adds = [_add_rounds, _add_memberships, _add_deliveries, _add_group_sends]
    if setting.kind == "queue":
        adds = [_add_sends, _add_receives, *adds]
    for add in adds:
        await add(setting)
        setting.server.command("FLUSHDB")
    if setting.kind == "queue" and setting.prefix == "fast_channels":
        setting.recorder.results["connections"] = await _connections(setting)
    await setting.library.close(setting.layer)
    return setting.recorder.results


# One channel


def _made_up_channel(process: str) -> str:
    """Return a channel name in the form of Channels, of a nonexistent process."""
    return f"specific.{process}!{secrets.token_hex(16)}"


async def _add_sends(setting: Setting) -> None:
    """Measure the cost of sending a message to one channel."""
    layer, channel = setting.layer, _made_up_channel(secrets.token_hex(16))

    async def one_by_one() -> None:
        for _ in range(_SENDS):
            await layer.send(channel, FLAT)

    async def at_once() -> None:
        await asyncio.gather(*(layer.send(channel, FLAT) for _ in range(_SENDS)))

    await setting.add("send", one_by_one, _SENDS)
    await setting.add("send, at once", at_once, _SENDS)


async def _add_receives(setting: Setting) -> None:
    """Measure the cost of receiving each of many waiting messages.

    They wait in a channel that any process can receive from, like tasks for workers,
    or in the channel of a single, slow consumer.
    """
    layer = setting.layer

    async def add(name: str, channel: str) -> None:
        async def receive() -> None:
            for _ in range(_WAITING):
                message = await layer.receive(channel)
                assert message == FLAT

        await setting.add(name, receive, _WAITING, lambda: _fill(setting, channel))

    await add("receive", "tasks")
    await add("receive, own", await layer.new_channel())


def _fill(setting: Setting, channel: str) -> None:
    """Put messages into a channel, in the format of both libraries."""
    process, mark, _ = channel.partition("!")
    message = FLAT | ({"__asgi_channel__": channel} if mark else {})
    body: bytes = import_module("msgpack").packb(message)
    words: list[str | bytes] = []
    for _ in range(_WAITING):
        words += [f"{time.time():.6f}", secrets.token_bytes(12) + body]
    setting.server.command("ZADD", f"{setting.prefix}{process}{mark}", *words)


async def _add_rounds(setting: Setting) -> None:
    """Measure sending to a channel and receiving, in turns, and its latency.

    The latency is the wall-clock time from one layer's ``send()`` to the receiver of
    another layer in this otherwise idle process.
    """
    library, layer = setting.library, setting.layer
    own = await layer.new_channel()

    async def in_turns() -> None:
        for _ in range(_SENDS):
            await layer.send(own, FLAT)
            assert await layer.receive(own) == FLAT

    await setting.add("round", in_turns, _SENDS)

    receiver = library.new_layer()
    channel = await receiver.new_channel()

    async def receive() -> float:
        assert await receiver.receive(channel) == FLAT
        return time.perf_counter()

    async def step() -> float:
        receiving = asyncio.create_task(receive())
        await asyncio.sleep(_A_WHILE)
        start = time.perf_counter()
        await layer.send(channel, FLAT)
        return await receiving - start

    await step()
    await setting.recorder.add("latency", step)
    await library.close(receiver)


# Groups


async def _add_memberships(setting: Setting) -> None:
    """Measure the cost of creating channels, and of joining and leaving a group."""
    layer = setting.layer

    async def make() -> None:
        for _ in range(_CHANNELS):
            await layer.new_channel()
        await asyncio.sleep(_A_WHILE)

    members = {f"room-{i}": await layer.new_channel() for i in range(_CHANNELS)}

    async def one_by_one() -> None:
        for group, channel in members.items():
            await layer.group_add(group, channel)
            await layer.group_discard(group, channel)
        await asyncio.sleep(_A_WHILE)

    async def at_once() -> None:
        await asyncio.gather(*(layer.group_add(*each) for each in members.items()))
        await asyncio.gather(*(layer.group_discard(*each) for each in members.items()))
        await asyncio.sleep(_A_WHILE)

    await setting.add("memberships", one_by_one, _CHANNELS)
    await setting.add("memberships, at once", at_once, _CHANNELS)
    await setting.add("new_channel", make, _CHANNELS)


async def _add_group_sends(setting: Setting) -> None:
    """Measure the cost of sending to a group with members elsewhere.

    The members for a queue layer are in nonexistent processes, so there are no
    receivers; for a pub/sub layer they are in the other process.
    """
    layer = setting.layer
    processes = [secrets.token_hex(16) for _ in range(_PROCESSES)]
    for size in setting.sizes:
        group = f"members-{size}"
        if setting.kind == "pubsub":
            setting.sender.ask("join", group, size)
        else:
            words: list[str] = []
            for i in range(size):
                channel = _made_up_channel(processes[i % _PROCESSES])
                words += [f"{time.time():.6f}", channel]
            setting.server.command("ZADD", f"{setting.prefix}:group:{group}", *words)

    async def send(group: str) -> None:
        for _ in range(_BURST):
            await layer.group_send(group, FLAT)

    async def at_once() -> None:
        sends = (layer.group_send("members-1", FLAT) for _ in range(_CHANNELS))
        await asyncio.gather(*sends)

    await setting.add("group_send, at once", at_once, _CHANNELS)
    for size in setting.sizes:
        work = functools.partial(send, f"members-{size}")
        await setting.add(f"group_send, {size}", work, _BURST)
    if setting.kind == "queue":
        for process in processes:
            mailbox = f"{setting.prefix}specific.{process}!"
            assert setting.server.command("ZCARD", mailbox), "nothing has arrived"


async def _add_deliveries(setting: Setting) -> None:
    """Measure the cost of a group message from another process, for each member.

    "loops" are only the loops of consumers, "consumers" are whole ones; all wait for
    their client and for their channel.
    """
    library, handled = setting.library, Countdown()

    async def dispatch(message: Message) -> None:
        handled.tick()

    async def receive(group: str, size: int) -> None:
        handled.start(_BURST * size)
        sending = asyncio.to_thread(setting.sender.ask, "send", group, _BURST)
        await asyncio.gather(sending, handled.wait())
        await asyncio.sleep(_A_WHILE)

    async def add(group: str, size: int) -> None:
        # Do the preparations of the first receive now.
        await receive(group, size)
        await setting.recorder.add(
            group, lambda: cpu(receive(group, size), _BURST * size)
        )

    channels = [await setting.layer.new_channel() for _ in range(_CHANNELS)]
    for channel in channels:
        await setting.layer.group_add("loops", channel)
    tasks = [
        asyncio.create_task(library.serve(silence, channel, dispatch))
        for channel in channels
    ]
    await settle()
    await add("loops", _CHANNELS)
    await end(tasks)

    for size in setting.sizes[1:]:
        group = f"consumers-{size}"
        tasks, _ = await connect(library, size, handled, [group])
        await add(group, size)
        await end(tasks)


# Connections


async def _connections(setting: Setting) -> float:
    """Count the connections that a layer opens for 500 ``group_send()`` at once.

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
    """Return the number of connections that the server has had."""
    info = server.command("INFO", "stats")
    assert isinstance(info, bytes)
    fields = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    return int(fields[b"total_connections_received"])


def main() -> None:
    """Measure, and print the results."""
    name, seconds, largest, kind, url, python = sys.argv[1:]
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    connect_server = functools.partial(Connection, address.hostname, address.port)
    with (
        connect_server() as server,
        Process(Path(python), "members", "channels", kind, url, name) as sender,
    ):
        setting = Setting(
            library=load(name, kind, url, name),
            kind=kind,
            recorder=Recorder(float(seconds)),
            connect=connect_server,
            server=server,
            prefix=name,
            sender=sender,
            sizes=[size for size in _SIZES if size <= int(largest)],
        )
        # Until its first answer, it is busy with imports, which would interfere.
        sender.ask("send", "nobody", 0)
        results = asyncio.run(_measure(setting), debug=False)
        server.command("FLUSHDB")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
