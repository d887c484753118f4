"""Messages in which a layer itself speaks, rather than an application."""

from typing import Any

__all__ = ["Notice"]


class Notice(dict[str, Any]):
    """A message that a consumer may ignore: it needs no handler for its type."""

    __slots__ = ()
