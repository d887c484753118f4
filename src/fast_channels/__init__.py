"""Django Channels' consumers and channel layers for any ASGI application."""

__all__ = ["__version__"]

__version__ = "2.0.0"
