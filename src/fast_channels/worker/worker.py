"""Take messages of plain channels, and call an application for each of them.

The rules:

1. While a handler is free, each channel has a reader: a task that takes one message.
   Every message that has been taken is being handled.
2. A reader starts the handler of its message in the same step of the event loop. If
   that takes the last free handler, the reader cancels all other readers in that step
   too. No message is lost: a layer hands a message over in one step, or keeps it.
3. Readers start in the order in which their channels had their last turn, so that no
   channel with messages is passed over repeatedly.
4. The application is called once for each message, in a task of its own. The call gets
   no other message: its second ``receive()`` raises ``StopConsumer``, which ends it.
"""

import asyncio
import contextlib
import functools
import logging
import os
import random
from collections.abc import Iterable
from typing import Any, ClassVar, cast

from fast_channels.consumer.base import AsyncConsumer
from fast_channels.exceptions import StopConsumer
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.delivery import Delivery
from fast_channels.layers.foreign import as_layer, is_layer
from fast_channels.layers.options import is_number, require_positive_int
from fast_channels.routing import ChannelNameRouter, as_application
from fast_channels.type_defs import (
    ChannelApplication,
    ChannelLayerProtocol,
    ChannelMessage,
    ChannelScope,
)

__all__ = ["Worker"]

_logger = logging.getLogger(__name__)


