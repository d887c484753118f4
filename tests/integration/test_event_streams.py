"""Endpoints that listen to a group: their messages, their clients, and the shutdown."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fast_channels.layers import History, InMemoryChannelLayer, register_channel_layer
from fast_channels.type_defs import ASGIApplication
from tests.redis_servers.server import free_port
from tests.waiting import until

from .event_streams import BUILDS, with_a_consumer
from .servers import Serve
from .test_http_consumers import requesting
from .test_lifespan import SERVERS, open_stream, running

Build = Callable[[], ASGIApplication]

behind_servers = pytest.mark.parametrize(
    "server", ["uvicorn-none", "hypercorn"], indirect=True
)
LIMIT = 10
"""Seconds after which a test that would wait forever fails."""


@pytest.fixture
def layer() -> InMemoryChannelLayer:
    layer = InMemoryChannelLayer(history={"room": History()})
    register_channel_layer("default", layer)
    return layer


def get(last_event_id: str | None = None) -> bytes:
    header = f"last-event-id: {last_event_id}\r\n" if last_event_id else ""
    return f"GET / HTTP/1.1\r\nhost: x\r\n{header}\r\n".encode()


async def next_event(client: asyncio.StreamReader) -> dict[str, str]:
    """Return the fields of the next event, but for heartbeats and the like."""
    fields: dict[str, str] = {}
    while True:
        line = (await client.readline()).decode().rstrip("\r\n")
        name, separator, value = line.partition(": ")
        if separator and name in {"id", "data", "event"}:
            fields[name] = value
        elif not line and fields:
            return fields


@behind_servers
@pytest.mark.parametrize("build", BUILDS)
async def test_events_reach_a_client_that_reconnects(
    serve: Serve, layer: InMemoryChannelLayer, build: Build
) -> None:
    """Every event arrives once, and each client that leaves ends its endpoint."""

    async def send(text: str) -> None:
        await layer.group_send("room", {"type": "text", "text": text})

    async with serve(build()) as address:
        async with requesting(address, get()) as client:
            first = await next_event(client)
            assert list(first) == ["id"]
            await send("one")
            one = await next_event(client)
            assert one["data"] == "one"
        await until(lambda: not layer.groups, LIMIT)
        await send("two")
        async with requesting(address, get(one["id"])) as client:
            await send("three")
            texts: list[str] = []
            while len(texts) < 2:
                texts += [
                    value
                    for name, value in (await next_event(client)).items()
                    if name == "data"
                ]
            assert texts == ["two", "three"]
        await until(lambda: not layer.groups, LIMIT)
        assert layer.statistics()["channels"] == 0


SOURCE = """
from fast_channels.layers import History, InMemoryChannelLayer, register_channel_layer
from tests.integration import event_streams

register_channel_layer("default", InMemoryChannelLayer(history={"room": History()}))
app = event_streams.BUILD()
"""


@pytest.mark.parametrize(
    ("server", "build"),
    [
        *(("uvicorn", build) for build in BUILDS),
        # Its workers get no signal, which is the same for all applications.
        ("hypercorn", BUILDS[0]),
        ("hypercorn", with_a_consumer),
    ],
)
async def test_shutdown(server: str, build: Build, tmp_path: Path) -> None:
    """Streams are completed at once, for every client, and nothing is logged."""
    port = free_port()
    source = SOURCE.replace("BUILD", build.__name__)
    checkout = str(Path(__file__).parents[2])
    path = os.pathsep.join([checkout, os.environ.get("PYTHONPATH", "")])
    command = SERVERS[server].format(port)
    async with running(tmp_path, source, command, PYTHONPATH=path) as process:
        clients = [await open_stream(port) for _ in range(20)]
        for reader, writer in clients:
            writer.write(get())
            async with asyncio.timeout(15):
                await reader.readuntil(b"id: ")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            for reader, writer in clients:
                # The chunk that ends a response.
                assert (await reader.read()).endswith(b"0\r\n\r\n")
                writer.close()
            printed, log = await process.communicate()
    errors = [line for line in log.decode().splitlines() if "[INFO]" not in line]
    assert (printed, errors) == (b"", [])
