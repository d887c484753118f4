"""Layers in forked processes, with other threads active at the fork."""

import contextlib
import os
import signal
import subprocess
import sys

# Forks while another thread holds the locks of a layer most of the time.
FORKING = """
import os, sys, threading
from fast_channels.layers import InMemoryChannelLayer
layer = InMemoryChannelLayer()
def count():
    while True:
        layer.statistics()
sys.setswitchinterval(1e-5)
threading.Thread(target=count, daemon=True).start()
for _ in range(100):
    child = os.fork()
    if not child:
        layer.statistics()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_locks_that_other_threads_held() -> None:
    """A hundred forked processes find every lock free."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", FORKING],
        start_new_session=True,
    ) as process:
        try:
            assert process.wait(20) == 0
        finally:
            # A hanging child is the only other process in its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
