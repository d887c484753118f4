"""The command line of the worker."""

import asyncio
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fast_channels.consumer import AsyncConsumer
from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    channel_layers,
    register_channel_layer,
)
from fast_channels.routing import ChannelNameRouter
from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelMessage,
    ChannelScope,
)
from fast_channels.worker.command_line import main

HERE = __name__


class Layer(InMemoryChannelLayer):
    """A layer that holds a message, and records when it is closed."""

    closed = 0

    async def close(self) -> None:
        self.closed += 1
        await super().close()


class Strange(BaseChannelLayer):
    """A layer that stops the process when it is first read, and cannot be closed."""

    async def receive(self, channel: str) -> dict[str, Any]:
        signal.raise_signal(signal.SIGTERM)
        return await InMemoryChannelLayer().receive(channel)

    async def close(self) -> None:
        raise ZeroDivisionError


class Stops(AsyncConsumer):
    """Sends the process the number of signals in a message."""

    async def signal_send(self, message: ChannelMessage) -> None:
        for _ in range(message["count"]):
            signal.raise_signal(message["signal"])
            # Signals within one turn of the event loop count as one.
            for _ in range(10):
                await asyncio.sleep(0)


class Namespace:
    router = ChannelNameRouter({"jobs": Stops})


async def set_up(count: int = 1, signum: int = signal.SIGTERM) -> None:
    layer = Layer()
    register_channel_layer("default", layer)
    register_channel_layer("other", Layer())
    message = {"type": "signal.send", "count": count, "signal": signum}
    await layer.send("jobs", message)


async def set_up_impatient() -> None:
    await set_up(2, signal.SIGINT)


def set_up_nothing() -> None:
    """Register no layer, and return no awaitable."""


def set_up_badly() -> None:
    raise ZeroDivisionError("at once")


async def set_up_badly_later() -> None:
    raise ZeroDivisionError("later")


async def application(
    scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    raise AssertionError("the application was called")


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what the command line changes in its process."""
    logger = logging.getLogger("fast_channels")
    level = logger.level
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    yield
    after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert before == after
    logger.setLevel(level)


@pytest.mark.parametrize(
    ("setup", "status", "end"),
    [
        ("set_up", 0, "1 messages handled, 0 failed, 0 cancelled"),
        ("set_up_impatient", 1, "0 messages handled, 0 failed, 1 cancelled"),
    ],
)
@pytest.mark.parametrize("name", ["Stops", "Namespace.router"])
def test_signals(
    caplog: pytest.LogCaptureFixture, name: str, setup: str, status: int, end: str
) -> None:
    """One signal stops the worker after its messages, two at once; layers close."""
    arguments = [f"{HERE}:{name}", "--setup", f"{HERE}:{setup}", "jobs"]
    assert main(arguments) == status
    assert end in caplog.text
    assert "does not reach other processes" in caplog.text
    layers = [channel_layers.get(alias) for alias in channel_layers]
    assert [isinstance(layer, Layer) and layer.closed for layer in layers] == [1, 1]


def test_layers_of_all_kinds(caplog: pytest.LogCaptureFixture) -> None:
    """A module can register layers; an error in closing one is logged."""
    register_channel_layer("default", Strange())
    register_channel_layer("other", other := Layer())
    assert main([f"{HERE}:application", "jobs", "--log-level", "debug"]) == 0
    assert logging.getLogger("fast_channels").level == logging.DEBUG
    assert "of others" not in caplog.text
    assert "the layer with alias 'default' could not be closed" in caplog.text
    assert other.closed == 1


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a module in the current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "broken.py"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the last line of the output."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.endswith("\n")
    return error.removesuffix("\n")


PROGRAM = "python -m fast_channels.worker: error: "


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["fast_channels", "jobs"],
            "'fast_channels' names nothing to import: write package.module:attribute",
        ),
        (
            [":application", "jobs"],
            "':application' names nothing to import: write package.module:attribute",
        ),
        (
            ["fast_channels.nothing:application", "jobs"],
            (
                "cannot import 'fast_channels.nothing': ModuleNotFoundError: No module "
                "named 'fast_channels.nothing'"
            ),
        ),
        (
            [f"{HERE}:Namespace.rooter", "jobs"],
            (
                f"cannot import '{HERE}:Namespace.rooter': type object 'Namespace' has "
                "no attribute 'rooter'"
            ),
        ),
        (
            [f"{HERE}:application", "--setup", f"{HERE}:set_up_nothing", "jobs"],
            (
                "no layer is registered as 'default' (registered: none); name another "
                "with --layer, or a function that registers it with --setup"
            ),
        ),
        (
            [
                f"{HERE}:application",
                *["--layer", "defualt", "--setup", f"{HERE}:set_up"],
                "jobs",
            ],
            (
                "no layer is registered as 'defualt' (registered: 'default', 'other'); "
                "name another with --layer, or a function that registers it with "
                "--setup"
            ),
        ),
        (
            [f"{HERE}:application", "--setup", f"{HERE}:set_up", "my jobs"],
            (
                "'my jobs' is not a channel name: it must be a str of ASCII letters, "
                "digits, '.', '_' and '-', optionally with one '!' after the first part"
            ),
        ),
        (
            [
                f"{HERE}:application",
                *["--concurrency", "0", "--setup", f"{HERE}:set_up"],
                "jobs",
            ],
            "concurrency must be at least 1, not 0",
        ),
        (
            [f"{HERE}:HERE", "--setup", f"{HERE}:set_up", "jobs"],
            f"the application of a worker must be callable, not '{HERE}'",
        ),
    ],
)
def test_misuse(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    """A wrong command line is explained in one line."""
    assert refusal(capsys, *arguments) == PROGRAM + line


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("\n1 / 0", "ZeroDivisionError: division by zero ({file}, line 2)"),
        (
            "import nothing_at_all",
            "ModuleNotFoundError: No module named 'nothing_at_all' ({file}, line 1)",
        ),
        ("def:", "SyntaxError: invalid syntax (broken.py, line 1)"),
    ],
)
def test_broken_module(
    capsys: pytest.CaptureFixture[str], module: Path, code: str, line: str
) -> None:
    """A failing import in the current directory is shown with its location."""
    module.write_text(code)
    assert refusal(capsys, "broken:application", "jobs") == (
        f"{PROGRAM}cannot import 'broken': {line.format(file=module)}"
    )


@pytest.mark.parametrize(
    ("setup", "reason"), [("set_up_badly", "at once"), ("set_up_badly_later", "later")]
)
def test_broken_setup(
    capsys: pytest.CaptureFixture[str], setup: str, reason: str
) -> None:
    """An exception in the setup is shown with its traceback, and one line."""
    error = refusal(capsys, f"{HERE}:application", "--setup", f"{HERE}:{setup}", "jobs")
    assert f"in {setup}\n" in error
    assert error.splitlines()[-1] == (
        f"{PROGRAM}--setup {HERE}:{setup} failed: ZeroDivisionError: {reason}"
    )


def test_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker runs as ``python -m fast_channels.worker``."""
    monkeypatch.setattr(sys, "argv", ["worker", "nothing", "jobs"])
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != os.getcwd()])
    with pytest.raises(SystemExit):
        importlib.import_module("fast_channels.worker.__main__")
    assert sys.path[0] == os.getcwd()
