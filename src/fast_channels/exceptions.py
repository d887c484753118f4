"""The errors and signals of fast_channels.

Errors mean that something went wrong::

    Exception
    ├── ValueError
    │   ├── InvalidChannelLayerError   a consumer needs a layer and has none
    │   └── UndecodableMessage         these bytes are not a valid message
    ├── KeyError
    │   └── SerializerDoesNotExist     no serializer is registered for a format
    ├── ConnectionError
    │   └── RedisUnavailable           Redis cannot be reached or refuses commands
    ├── ChannelFull                    a channel is at capacity
    ├── MessageTooLarge                a message is too large for a layer
    └── RequestAborted                 an HTTP client went away before its request ended
        └── RequestTimeout             an HTTP request took too long to arrive

``MessageTooLarge``, ``RequestAborted`` and ``RequestTimeout`` come from Django
Channels, for code that raises or catches them; fast_channels raises none of them.

Signals are exceptions in form only: a handler raises one to control its consumer,
and nothing has gone wrong::

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
    """A message was refused because its channel, or its process, is at capacity.

    Nothing was sent; the sender can wait, drop the message or fail. Only ``send()``
    raises it: ``group_send()`` drops the copies for channels that are full and delivers
    the others.
    """

    def __init__(self, channel: str | None = None, *, option: str = "capacity") -> None:
        super().__init__(channel)
        self.channel = channel
        """The name of the channel, if the layer has passed it."""
        self.option = option
        """The option of the layer whose limit was reached: ``"capacity"``, or
        ``"process_capacity"`` for the queue of the channel's process."""

    def __str__(self) -> str:
        if self.channel is None:
            return "the channel is full"
        if self.option == "process_capacity":
            return (
                f"the process of channel {self.channel!r} is full (process_capacity): "
                "it is busy, cut off from Redis, or gone"
            )
        return f"channel {self.channel!r} is full; its consumer does not keep up"


class MessageTooLarge(Exception):
    """A message was refused because it is too large for the layer."""


class RequestAborted(Exception):
    """The HTTP client went away before its request was complete."""


class RequestTimeout(RequestAborted):
    """The HTTP request was not complete in time."""


class RedisUnavailable(ConnectionError):
    """Redis cannot be reached, did not reply in time, or refuses a command.

    The text gives the reason. Redis refuses commands, for example, for lack of replicas
    (``NOREPLICAS``), memory (``OOM``), disk space (``MISCONF``) or permission
    (``NOPERM``), and while a script runs for too long (``BUSY``).
    """


class UndecodableMessage(ValueError):
    """These bytes are not a valid message: another format, another key, or garbage."""


class SerializerDoesNotExist(KeyError):
    """No serializer is registered for a format."""

    def __init__(self, name: object, known: Iterable[str] = ()) -> None:
        super().__init__(name)
        self.format: object = name
        """The format that was requested."""
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
