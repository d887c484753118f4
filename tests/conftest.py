"""Fixtures for all tests: both event loops, and a check that no task is left."""

import asyncio
import asyncio.constants
import gc
import linecache
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop
from blockbuster import blockbuster_ctx
from coverage import Coverage
from hypothesis import HealthCheck, settings

from fast_channels.layers import channel_layers

pytest_plugins = ["tests.redis_servers.fixtures"]

# Frames of the traceback that asyncio's debug mode keeps for each future and task. Its
# default of ten costs an eighth of the time of unit tests; the innermost are enough.
setattr(asyncio.constants, "DEBUG_STACK_DEPTH", 2)  # noqa: B010 # typed as constant


def _trust_cache(filename: str | None = None) -> None:
    """Replace a check whether a source file has changed since it was read."""


# Futures keep such a traceback too. Without this, each of them looks for all of its
# source files on the disk, which costs a seventh of the time of unit tests.
setattr(linecache, "checkcache", _trust_cache)  # noqa: B010 # typed as a function

# By default, hypothesis generates the same examples in every run, without a deadline;
# --hypothesis-profile=long generates many more.
settings.register_profile(
    "short",
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "long", settings.get_profile("short"), max_examples=20_000, derandomize=False
)
settings.load_profile("short")

_TESTS = Path(__file__).parent
_ON_BOTH_LOOPS = (_TESTS / "unit", _TESTS / "contract")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests of layers and consumers on asyncio's loop and on uvloop's."""
    if any(item.path.is_relative_to(folder) for folder in _ON_BOTH_LOOPS):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt modules and collected tests, which stay, from garbage collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Limit the time of tests on uvloop with a thread instead of a signal.

    An idle uvloop doesn't notice a signal. A thread per test is slower, so the tests on
    asyncio keep the signal.
    """
    in_thread = pytest.mark.timeout(method="thread")
    for item in items:
        if "uvloop" in item.name:
            item.add_marker(in_thread)


@pytest.fixture(scope="session", autouse=True)
def no_blocking_call() -> Iterator[None]:
    """Fail a test in which fast_channels blocks the event loop."""
    with blockbuster_ctx("fast_channels") as blockbuster:
        if Coverage.current() is not None:
            # Coverage's tracer takes a lock in the code that it traces.
            blockbuster.functions["threading.Lock.acquire"].deactivate()
        yield


@pytest.fixture(autouse=True)
def empty_registry() -> Iterator[None]:
    """Start each test with an empty registry of layers."""
    channel_layers.clear()
    yield
    channel_layers.clear()


@pytest.fixture(autouse=True)
def no_task_left(request: pytest.FixtureRequest) -> None:
    """Fail a test with an event loop that leaves a task running."""
    if request.node.get_closest_marker("asyncio") is not None:
        request.getfixturevalue("no_task_left_in_the_loop")


@pytest.fixture
async def no_task_left_in_the_loop() -> AsyncIterator[None]:
    """Prepare the event loop of a test, and fail if a task is running at the end."""
    loop = asyncio.get_running_loop()
    # Blocking calls are detected above; a slow machine must not add lines to the log.
    loop.slow_callback_duration = 60
    if isinstance(loop, uvloop.Loop):
        # asyncio's debug mode doubles the time of a test: one event loop is enough.
        loop.set_debug(False)
    yield
    # A task cancelled in the last line of a test needs a moment to end.
    for _ in range(3):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"the test left {len(left)} tasks running: {left}"
