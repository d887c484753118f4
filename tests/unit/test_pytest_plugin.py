"""The pytest plugin, in a pytest that runs inside this one."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from fast_channels.layers import channel_layers

SAMPLE = '''
import asyncio

import pytest
import pytest_asyncio

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    channel_layers,
    get_channel_layer,
    register_channel_layer,
    unregister_channel_layer,
)
from fast_channels.testing import WebsocketCommunicator


class Bare(BaseChannelLayer):
    def __init__(self):
        """Has no options."""


class Shouting(InMemoryChannelLayer):
    def require_valid_message(self, message):
        """Carries the values that its format can."""

    def serialize(self, message):
        if b"small" in message.values():
            raise TypeError("what is small cannot be shouted")
        return repr(message).upper().encode()

    def deserialize(self, data):
        return eval(data)


ORIGINAL = InMemoryChannelLayer(7, 8, 9, {"a*": 1})
register_channel_layer("chat", ORIGINAL)
register_channel_layer("bare", Bare())
register_channel_layer("loud", Shouting(capacity=6))


class Echo(AsyncWebsocketConsumer):
    channel_layer_alias = "chat"


@pytest_asyncio.fixture
async def client():
    async with WebsocketCommunicator(Echo, "/") as client:
        yield client


def test_sync(in_memory_channel_layers):
    aliases = ["chat", "bare", "loud"]
    assert list(in_memory_channel_layers) == list(channel_layers) == aliases
    for alias, layer in in_memory_channel_layers.items():
        assert isinstance(layer, InMemoryChannelLayer)
        assert get_channel_layer(alias) is layer
    layer = in_memory_channel_layers["chat"]
    assert layer is not ORIGINAL
    assert (layer.expiry, layer.group_expiry, layer.capacity) == (7, 8, 9)
    assert layer.get_capacity("abc") == 1
    unregister_channel_layer("chat")
    register_channel_layer("late", layer)


@pytest.mark.asyncio
async def test_carries_what_the_original_does(in_memory_channel_layers):
    layer = in_memory_channel_layers["loud"]
    assert type(layer) is not Shouting
    assert layer.capacity == 6
    with pytest.raises(TypeError, match="what is small"):
        await layer.send("a", {"type": b"small"})
    await layer.group_add("b", "a")
    await layer.send("a", {"type": "loud", "items": [{1}]})
    await layer.group_send("b", {"type": "louder"})
    assert await layer.receive("a") == {"TYPE": "LOUD", "ITEMS": [{1}]}
    assert await layer.receive("a") == {"TYPE": "LOUDER"}


@pytest.mark.asyncio
async def test_restored():
    assert list(channel_layers) == ["chat", "bare", "loud"]
    assert get_channel_layer("chat") is ORIGINAL
    # Without the fixture, the test does not fail.
    await WebsocketCommunicator(Echo, "/").connect()


@pytest.mark.asyncio
async def test_async(in_memory_channel_layers):
    async with WebsocketCommunicator(Echo, "/") as client:
        await client.connect()
        assert in_memory_channel_layers["chat"].channels
        assert not ORIGINAL.channels


@pytest.mark.asyncio
async def test_client_of_a_fixture(client, in_memory_channel_layers):
    assert (await client.connect())[0]


@pytest.mark.asyncio
async def test_left_running(in_memory_channel_layers):
    # Kept: without a reference, the communicator ends its consumer by itself.
    global clients
    clients = [WebsocketCommunicator(Echo, "/") for _ in range(2)]
    for client in clients:
        await client.connect()


@pytest.mark.asyncio(loop_scope="module")
async def test_left_in_a_loop_that_goes_on(in_memory_channel_layers):
    global left
    left = WebsocketCommunicator(Echo, "/")
    await left.connect()


@pytest.mark.asyncio(loop_scope="module")
async def test_not_to_blame(in_memory_channel_layers):
    assert not left.future.done()

'''

INI = "[pytest]\nasyncio_default_fixture_loop_scope = function"


class Reports:
    """Collects the reports of a run, except for passed tests."""

    def __init__(self) -> None:
        self.failed: dict[tuple[str, str], str] = {}
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2]
        if not report.passed:
            self.failed[name, report.when or ""] = report.longreprtext
        elif report.when == "call":
            self.passed += 1


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_plugin(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test gets new layers, and fails if it leaves consumers running."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / f"test_sample_{mode}.py"
    path.write_text(SAMPLE)
    (tmp_path / "pytest.ini").write_text(INI)
    plugins = ["fast_channels.pytest_plugin", "pytest_asyncio.plugin"]
    # Process-wide state belongs to the outer pytest.
    off = ["cacheprovider", "faulthandler", "unraisableexception", "threadexception"]
    options = [f"-p{name}" for name in plugins] + [f"-pno:{name}" for name in off]
    reports = Reports()
    pytest.main(
        [
            *options,
            *["-q", "-Werror", "--assert=plain", "--import-mode=importlib"],
            *[f"--rootdir={tmp_path}", f"-c{tmp_path / 'pytest.ini'}"],
            *[f"--asyncio-mode={mode}", str(path)],
        ],
        plugins=[reports],
    )
    advice = "Run each in 'async with' of its communicator, or call disconnect()"
    assert reports.failed == {
        ("test_left_running", "teardown"): (
            f"the test left consumers running: 2 Echo. {advice}"
        ),
        ("test_left_in_a_loop_that_goes_on", "teardown"): (
            f"the test left consumers running: 1 Echo. {advice}"
        ),
    }
    assert reports.passed == 8
    assert list(channel_layers) == ["chat", "bare", "loud"]


def test_loading_the_plugin_imports_nothing_else() -> None:
    """The plugin imports nothing unless a test uses its fixture."""
    code = (
        "import sys, fast_channels.pytest_plugin; "
        "print([name for name in sys.modules if name.startswith('fast_channels.')])"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout == "['fast_channels.pytest_plugin']\n"


def test_pytest_finds_the_plugin() -> None:
    """Installing fast_channels is enough for pytest to load the plugin."""
    (point,) = entry_points(group="pytest11", name="fast_channels")
    assert point.value == "fast_channels.pytest_plugin"
