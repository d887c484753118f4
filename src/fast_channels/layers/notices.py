"""Messages from a layer itself, rather than from an application."""

from typing import Any

__all__ = ["Notice"]


class Notice(dict[str, Any]):
    """A message that consumers without a handler for its type ignore."""

    __slots__ = ()
