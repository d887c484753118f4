"""Applications that wrap another one: origins, cookies, and what you write yourself."""

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
