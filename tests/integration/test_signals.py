"""Thousands of signals during blocking calls, and calls at interpreter exit."""

import subprocess
import sys

import pytest

# Signals that each program waits for. Some arrive at the same step.
SIGNALS = 2000

BEGIN = """
import asyncio, random, signal, sys, threading, time
from fast_channels.layers import BaseChannelLayer, SyncChannelLayer

class Layer(BaseChannelLayer):
    waiting = sent = 0

    async def send(self, channel, message):
        await asyncio.sleep(0)
        self.sent += 1
        if channel == "slow":
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting -= 1

layer = Layer()
facade = SyncChannelLayer(layer)
count = 0
"""

# A handler sends, and is not interrupted by itself.
SENDING = """
def handle(*_):
    global count, handling
    if not handling:
        handling = True
        facade.send("one", {"type": "from.handler"})
        count += 1
        handling = False

handling = False
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
calls = 0
while count < SIGNALS:
    facade.send("one", {"type": "from.main"})
    calls += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert layer.sent == calls + count
"""

# A handler raises after a random time. Some calls would never end otherwise.
RAISING = """
class Interrupt(Exception):
    pass

def handle(*_):
    if armed:
        raise Interrupt

armed = False
signal.signal(signal.SIGALRM, handle)
while count < SIGNALS:
    channel = "slow" if random.random() < 0.1 else "one"
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 5e-4), 0.01)
        try:
            if random.random() < 0.02:
                facade.close()
            facade.send(channel, {"type": "hello"})
        finally:
            armed = False
    except Interrupt:
        armed = False
        count += 1
signal.setitimer(signal.ITIMER_REAL, 0)
facade.send("one", {"type": "hello"})
end = time.monotonic() + 20
while layer.waiting or len(threading.enumerate()) > 2:
    assert time.monotonic() < end, (layer.waiting, threading.enumerate())
    time.sleep(0.01)
"""


@pytest.mark.parametrize("program", [SENDING, RAISING], ids=["sending", "raising"])
@pytest.mark.timeout(90)
def test_handlers(program: str) -> None:
    """No call hangs during or after a signal handler that sends or raises."""
    source = BEGIN + program.replace("SIGNALS", str(SIGNALS))
    process = subprocess.run([sys.executable, "-c", source], timeout=80, check=False)
    assert process.returncode == 0


FINALISERS = """
import builtins, sys
from fast_channels.layers import InMemoryChannelLayer, SyncChannelLayer

class Late:
    def __init__(self):
        self.facade = SyncChannelLayer(InMemoryChannelLayer())

    def __del__(self):
        try:
            self.facade.send("one", {"type": "hello"})
        except RuntimeError as exc:
            print(exc)

if "used" in sys.argv:
    Late().facade.send("one", {"type": "hello"})
module, cycle, builtins.late = Late(), Late(), Late()
cycle.itself = cycle
"""


@pytest.mark.parametrize("before", ["used", "unused"])
def test_finalisers_at_the_end(before: str) -> None:
    """After Python has ended all threads, a call is refused, and the process ends."""
    process = subprocess.run(
        [sys.executable, "-c", FINALISERS, before],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    refusals = process.stdout.splitlines()
    assert len(refusals) == 3
    assert all("when Python had ended all threads" in line for line in refusals)
