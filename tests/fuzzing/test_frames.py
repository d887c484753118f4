"""Whatever a client sends, its consumer ends once and leaves nothing behind."""

import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_channels.consumer import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.exceptions import StopConsumer
from fast_channels.layers import InMemoryChannelLayer, register_channel_layer

from .strategies import deep, messages, wide_texts

EVENTS = st.fixed_dictionaries(
    {"type": st.just("websocket.receive")},
    optional={
        "text": st.none()
        | wide_texts()
        | messages(binary=False).map(json.dumps)
        | deep(1, 1200).map(str)
        | st.sampled_from(["", "NaN", "[Infinity]", '{"a": 1e999}', '"\\ud800"', "{"])
        | st.integers()
        | st.binary(max_size=3),
        "bytes": st.none()
        | st.binary(max_size=5)
        | st.builds(bytearray, st.binary(max_size=5))
        | wide_texts(),
        "more": st.integers(),
    },
)
DISCONNECTS = st.fixed_dictionaries(
    {"type": st.just("websocket.disconnect")},
    optional={"code": st.none() | st.integers(1000, 4999), "reason": st.text()},
)


class Relay(AsyncWebsocketConsumer):
    """Sends each frame to everyone, itself included."""

    channel_layer: Any
    channel_layer_alias = "default"
    groups = ["everyone"]
    codes: list[int]

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        event = {"type": "relayed", "text": text_data, "bytes": bytes_data}
        await self.channel_layer.group_send("everyone", event)

    async def relayed(self, event: dict[str, Any]) -> None:
        await self.send(event["text"], event["bytes"])

    async def disconnect(self, code: int) -> None:
        self.codes.append(code)


class JsonRelay(AsyncJsonWebsocketConsumer):
    """The same with JSON."""

    channel_layer: Any
    channel_layer_alias = "default"
    groups = ["everyone"]
    codes: list[int]

    async def receive_json(self, content: Any, **_kwargs: Any) -> None:
        event = {"type": "relayed", "content": content}
        await self.channel_layer.group_send("everyone", event)

    async def relayed(self, event: dict[str, Any]) -> None:
        await self.send_json(event["content"])

    async def disconnect(self, code: int) -> None:
        self.codes.append(code)


@pytest.mark.parametrize("consumer_class", [Relay, JsonRelay])
@given(events=st.lists(EVENTS, max_size=4), last=DISCONNECTS)
async def test_frames(
    consumer_class: type[Relay | JsonRelay],
    events: list[dict[str, Any]],
    last: dict[str, Any],
) -> None:
    """A consumer goes on or raises an exception; disconnect() is called once."""
    layer = InMemoryChannelLayer()
    register_channel_layer("default", layer)
    incoming = [{"type": "websocket.connect"}, *events, last]

    async def receive() -> MutableMapping[str, Any]:
        return incoming.pop(0)

    closes: list[int] = []

    async def send(event: MutableMapping[str, Any]) -> None:
        if event["type"] == "websocket.send":
            # As every server does.
            content = event["text"].encode() if "text" in event else event["bytes"]
            assert isinstance(content, bytes)
        elif event["type"] == "websocket.close":
            closes.append(event["code"])

    consumer = consumer_class()
    consumer.codes = []
    try:
        await consumer({"type": "websocket", "path": "/"}, receive, send)
    except UnicodeEncodeError:
        # That would be the server's.
        raise
    except (TypeError, ValueError):
        assert closes == [1011]
        expected = 1011
    else:
        expected = last.get("code") or 1005
        if closes and expected in {1000, 1005}:
            # The server does not report the consumer's own close code.
            [expected] = closes
            assert expected in {1003, 1007}
    assert consumer.codes == [expected]
    state = layer.statistics()
    assert (state["channels"], state["groups"], state["waiting"]) == (0, 0, 0)


@given(code=st.integers() | st.text() | st.floats() | st.none())
async def test_close_codes(code: Any) -> None:
    """A disconnect with any code ends the consumer once, with that code or 1005."""
    codes: list[object] = []

    class Closing(AsyncWebsocketConsumer):
        async def disconnect(self, code: int) -> None:
            codes.append(code)
            raise StopConsumer

    events = [
        {"type": "websocket.connect"},
        {"type": "websocket.disconnect", "code": code},
    ]

    async def receive() -> MutableMapping[str, Any]:
        return events.pop(0)

    async def send(event: MutableMapping[str, Any]) -> None:
        assert event["type"] == "websocket.accept"

    await Closing()({"type": "websocket"}, receive, send)
    assert repr(codes) == repr([1005 if code is None else code])
