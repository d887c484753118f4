"""The signal of a client that is gone, and signals in exception groups.

An ``asyncio.TaskGroup`` raises such groups.
"""

from collections.abc import Generator
from typing import cast

from fast_channels.exceptions import StopConsumer

__all__ = ["ClientGone", "leaves", "signal_in"]


class ClientGone(StopConsumer):
    """Signal: the client is gone, which ends the running handler."""


def signal_in(error: BaseException, *signals: type[Exception]) -> Exception | None:
    """Return the signal in an exception; None if it is or contains another error.

    An ``asyncio.TaskGroup`` raises the signals of its tasks in a group.

    Args:
        error: An exception or an exception group.
        *signals: The signals to look for, in order of precedence.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, signals) else None
    parts = list(leaves(cast("BaseException", error)))
    found = [leaf for leaf in parts if isinstance(leaf, signals)]
    if len(found) < len(parts):
        return None
    # A subclass takes precedence over the signal itself, as it is more specific.
    return min(
        found,
        key=lambda leaf: next(
            (place, type(leaf) is signal)
            for place, signal in enumerate(signals)
            if isinstance(leaf, signal)
        ),
    )


def leaves(error: BaseException) -> Generator[BaseException]:
    """Yield the exceptions in an exception group, or the exception if it is not one."""
    if isinstance(error, BaseExceptionGroup):
        for each in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves(each)
    else:
        yield error
