"""Everything that fast_channels raises on purpose.

Errors say that something went wrong::

    Exception
    ├── ValueError
    │   └── InvalidChannelLayerError   a consumer needs a layer and has none
    ├── ChannelFull                    a channel holds as many messages as it may
    ├── MessageTooLarge                a message exceeds what a layer carries
    └── RequestAborted                 an HTTP client went away before its request ended
        └── RequestTimeout             an HTTP request took too long to arrive

Signals are exceptions in form only: user code raises them to tell the framework
what to do next, and nothing has gone wrong::

    Exception
    ├── AcceptConnection               accept this WebSocket
    ├── DenyConnection                 refuse this WebSocket
    └── StopConsumer                   this consumer is done
"""

__all__ = [
    "AcceptConnection",
    "ChannelFull",
    "DenyConnection",
    "InvalidChannelLayerError",
    "MessageTooLarge",
    "RequestAborted",
    "RequestTimeout",
    "StopConsumer",
]


class InvalidChannelLayerError(ValueError):
    """A consumer needs a channel layer and has none."""


class ChannelFull(Exception):
    """A message was refused because its channel is at capacity.

    Nothing was sent; the sender decides whether to wait, to drop the message or to
    fail. Only ``send()`` raises it: ``group_send()`` drops the copy for a channel
    that is full and delivers the others.
    """

    def __init__(self, channel: str | None = None) -> None:
        super().__init__(channel)
        self.channel = channel
        """The name of the channel that is full, if the layer told."""

    def __str__(self) -> str:
        if self.channel is None:
            return "the channel is full"
        return f"channel {self.channel!r} is full; its consumer does not keep up"


class MessageTooLarge(Exception):
    """A message was refused because it is larger than the layer carries."""


class RequestAborted(Exception):
    """The HTTP client went away before its request was complete."""


class RequestTimeout(RequestAborted):
    """The HTTP request was not complete in time."""


class AcceptConnection(Exception):
    """Signal: raised from ``connect()``, it accepts the WebSocket."""


class DenyConnection(Exception):
    """Signal: raised from ``connect()``, it refuses the WebSocket."""


class StopConsumer(Exception):
    """Signal: raised from any handler, it ends the consumer cleanly."""
