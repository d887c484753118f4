"""Applications that wrap another one, for origins, for cookies, or written by you."""

from .base import BaseMiddleware
from .cookies import CookieMiddleware
from .websocket import AllowedHostsOriginValidator, OriginValidator, WebsocketDenier

__all__ = [
    "AllowedHostsOriginValidator",
    "BaseMiddleware",
    "CookieMiddleware",
    "OriginValidator",
    "WebsocketDenier",
]
