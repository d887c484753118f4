"""Consumers: classes that serve one connection each."""

from .base import AsyncConsumer
from .broadcast import broadcast
from .http import AsyncHttpConsumer
from .websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer

__all__ = [
    "AsyncConsumer",
    "AsyncHttpConsumer",
    "AsyncJsonWebsocketConsumer",
    "AsyncWebsocketConsumer",
    "broadcast",
]
