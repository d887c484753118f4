"""The response that endpoints of Starlette and FastAPI return."""

from collections.abc import AsyncIterable, Mapping
from typing import Any

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .events import HEADERS
from .stream import EventStream

__all__ = ["EventStreamResponse"]


class EventStreamResponse(Response):
    """A response that consists of server-sent events.

    It ends, and the iterator with it, when the client goes away and when the
    application shuts down, see :func:`~fast_channels.lifespan.channels_lifespan`. In
    the latter case a loop over ``layer.listen()`` ends by itself; any other iterator is
    cancelled after a moment.

    Args:
        events: An asynchronous iterator, usually a generator. It yields instances of
            :class:`ServerSentEvent`; anything else is the data of one.
        status_code: The status.
        headers: More headers.
        background: A task to run when the response has ended.
        heartbeat: Seconds without an event after which a comment is sent, which keeps
            proxies from closing the connection; None for no comments.

    Raises:
        TypeError: The events are not an asynchronous iterator.
    """

    media_type = "text/event-stream"
    # Events are in UTF-8.
    charset = "utf-8"

    def __init__(
        self,
        events: AsyncIterable[Any],
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
        heartbeat: float | None = 15,
    ) -> None:
        if not hasattr(events, "__aiter__"):
            raise TypeError(
                "the events of a response must be an asynchronous iterator, such as "
                f"the result of a function with 'async def' and 'yield', not {events!r}"
            )
        self.status_code = status_code
        self.background = background
        self.init_headers({**HEADERS, **(headers or {})})
        self._events = events
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        if scope.get("method") == "HEAD":
            await send(start)
            await send({"type": "http.response.body"})
        else:
            await EventStream(self._events, self._heartbeat).run(start, receive, send)
        if self.background is not None:
            await self.background()
