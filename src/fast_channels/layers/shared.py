"""A message for several mailboxes of this process."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from fast_channels.frames import Frame, Outlet, Renderer
from fast_channels.type_defs import ChannelMessage

__all__ = ["SharedMessage"]


class SharedMessage:
    """A message that several mailboxes share, and the frames made of it.

    Args:
        message: The message.
        copies: Returns a new copy of it at every call.
    """

    __slots__ = ("_frames", "copies", "handler")

    def __init__(
        self, message: ChannelMessage, copies: Callable[[], dict[str, Any]]
    ) -> None:
        kind = message.get("type")
        self.handler: str = kind.replace(".", "_") if isinstance(kind, str) else ""
        """The name of the handler."""
        self.copies: Callable[[], dict[str, Any]] = copies
        """Returns a new copy of the message at every call."""
        self._frames: dict[Renderer, Frame | None] = {}

    def frame(self, renderer: Renderer) -> Frame | None:
        """Return the frame that a renderer makes, or None for nothing.

        The renderer is called only once.
        """
        try:
            return self._frames[renderer]
        except KeyError:
            frame = self._frames[renderer] = renderer.frame(self.copies())
            return frame

    def send(self, outlets: Mapping[str, Outlet], deadline: float) -> list[str]:
        """Send it to the clients of some channels.

        Returns:
            The channels in which it has to wait: their consumers have another handler
            for it, or the server has raised an exception, as it will for the consumer.
        """
        if deadline <= time.monotonic():
            return list(outlets)
        left: list[str] = []
        renderers: Mapping[str, Renderer] | None = None
        renderer: Renderer | None = None
        frame: Frame | None = None
        for channel, outlet in outlets.items():
            if outlet.renderers is not renderers:
                renderers = outlet.renderers
                renderer = renderers.get(self.handler)
                frame = None if renderer is None else self.frame(renderer)
            if frame is not None:
                try:
                    outlet.send(frame)
                except Exception:  # noqa: BLE001 # the consumer's send() raises it too
                    left.append(channel)
            elif renderer is None:
                left.append(channel)
        return left
