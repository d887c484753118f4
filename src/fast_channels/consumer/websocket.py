"""Consumers for WebSockets.

Code for fast-channels 1.x can import the exceptions and types from here too.
"""

from fast_channels.exceptions import AcceptConnection, DenyConnection, StopConsumer
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelHeaders,
    ChannelScope,
    WebSocketConnectEvent,
    WebSocketDisconnectEvent,
    WebSocketReceiveEvent,
)

from .json_consumer import AsyncJsonWebsocketConsumer
from .websocket_consumer import AsyncWebsocketConsumer, Connection

__all__ = [
    "ASGIReceiveCallable",
    "ASGISendCallable",
    "AcceptConnection",
    "AsyncJsonWebsocketConsumer",
    "AsyncWebsocketConsumer",
    "ChannelHeaders",
    "ChannelScope",
    "Connection",
    "DenyConnection",
    "StopConsumer",
    "WebSocketConnectEvent",
    "WebSocketDisconnectEvent",
    "WebSocketReceiveEvent",
]
