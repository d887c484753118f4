"""Everything that fast_channels raises on purpose.

Errors say that something went wrong::

    Exception
    ├── ValueError
    │   ├── InvalidChannelLayerError   a consumer needs a layer and has none
    │   └── UndecodableMessage         these bytes are no message
    ├── KeyError
    │   └── SerializerDoesNotExist     no serializer is registered for a format
    ├── ConnectionError
    │   └── RedisUnavailable           Redis cannot be reached or refuses commands
    ├── ChannelFull                    a channel holds as many messages as it may
    ├── MessageTooLarge                a message exceeds what a layer carries
    └── RequestAborted                 an HTTP client went away before its request ended
        └── RequestTimeout             an HTTP request took too long to arrive

``MessageTooLarge``, ``RequestAborted`` and ``RequestTimeout`` are those of Django
Channels, for code that raises or catches them; this library raises none of them.

Signals are exceptions in form only: user code raises them to tell the framework
what to do next, and nothing has gone wrong::

    Exception
    ├── AcceptConnection               accept this WebSocket
    ├── DenyConnection                 refuse this WebSocket
    └── StopConsumer                   this consumer is done
"""

from collections.abc import Iterable

__all__ = [
    "AcceptConnection",
    "ChannelFull",
    "DenyConnection",
    "InvalidChannelLayerError",
    "MessageTooLarge",
    "RedisUnavailable",
    "RequestAborted",
    "RequestTimeout",
    "SerializerDoesNotExist",
    "StopConsumer",
    "UndecodableMessage",
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


class RedisUnavailable(ConnectionError):
    """Redis cannot be reached, did not reply in time, or refuses what it is asked.

    The text gives the reason. Refusals are, for example, too few replicas
    (``NOREPLICAS``), no memory (``OOM``), a full disk (``MISCONF``), a script that runs
    too long (``BUSY``), and the access list (``NOPERM``).
    """


class UndecodableMessage(ValueError):
    """These bytes are no message of ours: another format, another key, or garbage."""


class SerializerDoesNotExist(KeyError):
    """No serializer is registered for a format."""

    def __init__(self, name: object, known: Iterable[str] = ()) -> None:
        super().__init__(name)
        self.format: object = name
        """The format that was asked for."""
        self.known: list[str] = sorted(known)
        """The formats that are registered."""

    def __str__(self) -> str:
        return (
            f"no serializer is registered for the format {self.format!r}, only for "
            f"{', '.join(map(repr, self.known)) or 'none'}; add yours with "
            "registry.register_serializer()"
        )


class AcceptConnection(Exception):
    """Signal: raised from ``connect()``, it accepts the WebSocket."""


class DenyConnection(Exception):
    """Signal: raised from ``connect()``, it refuses the WebSocket."""


class StopConsumer(Exception):
    """Signal: raised from any handler, it ends the consumer cleanly."""
