"""Consumers: classes that serve one connection each."""

from .base import AsyncConsumer
from .broadcast import broadcast
from .event_stream import AsyncEventStreamConsumer
from .http import AsyncHttpConsumer
from .websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer

__all__ = [
    "AsyncConsumer",
    "AsyncEventStreamConsumer",
    "AsyncHttpConsumer",
    "AsyncJsonWebsocketConsumer",
    "AsyncWebsocketConsumer",
    "broadcast",
]
