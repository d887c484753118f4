"""A message of a plain channel, from its arrival until it has been handled."""

from collections.abc import Callable
from typing import Any

__all__ = ["Delivery"]


def _do_nothing() -> None:
    pass


class Delivery:
    """A message that its receiver must acknowledge after handling it.

    A layer that stores messages delivers it again if the receiver's process dies first.
    In other layers, acknowledging and giving back have no effect.

    Args:
        message: The message.
        acknowledge: Called at every ``acknowledge()``.
        give_back: Called at every ``give_back()``.
    """

    __slots__ = ("_acknowledge", "_give_back", "message")

    def __init__(
        self,
        message: dict[str, Any],
        acknowledge: Callable[[], None] = _do_nothing,
        give_back: Callable[[], None] = _do_nothing,
    ) -> None:
        self.message: dict[str, Any] = message
        """The message, which belongs to the receiver."""
        self._acknowledge = acknowledge
        self._give_back = give_back

    def acknowledge(self) -> None:
        """Mark the message as handled, so that it is not delivered again.

        This does not wait for Redis: the next command carries the acknowledgement. If
        the process dies first, the message comes again. A second call has no effect.
        """
        self._acknowledge()

    def give_back(self) -> None:
        """Return the message to its place in the channel, for other receivers.

        The time in which it was handled does not count as waiting: half of ``expiry``
        is left at least. It has no effect on a message that was acknowledged.
        """
        self._give_back()
