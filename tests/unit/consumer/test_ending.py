"""Ways in which a connection ends: disconnect() is called, and nothing is left."""

import asyncio
import contextlib
from typing import Any

import pytest

from fast_channels.exceptions import StopConsumer
from fast_channels.layers import (
    register_channel_layer,
)
from fast_channels.type_defs import ChannelMessage, WebSocketDisconnectEvent
from tests.waiting import until

from .fakes import LIMIT, Boom, FakeServer, Layer, QueueLayer, logged, members
from .subject import (
    Impatient,
    Subject,
    Trouble,
    assert_released,
    bring_to,
    fail,
    hang,
    stop,
    talk,
)

TROUBLES = [
    pytest.param(fail, 1011, Boom, id="fails"),
    pytest.param(stop, 1000, type(None), id="stops"),
    pytest.param(talk, 1006, type(None), id="client_gone"),
    pytest.param(hang, 1012, asyncio.CancelledError, id="cancelled"),
]


@pytest.mark.parametrize(("trouble", "code", "outcome"), TROUBLES)
@pytest.mark.parametrize("place", ["connect", "receive", "chat_message"])
async def test_trouble(
    place: str,
    trouble: Trouble,
    code: int,
    outcome: type,
    any_layer: Layer | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However a handler ends, disconnect() is called once and nothing is left."""
    consumer = Subject(any_layer, **{place: trouble})
    async with FakeServer(consumer) as server:
        await bring_to(place, consumer, server, gone=trouble is talk)
        if trouble is hang:
            server.task.cancel()
        assert type(await server.end()) is outcome
        assert_released(any_layer)
    assert consumer.codes == [code]
    assert logged(caplog) == []


@pytest.mark.parametrize(("trouble", "_", "outcome"), TROUBLES)
async def test_trouble_in_disconnect(
    trouble: Trouble,
    _: int,
    outcome: type,
    any_layer: Layer | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However disconnect() ends, it is not called again and nothing is left."""
    consumer = Subject(any_layer, disconnect=trouble)
    async with FakeServer(consumer) as server:
        await bring_to("disconnect", consumer, server, gone=trouble is talk)
        if trouble is hang:
            server.task.cancel()
        assert type(await server.end()) is outcome
        assert_released(any_layer)
    assert consumer.codes == [1001]
    assert logged(caplog) == []


@pytest.mark.parametrize(
    ("first", "code", "outcome"), [(fail, 1011, Boom), (stop, 1000, type(None))]
)
@pytest.mark.parametrize("second", [fail, stop, talk, hang])
async def test_trouble_in_disconnect_after_trouble(
    first: Trouble,
    code: int,
    outcome: type,
    second: Trouble,
    any_layer: Layer | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler's exception reaches the server; an error in disconnect() is logged."""
    consumer = Subject(any_layer, receive=first, disconnect=second)
    async with FakeServer(consumer) as server:
        await bring_to("receive", consumer, server, gone=second is talk)
        if second is hang:
            await until(lambda: "disconnect" in consumer.places)
            server.task.cancel()
        ended_with = await server.end()
        assert_released(any_layer)
    assert consumer.codes == [code]
    if second is hang:
        assert isinstance(ended_with, asyncio.CancelledError)
    else:
        assert type(ended_with) is outcome
        assert outcome is not Boom or str(ended_with) == "receive"
    expected = ["Subject could not disconnect"] if second is fail else []
    assert logged(caplog) == expected


async def test_client_disconnects(any_layer: Layer | None) -> None:
    """When the client disconnects, disconnect() gets its code, and nothing is left."""
    consumer = Subject(any_layer)
    async with FakeServer(consumer) as server:
        await server.connect()
        assert await server.disconnect(code=4005) is None
        assert_released(any_layer)
    assert consumer.codes == [4005]


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({}, 4001),
        ({"code": 1000}, 4001),
        ({"code": 1005}, 4001),
        ({"code": 4001}, 4001),
        ({"code": 1006}, 1006),
        ({"code": 4002}, 4002),
    ],
)
async def test_server_closes(
    any_layer: Layer | None, told: dict[str, Any], code: int
) -> None:
    """After close(), frames are dropped; disconnect() gets the code of the close.

    If the server reports a different code, disconnect() gets that one.
    """
    consumer = Subject(any_layer)
    async with FakeServer(consumer) as server:
        await server.connect()
        await consumer.close(4001)
        frame = {"type": "websocket.receive", "text": "still here"}
        await server.give(frame, frame, frame)
        assert consumer.places == ["connect"]
        if any_layer is not None:
            await any_layer.send(consumer.channel_name, {"type": "chat.message"})
            await until(lambda: consumer.places[-1] == "chat_message")
        assert consumer.codes == []
        assert await server.disconnect(**told) is None
        assert_released(any_layer)
    assert consumer.codes == [code]
    assert server.received.count("websocket.receive") == 3


