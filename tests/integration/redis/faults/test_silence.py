"""Silent servers: no message is sent, or the server is frozen."""

import asyncio
import contextlib
import time

import pytest

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis.queue.inbox import Inbox, InboxTiming
from tests.redis_servers.server import RedisServer

from .conftest import MakeLayer
from .traffic import LIMIT, Ledger, receive_all, settle, to_channel

# The length in seconds of every timeout in these tests.
_TIMEOUT = 1.0


@pytest.mark.parametrize("own", [True, False], ids=["own channel", "plain channel"])
@pytest.mark.parametrize("tells", [True, False], ids=["tracking", "no tracking"])
async def test_an_idle_receiver_keeps_its_connections(
    redis_server: RedisServer,
    url_without_tracking: str,
    make_layer: MakeLayer,
    monkeypatch: pytest.MonkeyPatch,
    tells: bool,
    own: bool,
) -> None:
    """A receiver that waits for three times every timeout keeps its connections."""
    timing = InboxTiming(check=_TIMEOUT, idle=_TIMEOUT, patience=_TIMEOUT)
    monkeypatch.setattr(Inbox, "timing", timing)
    options = {"socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT}
    where = redis_server if tells else url_without_tracking
    layer = make_layer(where, connection_kwargs=options)
    channel = await layer.new_channel() if own else "tasks"
    send = to_channel(make_layer(where, connection_kwargs=options), channel)
    ledger = Ledger()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(receive_all(layer, channel, ledger))
        await send({"type": "number", "number": 0})
        await ledger.holds([0])
        # Elapsed time is what this test is about.
        await asyncio.sleep(3 * _TIMEOUT)
        await send({"type": "number", "number": 1})
        await settle(ledger, range(2), send)
    assert layer.statistics()["reconnects"] == 0


@pytest.mark.parametrize("own", [True, False], ids=["own channel", "plain channel"])
async def test_a_send_to_a_frozen_server_fails_in_time(
    own_redis_server: RedisServer, make_layer: MakeLayer, own: bool
) -> None:
    """A send to a frozen server fails in time; all works again when it resumes."""
    options = {"socket_timeout": _TIMEOUT}
    layer = make_layer(own_redis_server, connection_kwargs=options)
    channel = await layer.new_channel() if own else "tasks"
    send = to_channel(make_layer(own_redis_server, connection_kwargs=options), channel)
    ledger = Ledger()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(receive_all(layer, channel, ledger))
        await send({"type": "number", "number": 0})
        await ledger.holds([0])
        own_redis_server.pause()
        try:
            for number in range(1, 3):
                begun = time.monotonic()
                with pytest.raises(RedisUnavailable, match=r"is not available: "):
                    await send({"type": "number", "number": number})
                assert time.monotonic() - begun < 3 * _TIMEOUT
        finally:
            own_redis_server.resume()
        async with asyncio.timeout(LIMIT):
            while True:
                with contextlib.suppress(RedisUnavailable):
                    await send({"type": "number", "number": 3})
                    break
        # The second and third may have been sent even so, but not twice.
        await settle(ledger, [0, 3], send)
