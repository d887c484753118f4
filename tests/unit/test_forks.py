"""Locks and callbacks after a fork."""

import gc
import threading
import weakref

from fast_channels import forks
from fast_channels.forks import in_child, released


def begin() -> None:
    """Run the child's part of a fork in this process."""
    forks._begin()  # pyright: ignore[reportPrivateUsage] # there is no public way


def test_released() -> None:
    """A lock that another thread holds is free in the child, for all who share it."""
    lock, reentrant = released(threading.Lock()), released(threading.RLock())

    def hold() -> None:
        lock.acquire()
        reentrant.acquire()

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert not lock.acquire(blocking=False)
    assert not reentrant.acquire(blocking=False)
    begin()
    assert lock.acquire(blocking=False)
    assert reentrant.acquire(blocking=False)


def test_in_child() -> None:
    """In the child, a function is called with its object, if that still exists."""

    class Thing:
        begun = 0

        def begin(self) -> None:
            self.begun += 1

    thing = in_child(Thing(), Thing.begin)
    begin()
    assert thing.begun == 1
    left = weakref.ref(thing)
    del thing
    gc.collect()
    assert left() is None
    begin()
