"""Consumers for JSON."""

from typing import Any

import pytest

from fast_channels.consumer import AsyncJsonWebsocketConsumer

from .fakes import FakeServer


class JsonListener(AsyncJsonWebsocketConsumer):
    """Writes down what the client sends."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        self.calls.append((content, kwargs))


@pytest.mark.parametrize("content", [{"a": [1, None]}, [], "text", 7, None, False])
async def test_json(content: Any) -> None:
    """What send_json() sends is what receive_json() gets."""
    consumer = JsonListener()
    async with FakeServer(consumer) as server:
        await server.connect()
        await consumer.send_json(content)
        text = server.sent[-1]["text"]
        await server.give({"type": "websocket.receive", "text": text})
        assert consumer.calls == [(content, {})]


@pytest.mark.parametrize(("close", "code"), [(True, 1000), (4001, 4001)])
async def test_send_json_and_close(close: bool | int, code: int) -> None:
    """send_json() closes the connection afterwards, if asked to."""
    consumer = JsonListener()
    async with FakeServer(consumer) as server:
        await server.connect()
        await consumer.send_json([], close=close)
    assert server.sent[1:] == [
        {"type": "websocket.send", "text": "[]"},
        {"type": "websocket.close", "code": code},
    ]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"text": ""}, "got an empty frame"),
        ({}, "got an empty frame"),
        ({"bytes": b"{}"}, "got a binary frame"),
        ({"bytes": b""}, "got a binary frame"),
        ({"text": "{"}, "line 1 column 2"),
    ],
)
async def test_frames_that_are_not_json(event: dict[str, Any], message: str) -> None:
    """A frame that is empty, binary or malformed raises ValueError."""
    consumer = JsonListener()
    async with FakeServer(consumer) as server:
        await server.connect()
        await server.give({"type": "websocket.receive", **event})
        outcome = await server.end()
    assert isinstance(outcome, ValueError)
    assert message in str(outcome)
    assert consumer.calls == []


async def test_content_that_is_not_json() -> None:
    """send_json() raises TypeError for what JSON cannot hold, and sends nothing."""
    consumer = JsonListener()
    async with FakeServer(consumer) as server:
        await server.connect()
        with pytest.raises(TypeError, match="not JSON serializable"):
            await consumer.send_json(object())
    assert len(server.sent) == 1


async def test_receive_json_ignores_content() -> None:
    """A consumer that does not override receive_json() ignores what is sent."""
    async with FakeServer(AsyncJsonWebsocketConsumer()) as server:
        await server.connect()
        await server.give({"type": "websocket.receive", "text": "[]"})
        assert await server.disconnect() is None


async def test_json_codec_may_be_overridden() -> None:
    """encode_json() and decode_json() may be overridden."""

    class Reversed(JsonListener):
        @classmethod
        async def encode_json(cls, content: str) -> str:
            return content[::-1]

        @classmethod
        async def decode_json(cls, text_data: str) -> str:
            return text_data[::-1]

    consumer = Reversed()
    async with FakeServer(consumer) as server:
        await server.connect()
        await consumer.send_json("abc")
        await server.give({"type": "websocket.receive", "text": "fed"})
    assert server.sent[-1] == {"type": "websocket.send", "text": "cba"}
    assert consumer.calls == [("def", {})]


async def test_receive_passes_arguments_on() -> None:
    """What an override of receive() adds reaches receive_json()."""

    class Stamping(JsonListener):
        async def receive(
            self,
            text_data: str | None = None,
            bytes_data: bytes | None = None,
            **kwargs: Any,
        ) -> None:
            await super().receive(text_data, bytes_data, stamp=7, **kwargs)

    consumer = Stamping()
    async with FakeServer(consumer) as server:
        await server.connect()
        await server.give({"type": "websocket.receive", "text": "[]"})
        assert consumer.calls == [([], {"stamp": 7})]
