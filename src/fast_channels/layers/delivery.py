"""A message of a plain channel, from its arrival until it has been handled."""

from collections.abc import Callable
from typing import Any

__all__ = ["Delivery"]


def _do_nothing() -> None:
    pass


class Delivery:
    """A message that its receiver has to acknowledge when it has been handled.

    A layer that keeps messages delivers it to another receiver if this one dies first.
    Where a layer keeps nothing, acknowledging and giving back have no effect.

    Args:
        message: The message.
        acknowledge: Called by ``acknowledge()``, perhaps several times.
        give_back: Called by ``give_back()``, perhaps several times.
    """

    __slots__ = ("_acknowledge", "_give_back", "message")

    def __init__(
        self,
        message: dict[str, Any],
        acknowledge: Callable[[], None] = _do_nothing,
        give_back: Callable[[], None] = _do_nothing,
    ) -> None:
        self.message: dict[str, Any] = message
        """The message; it belongs to the receiver."""
        self._acknowledge = acknowledge
        self._give_back = give_back

    def acknowledge(self) -> None:
        """Say that the message was handled: it is not delivered again.

        It does not wait for Redis, which learns of it with the next command; until then
        the message is delivered again if the process dies. A second call has no effect.
        """
        self._acknowledge()

    def give_back(self) -> None:
        """Leave the message to other receivers, at its place in the channel.

        The time in which it was handled does not count as waiting: half of ``expiry``
        is left at least. It has no effect on a message that was acknowledged.
        """
        self._give_back()