class Worker:
    """Takes messages of plain channels, and calls an application for each.

    The application is called once for each message, with the scope
    ``{"type": "channel", "channel": <name>, "asgi": {"version": "3.0"}}``. Its first
    ``receive()`` returns the message, and the next one raises
    :class:`~fast_channels.exceptions.StopConsumer`, so that a consumer ends as soon as
    the handler of the message has returned. Its ``send()`` raises
    :class:`RuntimeError`, since there is no connection; use a channel layer to send to
    consumers.

    An exception of the application is logged, with the channel and the type of the
    message, and does not affect other messages.

    A message is acknowledged when the application has returned or raised, see
    :meth:`~fast_channels.layers.BaseChannelLayer.take`. With a layer that keeps
    messages, a message whose worker has died is handled again by another worker, and a
    message whose handler is cancelled goes back to its channel.

    A message is taken out of its channel only when a handler is free for it. Until
    then, other workers can take it, and it counts for the channel's capacity, so that
    senders get :exc:`~fast_channels.exceptions.ChannelFull` when the workers do not
    keep up.

    Args:
        application: An ASGI application for scopes of type ``channel``: a consumer
            class, its ``as_asgi()``, a function, or a
            :class:`~fast_channels.routing.ChannelNameRouter` of several.
        channels: The names of the channels, in any order; the channels take turns.
        channel_layer: The layer of the channels. The worker leaves it open; close it
            after :meth:`run` has ended.
        concurrency: Maximum number of messages handled at once, over all channels.
        shutdown_timeout: Seconds for handlers to finish when the worker stops; None for
            no limit.

    Raises:
        TypeError: An argument has the wrong type, or the name of a channel is not valid
            in the layer.
        ValueError: ``channels`` is empty, or names a channel that belongs to a process
            or that the router has no application for; or a number is out of range.
    """

    # First and maximum seconds between two attempts to take from a layer that fails.
    # The delay doubles each time, and has jitter.
    _backoff: ClassVar[tuple[float, float]] = (0.1, 5.0)

    def __init__(
        self,
        application: ChannelApplication | type[AsyncConsumer],
        channels: Iterable[str],
        channel_layer: ChannelLayerProtocol,
        *,
        concurrency: int = 10,
        shutdown_timeout: float | None = 30,
    ) -> None:
        self.application: ChannelApplication = as_application(application)
        """The application that is called for each message."""
        if not callable(self.application):
            raise TypeError(
                f"the application of a worker must be callable, not {application!r}"
            )
        if not is_layer(channel_layer):
            raise TypeError(
                "channel_layer must be an instance of a subclass of BaseChannelLayer, "
                f"not {channel_layer!r}"
            )
        self.channel_layer: BaseChannelLayer = as_layer(channel_layer)
        """The layer of the channels."""
        self.channels: tuple[str, ...] = _check_channels(
            channels, self.channel_layer, self.application
        )
        """The names of the channels."""
        self.concurrency: int = require_positive_int("concurrency", concurrency)
        """Maximum number of messages handled at once."""
        self.shutdown_timeout: float | None = _check_timeout(shutdown_timeout)
        """Seconds for handlers to finish when the worker stops."""
        # The channels in the order of their last turns, the latest at the end.
        self._turns = list(self.channels)
        self._readers: dict[str, asyncio.Task[None]] = {}
        # One handler for each message that has been taken.
        self._handlers: set[asyncio.Task[None]] = set()
        # Enforces the concurrency even if take() returns although it was cancelled.
        self._slots = asyncio.Semaphore(self.concurrency)
        # Seconds to wait before the next attempt, for channels that cannot be read.
        self._delays: dict[str, float] = {}
        self._running = False
        self._stopping = False
        self._counts = {"handled": 0, "failed": 0, "cancelled": 0}

    def __repr__(self) -> str:
        return (
            f"<Worker [{', '.join(self.channels)}, "
            f"{len(self._handlers)} of {self.concurrency} handlers busy]>"
        )

    def statistics(self) -> dict[str, int]:
        """Return the number of messages in each state.

        ``running`` messages have a handler now. The others are counted since the worker
        was made: ``handled``, ``failed`` with an exception, and ``cancelled``.
        """
        return {"running": len(self._handlers), **self._counts}

    async def run(self) -> None:
        """Handle messages until cancelled; never return by itself.

        Cancelling stops the worker in an orderly way. It takes no more messages, and
        waits for the running handlers, for ``shutdown_timeout`` seconds at most. Then
        it cancels those that are left, and logs each. A second cancellation skips the
        wait. ``run()`` ends when all handlers have ended, even those that suppress
        their cancellation, and can then be called again.

        While a channel cannot be read, the worker keeps trying. It logs the failure
        once, and the recovery.

        Raises:
            RuntimeError: The worker is running already.
        """
        if self._running:
            raise RuntimeError(f"{self!r} runs already; make another Worker")
        self._running, self._stopping = True, False
        _logger.info(
            "worker %d reads %s from %r, %d messages at once",
            os.getpid(),
            ", ".join(self.channels),
            self.channel_layer,
            self.concurrency,
        )
        if self.channel_layer.broadcasts:
            _logger.warning(
                "every worker gets every message, as this layer broadcasts them; use "
                "RedisChannelLayer for work that has to be done once"
            )
        try:
            self._read()
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await self._stop()
            raise
        finally:
            self._running = False
            _logger.info(
                "worker %d has stopped: %d messages handled, %d failed, %d cancelled",
                os.getpid(),
                *self._counts.values(),
            )

    # Taking messages

    def _read(self) -> None:
        """Start the next reader if a handler is free; schedule the one after it.

        Each reader starts in its own turn of the event loop, so that a Redis layer asks
        for messages of the first channel before it asks for those of the others.
        """
        if self._stopping or len(self._handlers) >= self.concurrency:
            return
        for channel in self._turns:
            if channel not in self._readers:
                reader = asyncio.create_task(self._take(channel))
                self._readers[channel] = reader
                reader.add_done_callback(functools.partial(self._taken, channel))
                asyncio.get_running_loop().call_soon(self._read)
                return

    def _taken(self, channel: str, _: asyncio.Task[None]) -> None:
        del self._readers[channel]
        self._read()

    async def _take(self, channel: str) -> None:
        """Take one message and start its handler."""
        while True:
            try:
                delivery = await self.channel_layer.take(channel)
            except Exception:
                delay = self._delays.get(channel)
                if delay is None:
                    delay, _ = self._backoff
                    _logger.exception(
                        "cannot take from channel %r; trying again until it can",
                        channel,
                    )
                self._delays[channel] = min(2 * delay, self._backoff[1])
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 # jitter
            else:
                break
        if self._delays.pop(channel, None) is not None:
            _logger.info("can take from channel %r again", channel)
        self._turns.remove(channel)
        self._turns.append(channel)
        handler = asyncio.create_task(self._handle(channel, delivery.message))
        self._handlers.add(handler)
        handler.add_done_callback(functools.partial(self._handled, delivery))
        if len(self._handlers) >= self.concurrency:
            for reader in self._readers.values():
                reader.cancel()

    # Handling messages

    def _handled(self, delivery: Delivery, handler: asyncio.Task[None]) -> None:
        # Not in _handle(), as a handler that is cancelled might never have begun.
        if handler.cancelled():
            delivery.give_back()
        else:
            delivery.acknowledge()
        self._handlers.remove(handler)
        self._read()

    async def _handle(self, channel: str, message: dict[str, Any]) -> None:
        """Call the application for a message; log its errors."""
        message_type = message.get("type")
        _logger.debug("a message of type %r from channel %r", message_type, channel)
        left = [message]

        async def receive() -> dict[str, Any]:
            if not left:
                raise StopConsumer
            return left.pop()

        scope: ChannelScope = {
            "type": "channel",
            "channel": channel,
            "asgi": {"version": "3.0"},
        }
        outcome = "handled"
        try:
            async with self._slots:
                with contextlib.suppress(StopConsumer):
                    await self.application(scope, receive, _refuse)
        except asyncio.CancelledError:
            outcome = "cancelled"
            _logger.exception(
                "a message of type %r from channel %r was cancelled before it was "
                "handled, and goes back to its channel",
                message_type,
                channel,
            )
            raise
        except Exception:
            outcome = "failed"
            _logger.exception(
                "a message of type %r from channel %r could not be handled",
                message_type,
                channel,
            )
        finally:
            self._counts[outcome] += 1

    # Stopping

    async def _stop(self) -> None:
        self._stopping = True
        for reader in self._readers.values():
            reader.cancel()
        if self._handlers:
            _logger.info(
                "worker %d stops: it waits for %d messages that are being handled, %s",
                os.getpid(),
                len(self._handlers),
                "as long as it takes"
                if self.shutdown_timeout is None
                else f"{self.shutdown_timeout:g} seconds at most",
            )
        # CancelledError: a second cancellation ends the wait.
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(self.shutdown_timeout):
                while tasks := self._tasks():
                    await asyncio.wait(tasks)
        while tasks := self._tasks():
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(tasks)

    def _tasks(self) -> set[asyncio.Task[None]]:
        return {*self._readers.values(), *self._handlers}


async def _refuse(event: ChannelMessage) -> None:
    raise RuntimeError(
        f"a worker has no connection to send an event of type {event.get('type')!r} "
        "to: send a message through a channel layer instead"
    )


def _check_channels(
    channels: object, layer: BaseChannelLayer, application: ChannelApplication
) -> tuple[str, ...]:
    """Check the names of channels; return each name once."""
    if isinstance(channels, str) or not isinstance(channels, Iterable):
        raise TypeError(f"channels must be a list of names, not {channels!r}")
    names = tuple(dict.fromkeys(cast("Iterable[str]", channels)))
    if not names:
        raise ValueError("a worker needs the name of at least one channel")
    for name in names:
        layer.require_valid_channel_name(name)
        if "!" in name:
            raise ValueError(
                f"channel {name!r} belongs to one process, as its '!' shows; a worker "
                "reads plain channels"
            )
        if isinstance(application, ChannelNameRouter) and (
            name not in application.application_mapping
        ):
            raise ValueError(f"{application!r} has no application for channel {name!r}")
    return names


def _check_timeout(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if not is_number(timeout):
        raise TypeError(f"shutdown_timeout must be a number or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"shutdown_timeout must not be negative, but is {timeout!r}")
    return timeout
