"""The types have the keys of the ASGI specification."""

from typing import get_args, get_type_hints, is_typeddict

import pytest

from fast_channels import type_defs

# https://asgi.readthedocs.io/en/latest/specs/www.html: the value of "type", the
# required keys of an event, and the optional ones.
EVENTS: dict[str, tuple[str, set[str], set[str]]] = {
    "WebSocketConnectEvent": ("websocket.connect", set(), set()),
    "WebSocketAcceptEvent": ("websocket.accept", set(), {"subprotocol", "headers"}),
    "WebSocketReceiveEvent": ("websocket.receive", set(), {"bytes", "text"}),
    "WebSocketSendEvent": ("websocket.send", set(), {"bytes", "text"}),
    "WebSocketDisconnectEvent": ("websocket.disconnect", set(), {"code", "reason"}),
    "WebSocketCloseEvent": ("websocket.close", set(), {"code", "reason"}),
    "HttpRequestEvent": ("http.request", set(), {"body", "more_body"}),
    "HttpResponseStartEvent": (
        "http.response.start",
        {"status"},
        {"headers", "trailers"},
    ),
    "HttpResponseBodyEvent": ("http.response.body", set(), {"body", "more_body"}),
    "HttpDisconnectEvent": ("http.disconnect", set(), set()),
}


@pytest.mark.parametrize("name", EVENTS)
def test_event_has_the_keys_of_the_specification(name: str) -> None:
    """An event has its type and the required and optional keys of the specification."""
    event_type, required, optional = EVENTS[name]
    event = getattr(type_defs, name)
    assert event.__required_keys__ == {"type", *required}
    assert event.__optional_keys__ == optional
    assert get_args(get_type_hints(event)["type"]) == (event_type,)


def test_every_event_is_checked() -> None:
    """The table above contains every event."""
    events = {
        name for name in type_defs.__all__ if is_typeddict(getattr(type_defs, name))
    }
    assert events == set(EVENTS)