async def test_frame_that_comes_before_the_close(layer: Layer) -> None:
    """A frame that is waiting when a handler closes the connection is dropped."""

    async def close_late(consumer: Subject) -> None:
        await until(lambda: "websocket.receive" in server.received)
        await consumer.close(4001)

    consumer = Subject(layer, chat_message=close_late)
    async with FakeServer(consumer) as server:
        await server.connect()
        await layer.send(consumer.channel_name, {"type": "chat.message"})
        await until(lambda: "chat_message" in consumer.places)
        await server.give({"type": "websocket.receive", "text": "hello"})
        assert await server.disconnect() is None
    assert consumer.places == ["connect", "chat_message", "disconnect"]
    assert consumer.codes == [4001]


@pytest.mark.parametrize("client", ["silent", "talkative", "replayed"])
async def test_server_never_reports_that_the_client_has_left(
    any_layer: Layer | None, client: str
) -> None:
    """After close() the connection ends in time, whatever events the server returns."""
    consumer = Impatient(any_layer)
    frame = {"type": "websocket.receive", "text": "still here"}

    async def talk() -> None:
        while not server.task.done():
            await server.give(frame)
            await asyncio.sleep(0.001)

    async with FakeServer(consumer) as server:
        await server.connect()
        if client == "replayed":
            # The next frame is the last one that the consumer waits for.
            server.replayed = frame
        await consumer.close(4001)
        if client != "silent":
            await server.give(frame)
        talking = asyncio.create_task(talk()) if client == "talkative" else None
        assert await server.end() is None
        if talking is not None:
            await talking
        assert_released(any_layer)
    assert consumer.places == ["connect", "disconnect"]
    assert consumer.codes == [4001]


async def test_timeout_error_from_the_server(any_layer: Layer | None) -> None:
    """A TimeoutError from the server's receive() is an error like any other."""
    consumer = Subject(any_layer)
    async with FakeServer(consumer) as server:
        await server.connect()
        await consumer.close(4001)
        await server.give(TimeoutError("of the server"))
        assert str(await server.end()) == "of the server"
    assert consumer.codes == [1011]


async def test_server_closes_and_stops() -> None:
    """Without a websocket.disconnect, disconnect() gets the code of the close."""

    async def close_and_stop(consumer: Subject) -> None:
        await consumer.close(4001)
        raise StopConsumer

    consumer = Subject(None, receive=close_and_stop)
    async with FakeServer(consumer) as server:
        await server.connect()
        await server.give({"type": "websocket.receive", "text": "hello"})
        assert await server.end() is None
    assert consumer.codes == [4001]


async def send(consumer: Subject) -> None:
    await consumer.send("hello?")


async def accept(consumer: Subject) -> None:
    await consumer.accept()


async def close(consumer: Subject) -> None:
    await consumer.close(4001)


@pytest.mark.parametrize("act", [send, accept, close])
async def test_client_is_gone(act: Trouble) -> None:
    """Sending to a client that is gone ends the handler without an error."""

    async def trouble(consumer: Subject) -> None:
        await act(consumer)
        raise AssertionError

    consumer = Subject(None, receive=trouble)
    async with FakeServer(consumer) as server:
        await server.connect()
        server.gone = True
        # Frames that the client sent before it left are not handled.
        frame = {"type": "websocket.receive", "text": "hello"}
        server.put(frame, frame, {"type": "websocket.disconnect", "code": 4002})
        assert await server.end() is None
    assert consumer.places == ["connect", "receive", "disconnect"]
    assert consumer.codes == [4002]


async def test_client_leaves_while_a_message_is_handled(layer: Layer) -> None:
    """A server that refuses to send after the client's disconnect causes no error."""

    async def answer(consumer: Subject) -> None:
        await until(lambda: "websocket.disconnect" in server.received)
        consumer.base_send = refuse
        await consumer.send("hello?")

    async def refuse(event: ChannelMessage) -> None:
        raise RuntimeError("it told you")

    consumer = Subject(layer, chat_message=answer)
    async with FakeServer(consumer) as server:
        await server.connect()
        await layer.send(consumer.channel_name, {"type": "chat.message"})
        await until(lambda: "chat_message" in consumer.places)
        server.put({"type": "websocket.disconnect", "code": 4002})
        assert await server.end() is None
        assert_released(layer)
    assert consumer.codes == [4002]


