"""A registry of the consumers in service, so that a shutdown can end them."""

import asyncio
import weakref
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .base import AsyncConsumer

__all__ = ["LiveConsumer", "live_consumers"]


class LiveConsumer:
    """A consumer in service, with its task, so that other code can end it."""

    __slots__ = ("__weakref__", "consumer", "ended", "task")

    def __init__(self, consumer: "AsyncConsumer") -> None:
        self.consumer: AsyncConsumer = consumer
        """The consumer."""
        self.task: asyncio.Task[Any] = cast("asyncio.Task[Any]", asyncio.current_task())
        """The task that serves the connection."""
        self.ended: asyncio.Event | None = None
        """Set when the consumer has ended. Its creator may cancel the task; that
        cancellation is hidden from the server."""
        live_consumers[id(self)] = self

    def absorb(self, cause: BaseException) -> bool:
        """Return whether to hide the cause of the end from the server."""
        asked = self.ended is not None and isinstance(cause, asyncio.CancelledError)
        return asked and not self.task.uncancel()

    def end(self) -> None:
        """Record that the consumer has ended."""
        live_consumers.pop(id(self), None)
        if self.ended is not None:
            self.ended.set()


live_consumers: "weakref.WeakValueDictionary[int, LiveConsumer]" = (
    weakref.WeakValueDictionary()
)
"""The consumers of this process that are serving connections, in all event loops."""
