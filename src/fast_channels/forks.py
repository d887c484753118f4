"""What becomes of an object in a process that is forked.

A child has the memory of its parent and one of its threads. A lock that another thread
held is never released there, and an event loop that another thread ran does not run,
though it says so.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["in_child", "released"]

_T = TypeVar("_T")

# What to call with each object.
_steps: "WeakKeyDictionary[Any, Callable[[Any], object]]" = WeakKeyDictionary()


def in_child(instance: _T, step: Callable[[_T], object]) -> _T:
    """Have a function called with an object in each process that is forked.

    Returns:
        The object.
    """
    _steps[instance] = step
    return instance


def released(lock: _T) -> _T:
    """Return a lock that is free in each process that is forked."""
    return in_child(lock, _release)


def _release(lock: Any) -> None:
    # As the locks of the standard library do: every holder of a reference sees it.
    lock._at_fork_reinit()  # noqa: SLF001 # there is no public way


def _begin() -> None:
    for instance, step in list(_steps.items()):
        step(instance)


# AttributeError: Windows has no forks.
with contextlib.suppress(AttributeError):
    os.register_at_fork(after_in_child=_begin)
