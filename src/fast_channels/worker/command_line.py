"""The command line of the worker."""

import argparse
import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Sequence
from typing import Any, cast

from fast_channels.layers.in_memory import InMemoryChannelLayer
from fast_channels.layers.registry import channel_layers

from .worker import Worker

__all__ = ["main"]

_logger = logging.getLogger(__name__)

_PROGRAM = "python -m fast_channels.worker"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LEVELS = ("debug", "info", "warning", "error", "critical")


class _MisuseError(Exception):
    """The arguments of the command line cannot be used."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until the process gets SIGTERM or SIGINT.

    The worker then takes no more messages, and ends when its handlers have, or after
    ``--shutdown-timeout`` seconds. A second signal cancels the handlers and waits for
    their cleanup; if the same signal comes once more, it kills the process.

    Args:
        arguments: The command-line arguments; by default those of the process.

    Returns:
        The exit status: 1 if a handler was cancelled, otherwise 0.

    Raises:
        SystemExit: With status 2, after an error message on standard error, if the
            arguments cannot be used.
    """
    parser = _make_parser()
    options = parser.parse_args(arguments)
    # As with ``python -m``, even if main() was called in another way.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        application = _load(options.application)
        began = None if options.setup is None else _set_up(options.setup)
        return asyncio.run(_work(options, application, began))
    except _MisuseError as exc:
        parser.exit(2, f"{_PROGRAM}: error: {exc}\n")


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Handle messages of plain channels until SIGTERM or SIGINT.",
    )
    parser.add_argument(
        "application",
        metavar="package.module:application",
        help="a consumer class, a ChannelNameRouter, or another ASGI application for "
        "scopes of type 'channel'",
    )
    parser.add_argument(
        "channels", nargs="+", metavar="channel", help="the channels to read"
    )
    parser.add_argument(
        "--layer",
        default="default",
        metavar="ALIAS",
        help="the layer of the channels (default: %(default)s)",
    )
    parser.add_argument(
        "--setup",
        metavar="package.module:function",
        help="called first, without arguments, to register layers; can be async",
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=10,
        metavar="N",
        help="maximum number of messages handled at once (default: %(default)s)",
    )
    parser.add_argument(
        "--shutdown-timeout",
        type=float,
        default=30,
        metavar="SECONDS",
        help="seconds for handlers to finish after the first signal "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--log-level",
        choices=_LEVELS,
        default="info",
        help="lowest level that is logged (default: %(default)s)",
    )
    return parser


# Imports


def _load(name: str) -> Any:
    """Import the object at ``package.module:attribute``."""
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise _MisuseError(
            f"{name!r} names nothing to import: write package.module:attribute"
        )
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as exc:
        raise _MisuseError(f"cannot import {module_name!r}: {_explain(exc)}") from exc
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as exc:
            raise _MisuseError(f"cannot import {name!r}: {exc}") from exc
    return found


def _explain(exc: Exception) -> str:
    """Describe an error that was raised during an import, with its location."""
    frames = traceback.extract_tb(exc.__traceback__)
    where = frames[-1]
    words = f"{type(exc).__name__}: {exc}"
    if where.filename.startswith("<frozen importlib"):
        # No user code has run: the module or its package does not exist.
        return words
    return f"{words} ({where.filename}, line {where.lineno})"


def _set_up(name: str) -> Awaitable[object] | None:
    """Call the function for ``--setup``; return its result if that is awaitable."""
    setup = _load(name)
    try:
        began: object = setup()
    except Exception as exc:
        raise _setup_failed(name, exc) from exc
    return cast("Awaitable[object]", began) if isinstance(began, Awaitable) else None


def _setup_failed(name: str, exc: Exception) -> _MisuseError:
    traceback.print_exception(exc)
    return _MisuseError(f"--setup {name} failed: {type(exc).__name__}: {exc}")


# Running


async def _work(
    options: argparse.Namespace, application: Any, began: Awaitable[object] | None
) -> int:
    try:
        if began is not None:
            try:
                await began
            except Exception as exc:
                raise _setup_failed(options.setup, exc) from exc
        worker = _make_worker(options, application)
        # basicConfig() does nothing if logging is configured already.
        level = options.log_level.upper()
        logging.basicConfig(
            level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        logging.getLogger("fast_channels").setLevel(level)
        if isinstance(worker.channel_layer, InMemoryChannelLayer):
            _logger.warning(
                "%r does not reach other processes: the worker will get none of their "
                "messages",
                worker.channel_layer,
            )
        await _run_until_signalled(worker)
    finally:
        # Close all layers, since handlers can use any of them.
        await channel_layers.close()
    return 1 if worker.statistics()["cancelled"] else 0


def _make_worker(options: argparse.Namespace, application: Any) -> Worker:
    layer = channel_layers.get(options.layer)
    if layer is None:
        registered = ", ".join(map(repr, channel_layers)) or "none"
        raise _MisuseError(
            f"no layer is registered as {options.layer!r} (registered: {registered}); "
            "name another with --layer, or a function that registers it with --setup"
        )
    try:
        return Worker(
            application,
            options.channels,
            layer,
            concurrency=options.concurrency,
            shutdown_timeout=options.shutdown_timeout,
        )
    except (TypeError, ValueError) as exc:
        raise _MisuseError(str(exc)) from exc


async def _run_until_signalled(worker: Worker) -> None:
    """Run a worker; each signal cancels it, repeating the second kills the process."""
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(worker.run())
    signals = 0

    def stop(signum: int, _: object) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            signal.signal(signum, signal.SIG_DFL)
        # Threadsafe, to wake the event loop: a signal alone does not on all platforms.
        loop.call_soon_threadsafe(running.cancel)

    before = [(signum, signal.signal(signum, stop)) for signum in _SIGNALS]
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await running
    finally:
        for signum, handler in before:
            signal.signal(signum, handler)
