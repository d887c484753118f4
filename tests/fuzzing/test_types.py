"""No message reaches the methods that every consumer has."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fast_channels.consumer import (
    AsyncConsumer,
    AsyncHttpConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
)

BASES = (AsyncHttpConsumer, AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer)
OURS = sorted({name for base in BASES for name in dir(base)} | {"scope", "base_send"})
HANDLERS = {
    "http_request",
    "http_disconnect",
    "websocket_connect",
    "websocket_receive",
    "websocket_disconnect",
}


@st.composite
def dotted(draw: st.DrawFn) -> str:
    """Return a name with dots for some of its underscores, perhaps an extra one."""
    name = draw(st.sampled_from(OURS))
    text = "".join(draw(st.sampled_from("._")) if c == "_" else c for c in name)
    before = draw(st.sampled_from(["", "", "", ".", "_", " "]))
    return before + text + draw(st.sampled_from(["", "", "", ".", "\x00", "\n"]))


TYPES = dotted() | st.text(max_size=20) | st.sampled_from(["own.handler", "own.data"])
NO_TYPES = st.none() | st.integers() | st.binary() | st.lists(st.text(), max_size=1)


class Own(AsyncConsumer):
    """Has one handler, and attributes that are not handlers."""

    own_data = 1

    def __init__(self) -> None:
        super().__init__()
        self.handled: list[Any] = []

    async def own_handler(self, event: dict[str, Any]) -> None:
        self.handled.append(event["type"])


class Http(Own, AsyncHttpConsumer):
    pass


class Json(Own, AsyncJsonWebsocketConsumer):
    pass


def attributes(consumer: Own) -> dict[str, Any]:
    """Return the attributes of a consumer, without its connection."""
    own = dict(vars(consumer))
    own.pop("_consumer_connection", None)
    return own


@given(st.sampled_from([Own, Http, Json]), TYPES | NO_TYPES)
async def test_types(consumer_class: type[Own], message_type: Any) -> None:
    """A type reaches a handler of the class, or raises ValueError."""
    consumer = consumer_class()
    name = str(message_type).replace(".", "_")
    if isinstance(message_type, str) and name in HANDLERS and hasattr(consumer, name):
        return
    before = attributes(consumer)
    reason = ""
    try:
        await consumer.dispatch({"type": message_type})
    except ValueError as exc:
        reason = str(exc)
    if name == "own_handler" and isinstance(message_type, str):
        assert consumer.handled == [message_type]
    else:
        assert consumer.handled == []
        assert repr(message_type) in reason
    assert attributes(consumer) == before
