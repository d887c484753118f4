"""Consumers for JSON."""

import json
import math
from typing import Any

import pytest

from fast_channels.consumer import AsyncJsonWebsocketConsumer

from .fakes import FakeServer, logged


class JsonListener(AsyncJsonWebsocketConsumer):
    """Records what the client sends."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        self.calls.append((content, kwargs))

    async def disconnect(self, code: int) -> None:
        self.calls.append(("disconnect", code))


@pytest.mark.parametrize("content", [{"a": [1, None]}, [], "text", 7, None, False])
async def test_json(content: Any) -> None:
    """receive_json() gets the content that send_json() sent."""
    consumer = JsonListener()
    async with FakeServer(consumer) as server:
        await server.connect()
        await consumer.send_json(content)
        text = server.sent[-1]["text"]
        await server.give({"type": "websocket.receive", "text": text})
        assert consumer.calls == [(content, {})]


@pytest.mark.parametrize(("close", "code"), [(True, 1000), (4001, 4001)])
async def test_send_json_and_close(close: bool | int, code: int) -> None:
    """send_json() can close the connection afterwards."""
    consumer = JsonListener()
    async with FakeServer(consumer) as server:
        await server.connect()
        await consumer.send_json([], close=close)
    assert server.sent[1:] == [
        {"type": "websocket.send", "text": "[]"},
        {"type": "websocket.close", "code": code},
    ]


INVALID_FRAMES: list[tuple[dict[str, Any], int, str]] = [
    ({"text": ""}, 1007, "got an empty frame"),
    ({}, 1007, "got an empty frame"),
    ({"bytes": b"{}"}, 1003, "got a binary frame"),
    ({"bytes": b""}, 1003, "got a binary frame"),
    ({"text": "{"}, 1007, "line 1 column 2"),
    ({"text": "[NaN]"}, 1007, "NaN is not valid JSON"),
    ({"text": "-Infinity"}, 1007, "-Infinity is not valid JSON"),
    ({"text": "[1e999]"}, 1007, "1e999 is too large"),
    ({"text": '{"a": "\\ud800"}'}, 1007, "surrogates not allowed"),
    ({"text": '{"\\uDC00": 1}'}, 1007, "surrogates not allowed"),
    ({"text": "[" * 100_000}, 1007, "recursion"),
]


@pytest.mark.parametrize(("event", "code", "message"), INVALID_FRAMES)
async def test_frames_that_are_not_json(
    event: dict[str, Any], code: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A frame that is not JSON closes the connection, with one line in the log."""
    consumer = JsonListener()
    scope = {"type": "websocket", "client": ("203.0.113.7", 5000)}
    async with FakeServer(consumer, scope) as server:
        await server.connect()
        await server.give({"type": "websocket.receive", **event})
        assert server.sent[1:] == [{"type": "websocket.close", "code": code}]
        assert await server.disconnect() is None
    assert consumer.calls == [("disconnect", code)]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.exc_info is None
    line = record.getMessage()
    assert message in line
    assert "JsonListener closes the connection of ('203.0.113.7', 5000)" in line
    assert f"with code {code}" in line
    assert "\n" not in line


@pytest.mark.parametrize(("event", "code", "message"), INVALID_FRAMES)
async def test_receive_raises_for_what_is_not_json(
    event: dict[str, Any], code: int, message: str
) -> None:
    """An override of receive() can catch the ValueError and continue."""

    class Patient(JsonListener):
        async def receive(
            self,
            text_data: str | None = None,
            bytes_data: bytes | None = None,
            **kwargs: Any,
        ) -> None:
            try:
                await super().receive(text_data, bytes_data, **kwargs)
            except ValueError as exc:
                self.calls.append(str(exc))

    consumer = Patient()
    async with FakeServer(consumer) as server:
        await server.connect()
        await server.give({"type": "websocket.receive", **event})
        await server.give({"type": "websocket.receive", "text": "7"})
        refused, accepted = consumer.calls
        assert message in refused
        assert accepted == (7, {})


@pytest.mark.parametrize("text", [r'"\ud83d\ude00"', r'"\\ud800"', "1e300", "[1.5]"])
async def test_frames_that_look_as_if_they_were_not_json(text: str) -> None:
    """A complete surrogate pair, an escaped backslash and large floats are JSON."""
    consumer = JsonListener()
    async with FakeServer(consumer) as server:
        await server.connect()
        await server.give({"type": "websocket.receive", "text": text})
        assert consumer.calls == [(json.loads(text), {})]


async def test_decoder_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A ValueError from an overridden decode_json() also means an invalid frame."""

    class Picky(JsonListener):
        @classmethod
        async def decode_json(cls, text_data: str) -> Any:
            raise ValueError("two\nlines of " + 1000 * "no ")

    consumer = Picky()
    async with FakeServer(consumer) as server:
        await server.connect()
        await server.give({"type": "websocket.receive", "text": "{}"})
        assert server.sent[1:] == [{"type": "websocket.close", "code": 1007}]
    (line,) = logged(caplog)
    assert "two lines of no no" in line
    assert len(line) < 400


async def test_value_error_from_a_handler(caplog: pytest.LogCaptureFixture) -> None:
    """A ValueError from receive_json() is an error of the application."""

    class Failing(JsonListener):
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            raise ValueError("no such room")

    consumer = Failing()
    async with FakeServer(consumer) as server:
        await server.connect()
        await server.give({"type": "websocket.receive", "text": "{}"})
        assert str(await server.end()) == "no such room"
    assert server.sent[1:] == [{"type": "websocket.close", "code": 1011}]
    assert consumer.calls == [("disconnect", 1011)]
    assert logged(caplog) == []


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
async def test_numbers_that_json_lacks(number: float) -> None:
    """send_json() raises ValueError for NaN and infinite numbers, and sends nothing."""
    consumer = JsonListener()
    async with FakeServer(consumer) as server:
        await server.connect()
        with pytest.raises(ValueError, match="not JSON compliant"):
            await consumer.send_json([number])
    assert len(server.sent) == 1


async def test_content_that_is_not_json() -> None:
    """send_json() raises TypeError for content that is not JSON, and sends nothing."""
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


async def test_json_codec_can_be_overridden() -> None:
    """encode_json() and decode_json() can be overridden."""

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
    assert consumer.calls[0] == ("def", {})


async def test_receive_passes_arguments_on() -> None:
    """Arguments that an override of receive() adds reach receive_json()."""

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
