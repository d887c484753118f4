"""Server-sent events: the events, and a response for Starlette and FastAPI.

The format is that of
https://html.spec.whatwg.org/multipage/server-sent-events.html, which browsers read with
``EventSource``. Consumers send it with
:class:`~fast_channels.consumer.AsyncEventStreamConsumer`.
"""

from typing import TYPE_CHECKING, Any

from .events import ServerSentEvent

if TYPE_CHECKING:
    from .response import EventStreamResponse

__all__ = ["EventStreamResponse", "ServerSentEvent"]


def __getattr__(name: str) -> Any:
    # Imported lazily: the package works without Starlette installed.
    if name == "EventStreamResponse":
        from .response import EventStreamResponse  # noqa: PLC0415

        return EventStreamResponse
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