@pytest.mark.parametrize("act", [send, close])
async def test_server_cannot_send(any_layer: Layer | None, act: Trouble) -> None:
    """If a server refuses to send to a connected client, its error is raised."""

    async def answer(consumer: Subject) -> None:
        if consumer.layer is not None:
            # Waiting messages make no difference.
            await consumer.channel_layer.send(consumer.channel_name, {"type": "late"})
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await act(consumer)

    async def refuse(event: ChannelMessage) -> None:
        raise RuntimeError("no such event")

    consumer = Subject(any_layer, receive=answer)
    async with FakeServer(consumer) as server:
        await server.connect()
        consumer.base_send = refuse
        server.put({"type": "websocket.receive", "text": "hello"})
        outcome = await server.end()
    assert str(outcome) == "no such event"
    assert consumer.codes == [1011]


async def send_and_close(consumer: Subject) -> None:
    """Send, and close although that fails; then servers can raise another error."""

    async def refuse(event: ChannelMessage) -> None:
        raise RuntimeError("the connection is closed")

    try:
        await consumer.send("hello")
    finally:
        consumer.base_send = refuse
        await consumer.close(4001)


@pytest.mark.parametrize("receive", [send, send_and_close])
async def test_client_is_gone_without_a_disconnect(
    any_layer: Layer | None, receive: Trouble
) -> None:
    """If the server does not report that the client has left, the code is 1006.

    A close after the failed send doesn't change that.
    """
    consumer = Impatient(any_layer, receive=receive)
    async with FakeServer(consumer) as server:
        await server.connect()
        server.gone = server.silent = True
        server.put({"type": "websocket.receive", "text": "hello"})
        assert await server.end() is None
        assert_released(any_layer)
    assert consumer.codes == [1006]


@pytest.mark.parametrize("fails", [False, True])
async def test_server_that_waits_for_the_client(
    any_layer: Layer | None,
    caplog: pytest.LogCaptureFixture,
    *,
    fails: bool,
) -> None:
    """A server that always waits for the answer to a close doesn't hold up a consumer.

    The exception that it raises in the end is not logged.
    """
    answered, sent = asyncio.Event(), asyncio.Event()

    async def wait_for_answer(event: ChannelMessage) -> None:
        while not answered.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await answered.wait()
        sent.set()
        raise ConnectionResetError

    async def end(consumer: Subject) -> None:
        consumer.base_send = wait_for_answer
        if fails:
            raise Boom
        await consumer.close(4001)

    consumer = Impatient(any_layer, receive=end)
    try:
        async with FakeServer(consumer) as server:
            await server.connect()
            server.put({"type": "websocket.receive", "text": "hello"})
            assert type(await server.end()) is (Boom if fails else type(None))
            assert consumer.codes == [1011 if fails else 4001]
    finally:
        answered.set()
        await asyncio.wait_for(sent.wait(), LIMIT)
    assert_released(any_layer)
    assert logged(caplog) == []


async def test_close_is_cancelled(any_layer: Layer | None) -> None:
    """A consumer that is cancelled while it closes doesn't wait for the server."""
    closing = asyncio.Event()

    async def never(event: ChannelMessage) -> None:
        closing.set()
        await asyncio.Event().wait()

    async def close_for_ever(consumer: Subject) -> None:
        consumer.base_send = never
        await consumer.close(4001)

    consumer = Subject(any_layer, receive=close_for_ever)
    async with FakeServer(consumer) as server:
        await server.connect()
        server.put({"type": "websocket.receive", "text": "hello"})
        await asyncio.wait_for(closing.wait(), LIMIT)
        server.task.cancel()
        assert isinstance(await server.end(), asyncio.CancelledError)
        assert_released(any_layer)
    assert consumer.codes == [1012]


async def test_oserror_from_a_handler() -> None:
    """An OSError that does not come from sending is an error like any other."""

    async def open_a_file(consumer: Subject) -> None:
        raise FileNotFoundError("no such file")

    consumer = Subject(None, receive=open_a_file)
    async with FakeServer(consumer) as server:
        await server.connect()
        await server.give({"type": "websocket.receive", "text": "hello"})
        assert isinstance(await server.end(), FileNotFoundError)
    assert consumer.codes == [1011]


