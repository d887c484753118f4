"""Signals in groups of errors, as tasks of an ``asyncio.TaskGroup`` raise them."""

from collections.abc import Generator
from typing import cast

__all__ = ["leaves", "signal_in"]


def signal_in(error: BaseException, *signals: type[Exception]) -> Exception | None:
    """Return the signal that an error is, or that is all there is in a group of errors.

    Tasks of an ``asyncio.TaskGroup`` raise their signals in a group.

    Args:
        error: What was raised.
        *signals: The signals to look for; of several, the first one here counts.
    """
    found = [leaf for leaf in leaves(error) if isinstance(leaf, signals)]
    if not found or len(found) < len(list(leaves(error))):
        return None
    # A subclass of a signal says more than the signal.
    return min(
        found,
        key=lambda leaf: next(
            (place, type(leaf) is signal)
            for place, signal in enumerate(signals)
            if isinstance(leaf, signal)
        ),
    )


def leaves(error: BaseException) -> Generator[BaseException]:
    """Yield the errors in a group of errors, or the error if it is none."""
    if isinstance(error, BaseExceptionGroup):
        for each in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves(each)
    else:
        yield error
