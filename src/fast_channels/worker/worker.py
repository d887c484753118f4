"""The worker: it takes messages of plain channels, and gives each to an application.

The rules:

1. While fewer messages are handled than may be at once, each channel has a reader: a
   task that receives one message. There are no other messages that were taken and are
   not handled.
2. Whoever takes a message begins its handler in the same step. If that was the last
   slot, all other readers are cancelled in that step too, which loses nothing: a layer
   hands a message over in one step, or keeps it.
3. Readers start in the order in which channels had their last turn, so that none that
   has messages is passed over again and again.
4. A message has an instance of the application to itself, in a task of its own. For
   the application the message is all there is: when it asks for another one, it gets
   ``StopConsumer`` and ends.
"""

import asyncio
import contextlib
import functools
import logging
import os
import random
from collections.abc import Iterable
from typing import Any, cast

from fast_channels.consumer.base import AsyncConsumer
from fast_channels.exceptions import StopConsumer
from fast_channels.layers.base import BaseChannelLayer, require_positive_int
from fast_channels.layers.delivery import Delivery
from fast_channels.layers.foreign import as_layer, is_layer
from fast_channels.routing import ChannelNameRouter, as_application
from fast_channels.type_defs import (
    ChannelApplication,
    ChannelLayerProtocol,
    ChannelMessage,
    ChannelScope,
)

__all__ = ["Worker"]

_logger = logging.getLogger(__name__)

# Seconds between two attempts to receive from a layer that fails: they grow, with
# jitter.
_BACKOFF = (0.1, 5.0)


