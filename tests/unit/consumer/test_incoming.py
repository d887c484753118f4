"""The events of a client."""

import asyncio
from typing import Any

from fast_channels.consumer.incoming import Incoming
from fast_channels.dispatching import DispatchLoop
from fast_channels.type_defs import ChannelMessage


async def dispatch(message: ChannelMessage) -> None:
    raise AssertionError


def incoming(*events: dict[str, Any]) -> tuple[Incoming, list[dict[str, Any]]]:
    """Return a client that sends events and then nothing, and those to come."""
    coming = list(events)

    async def receive() -> dict[str, Any]:
        if coming:
            return coming.pop(0)
        never: asyncio.Future[dict[str, Any]] = asyncio.Future()
        return await never

    return Incoming(receive, DispatchLoop(dispatch)), coming


FRAME = {"type": "websocket.receive", "text": "hello"}
DISCONNECT = {"type": "websocket.disconnect", "code": 1001}


async def test_open() -> None:
    """While the connection is open, all events are returned."""
    client, coming = incoming(FRAME, DISCONNECT)
    assert await client.receive() == FRAME
    assert await client.receive() == DISCONNECT
    assert coming == []


async def test_closed() -> None:
    """Once it is closed, only the disconnect is."""
    client, _ = incoming(FRAME, FRAME, DISCONNECT)
    client.close(4001, 60)
    assert await client.receive() == DISCONNECT


async def test_closed_while_it_is_received_from() -> None:
    """Closing reaches what waits already; the last time that is given counts."""
    client, _ = incoming()
    waiting = asyncio.create_task(client.receive())
    await asyncio.sleep(0)
    client.close(4001, 60)
    await asyncio.sleep(0)
    assert not waiting.done()
    client.close(1006, 0)
    async with asyncio.timeout(5):
        assert await waiting == {"type": "websocket.disconnect", "code": 1006}
    # It is over, however often that is asked.
    async with asyncio.timeout(5):
        assert await client.receive() == {"type": "websocket.disconnect", "code": 1006}


async def test_closed_while_it_gives_up() -> None:
    """Closing again changes nothing when the time is up."""
    client, _ = incoming()
    waiting = asyncio.create_task(client.receive())
    await asyncio.sleep(0)
    client.close(4001, -1)
    asyncio.get_running_loop().call_soon(client.close, 4002, 60)
    asyncio.get_running_loop().call_later(0, client.close, 4002, 60)
    async with asyncio.timeout(5):
        assert (await waiting)["type"] == "websocket.disconnect"


async def test_cancelled_while_it_gives_up() -> None:
    """Cancelling it counts when the time is up, too."""
    client, _ = incoming()
    waiting = asyncio.create_task(client.receive())
    await asyncio.sleep(0)
    client.close(4001, 0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert waiting.cancelling() == 1


async def test_leaves_no_cancellation() -> None:
    """A task that was given a disconnect is not cancelled, and can go on."""
    client, _ = incoming()
    client.close(4001, 0)

    async def go_on() -> int:
        assert await client.receive() == {**DISCONNECT, "code": 4001}
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert await asyncio.create_task(go_on()) == 0


async def test_cancelled() -> None:
    """Cancelling it is no end of the time."""
    client, _ = incoming()
    waiting = asyncio.create_task(client.receive())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    client.close(4001, 60)