async def test_websocket_disconnect_fails(any_layer: Layer | None) -> None:
    """An override of websocket_disconnect() that fails before super is an error."""

    class Careless(Subject):
        async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
            raise Boom

    consumer = Careless(any_layer)
    async with FakeServer(consumer) as server:
        await server.connect()
        assert isinstance(await server.disconnect(code=1000), Boom)
        assert_released(any_layer)
    assert consumer.codes == [1011]


async def test_receive_of_the_server_fails(any_layer: Layer | None) -> None:
    """An exception from the server's receive() is an error like any other."""
    consumer = Subject(any_layer)
    async with FakeServer(consumer) as server:
        await server.connect()
        await server.give(Boom())
        assert isinstance(await server.end(), Boom)
        assert_released(any_layer)
    assert consumer.codes == [1011]


async def test_cancelled_while_idle(any_layer: Layer | None) -> None:
    """Cancelling an idle connection ends it with disconnect(1012)."""
    consumer = Subject(any_layer)
    async with FakeServer(consumer) as server:
        await server.connect()
        server.task.cancel()
        assert isinstance(await server.end(), asyncio.CancelledError)
        assert_released(any_layer)
    assert consumer.codes == [1012]


# Connections that end before they begin


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        ({"type": "websocket.disconnect", "code": 1006}, type(None)),
        ({"type": "nothing.known"}, ValueError),
        (Boom(), Boom),
        (None, asyncio.CancelledError),
    ],
)
async def test_no_disconnect_without_connect(
    event: Any, outcome: type, any_layer: Layer | None
) -> None:
    """disconnect() is not called for a connection that was never opened."""
    consumer = Subject(any_layer)
    async with FakeServer(consumer) as server:
        await until(lambda: server.idle)
        if event is None:
            server.task.cancel()
        else:
            server.put(event)
        assert type(await server.end()) is outcome
        assert_released(any_layer)
    assert consumer.codes == []


async def test_new_channel_fails(caplog: pytest.LogCaptureFixture) -> None:
    """If the layer cannot create a channel, disconnect() is not called."""

    class Broken(QueueLayer):
        async def new_channel(self, prefix: str = "specific") -> str:
            raise Boom

        async def group_discard(self, group: str, channel: str) -> None:
            raise AssertionError

    layer = Broken()
    register_channel_layer("default", layer)
    consumer = Subject(layer)
    async with FakeServer(consumer) as server:
        assert isinstance(await server.end(), Boom)
        assert_released(layer)
    assert consumer.codes == []
    assert logged(caplog) == []


# Errors of the layer at the end


async def test_group_add_fails() -> None:
    """If one group cannot be joined, the others are left, and the error is raised."""

    class Broken(QueueLayer):
        async def group_add(self, group: str, channel: str) -> None:
            if group == "news":
                raise Boom
            await super().group_add(group, channel)

    layer = Broken()
    register_channel_layer("default", layer)
    consumer = Subject(layer)
    async with FakeServer(consumer) as server:
        await server.connect()
        assert isinstance(await server.end(), Boom)
        assert_released(layer)
    assert consumer.codes == [1011]


@pytest.mark.parametrize("outcome", [type(None), Boom])
async def test_group_discard_fails(
    outcome: type, caplog: pytest.LogCaptureFixture
) -> None:
    """If one group cannot be left, that is logged once, and the others are left."""

    class Broken(QueueLayer):
        async def group_discard(self, group: str, channel: str) -> None:
            if group == "lobby":
                raise OSError("the layer is gone")
            await super().group_discard(group, channel)

    layer = Broken()
    register_channel_layer("default", layer)
    consumer = Subject(layer, receive=fail)
    async with FakeServer(consumer) as server:
        await server.connect()
        if outcome is Boom:
            await server.give({"type": "websocket.receive", "text": "hello"})
        else:
            server.put({"type": "websocket.disconnect", "code": 1011})
        assert type(await server.end()) is outcome
    assert consumer.codes == [1011]
    assert members(layer, "news") == set()
    assert logged(caplog) == ["Subject could not leave group 'lobby'"]
    assert "the layer is gone" in caplog.text


async def test_delete_channel_fails(caplog: pytest.LogCaptureFixture) -> None:
    """If the channel cannot be released, that is logged after disconnect()."""

    class Broken(QueueLayer):
        async def delete_channel(self, channel: str) -> None:
            raise OSError("the layer is gone")

    layer = Broken()
    register_channel_layer("default", layer)
    consumer = Subject(layer)
    async with FakeServer(consumer) as server:
        await server.connect()
        assert await server.disconnect(code=1000) is None
        assert_released(layer)
    assert consumer.codes == [1000]
    assert logged(caplog) == ["Subject could not release its channel"]