class Worker:
    """Takes messages of plain channels, and gives each to an application.

    For each message the application is called once, as for a connection whose scope is
    ``{"type": "channel", "channel": <name>, "asgi": {"version": "3.0"}}``. Its
    ``receive()`` returns the message, and raises
    :class:`~fast_channels.exceptions.StopConsumer` when it is awaited again: a consumer
    ends by that as soon as the method for the message has returned. Its ``send()``
    raises :class:`RuntimeError`, since there is nobody to send to; whom to tell is
    reached through a channel layer.

    An exception of the application is logged, with the channel and the type of the
    message, and costs that message only.

    A message is acknowledged when the application has returned or raised, see
    :meth:`~fast_channels.layers.BaseChannelLayer.take`. With a layer that keeps
    messages, what a worker was doing when it died is done again by another one, and
    what is cancelled goes back to its channel.

    A message is taken out of its channel when a handler is free for it, and not before:
    what nobody works on waits where other workers find it, and where it counts for the
    channel's capacity, so that senders get
    :exc:`~fast_channels.exceptions.ChannelFull` when workers cannot keep up.

    Args:
        application: An ASGI application for scopes of type ``channel``: a consumer
            class, its ``as_asgi()``, a function, or a
            :class:`~fast_channels.routing.ChannelNameRouter` of several.
        channels: The names of the channels, in any order; each has its turn.
        channel_layer: Where the channels are. It stays open, to be closed when
            :meth:`run` has ended.
        concurrency: How many messages are handled at once, of all channels together.
        shutdown_timeout: For how many seconds what is being handled may go on when the
            worker stops; None for as long as it takes.

    Raises:
        TypeError: An argument is not of the type it should be, or the name of a channel
            is not valid in the layer.
        ValueError: ``channels`` is empty, names one that belongs to a process, or one
            for which the router has no application; or a number is out of its range.
    """

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
        """What each message is given to."""
        if not callable(self.application):
            raise TypeError(
                f"the application of a worker must be callable, which {application!r} "
                "is not"
            )
        if not is_layer(channel_layer):
            raise TypeError(
                "channel_layer must be an instance of a subclass of BaseChannelLayer, "
                f"not {channel_layer!r}"
            )
        self.channel_layer: BaseChannelLayer = as_layer(channel_layer)
        """Where the channels are."""
        self.channels: tuple[str, ...] = _check_channels(
            channels, self.channel_layer, self.application
        )
        """The names of the channels."""
        self.concurrency: int = require_positive_int("concurrency", concurrency)
        """How many messages are handled at once."""
        self.shutdown_timeout: float | None = _check_timeout(shutdown_timeout)
        """For how many seconds handlers may go on when the worker stops."""
        # The channels, that which had its turn last at the end.
        self._turns = list(self.channels)
        self._readers: dict[str, asyncio.Task[None]] = {}
        # A handler for each message that was taken.
        self._handlers: set[asyncio.Task[None]] = set()
        # Keeps to the concurrency whatever a layer does when receive() is cancelled.
        self._slots = asyncio.Semaphore(self.concurrency)
        # How long to wait before receiving again from channels that cannot be read.
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
        """Return how many messages are ``running``, and what became of the others.

        That is, since the worker was made: those that were ``handled``, those that
        ``failed`` with an exception, and those that were ``cancelled``.
        """
        return {"running": len(self._handlers), **self._counts}

    async def run(self) -> None:
        """Handle messages until cancelled; it never returns by itself.

        Cancelling stops the worker in an orderly way. It takes no message any more, and
        waits until what it has taken is handled, for ``shutdown_timeout`` seconds at
        most. What runs then is cancelled, and logged. Cancelling once more, while it
        waits, does that at once. When it has ended, nothing of it runs any more, and it
        may be run again; while handlers refuse to end it waits for them.

        While the layer cannot be read it waits, and logs that once, and once again when
        it goes on.

        Raises:
            RuntimeError: It runs already.
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
                "every worker gets every message, as this layer keeps none for one of "
                "them; for work that is to be done once take RedisChannelLayer"
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
        """Start the next reader, if a handler is free, and soon the one after it.

        Each starts in a turn of the event loop of its own: so the layer for Redis asks
        for the messages of the first channel before it asks for those of the others.
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
        """Take one message, and begin to handle it."""
        while True:
            try:
                delivery = await self.channel_layer.take(channel)
            except Exception:
                delay = self._delays.get(channel)
                if delay is None:
                    delay = _BACKOFF[0]
                    _logger.exception(
                        "channel %r cannot be received from; trying again until it can",
                        channel,
                    )
                self._delays[channel] = min(2 * delay, _BACKOFF[1])
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 # jitter
            else:
                break
        if self._delays.pop(channel, None) is not None:
            _logger.info("channel %r can be received from again", channel)
        self._turns.remove(channel)
        self._turns.append(channel)
        handler = asyncio.create_task(self._handle(channel, delivery.message))
        self._handlers.add(handler)
        handler.add_done_callback(functools.partial(self._handled, delivery))
        if len(self._handlers) >= self.concurrency:
            for reader in self._readers.values():
                reader.cancel()

    # Handling them

    def _handled(self, delivery: Delivery, handler: asyncio.Task[None]) -> None:
        # One that was cancelled may never have begun.
        if handler.cancelled():
            delivery.give_back()
        else:
            delivery.acknowledge()
        self._handlers.remove(handler)
        self._read()

    async def _handle(self, channel: str, message: dict[str, Any]) -> None:
        """Give a message to the application; whatever comes of it is logged here."""
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
        # Cancelled: it is not to wait any longer.
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
        f"a worker has nobody to send an event of type {event.get('type')!r} to: send "
        "a message through a channel layer instead"
    )


def _check_channels(
    channels: object, layer: BaseChannelLayer, application: ChannelApplication
) -> tuple[str, ...]:
    """Return the names of channels, each once."""
    if isinstance(channels, str) or not isinstance(channels, Iterable):
        raise TypeError(f"channels must be several names, as a list, not {channels!r}")
    names = tuple(dict.fromkeys(cast("Iterable[str]", channels)))
    if not names:
        raise ValueError("a worker needs the name of at least one channel")
    for name in names:
        layer.require_valid_channel_name(name)
        if "!" in name:
            raise ValueError(
                f"channel {name!r} belongs to one process, as its '!' says; a worker "
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
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] # checks input
        raise TypeError(f"shutdown_timeout must be a number or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"shutdown_timeout must not be negative, but is {timeout!r}")
    return timeout
