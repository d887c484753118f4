"""Reset objects in forked processes.

A child process has the memory of its parent, but only one of its threads. In the child,
a lock that another thread held is never released, and an event loop that another thread
ran has stopped, although its ``is_running()`` returns True.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["in_child", "released"]

_T = TypeVar("_T")

# The function to call with each object.
_steps: "WeakKeyDictionary[Any, Callable[[Any], object]]" = WeakKeyDictionary()


def in_child(instance: _T, step: Callable[[_T], object]) -> _T:
    """Register a function to call with an object in each forked child process.

    Returns:
        The object.
    """
    _steps[instance] = step
    return instance


def released(lock: _T) -> _T:
    """Register a lock to be reset in each forked child process, and return it."""
    return in_child(lock, _release)


def _release(lock: Any) -> None:
    # Reset in place, as the standard library does, so that every reference sees it.
    lock._at_fork_reinit()  # noqa: SLF001 # there is no public way


def _begin() -> None:
    for instance, step in list(_steps.items()):
        step(instance)


# AttributeError: Windows has no forks.
with contextlib.suppress(AttributeError):
    os.register_at_fork(after_in_child=_begin)
