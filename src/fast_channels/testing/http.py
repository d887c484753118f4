"""Run an HTTP application in a test."""

from types import TracebackType
from typing import Any, TypedDict
from urllib.parse import unquote

from fast_channels.consumer.base import AsyncConsumer
from fast_channels.type_defs import ASGIApplication, ChannelHeaders

from .application import ApplicationCommunicator

__all__ = ["HttpCommunicator", "HttpResponse"]


class HttpResponse(TypedDict):
    """A response of an application."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class HttpCommunicator(ApplicationCommunicator):
    """Runs an application for one HTTP request, in the role of its client.

    The first call that waits for the response sends the request. The client disconnects
    in :meth:`disconnect`, and at the end of an ``async with`` block.

    Args:
        application: An ASGI application, or a consumer class.
        method: The method of the request.
        path: The path of the request, with a query string if there is one.
        body: The body of the request.
        headers: The headers of the request; none are added.

    Raises:
        TypeError: The path is not a str, or the body is not bytes.
    """

    def __init__(
        self,
        application: ASGIApplication | type[AsyncConsumer],
        method: str,
        path: str,
        body: bytes = b"",
        headers: ChannelHeaders | None = None,
    ) -> None:
        if not isinstance(path, str):
            raise TypeError(f"path must be a str, not {path!r}")
        if not isinstance(body, bytes):
            raise TypeError(f"body must be bytes, not {body!r}")
        raw_path, _, query_string = path.partition("?")
        super().__init__(
            application,
            {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": method.upper(),
                "scheme": "http",
                "path": unquote(raw_path),
                "raw_path": raw_path.encode(),
                "query_string": query_string.encode(),
                "root_path": "",
                "headers": list(headers or ()),
                "client": ("testclient", 50000),
                "server": ("testserver", 80),
            },
        )
        self.body = body
        """The body of the request."""
        self.status: int | None = None
        """The status of the response; None before the response begins."""
        self.response_headers: list[tuple[bytes, bytes]] = []
        """The headers of the response; empty before the response begins."""
        # The parts of the response's body received so far.
        self._parts: list[bytes] = []
        # Whether send_request() was called.
        self._requested = False
        # Whether the last part was received.
        self._complete = False

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc is None and self._future is not None and not self._future.done():
                await self.disconnect()
        finally:
            await super().__aexit__(exc_type, exc, traceback)

    async def send_request(self) -> None:
        """Send the request, unless it was sent already; wait for no response."""
        if not self._requested:
            self._requested = True
            await self.send_input({"type": "http.request", "body": self.body})

    async def get_response(self, timeout: float = 1) -> HttpResponse:
        """Send the request, wait for the whole response, and return it.

        The body includes the parts that ``receive_body()`` has returned.

        Args:
            timeout: Seconds to wait for each part of the response.

        Raises:
            AssertionError: The application sent another event.
            TimeoutError: A part did not come; the application has been cancelled.
            Exception: The exception that has ended the application.
        """
        await self._receive_start(timeout)
        while not self._complete:
            await self.receive_body(timeout)
        assert self.status is not None
        return {
            "status": self.status,
            "headers": self.response_headers,
            "body": b"".join(self._parts),
        }

    async def receive_body(self, timeout: float = 1) -> bytes:
        """Send the request, and return the next part of the response's body.

        Args:
            timeout: Seconds to wait for the part.

        Raises:
            AssertionError: The response is complete, or the application sent another
                event.
            TimeoutError: No part came; the application has been cancelled.
            Exception: The exception that has ended the application.
        """
        await self._receive_start(timeout)
        if self._complete:
            raise AssertionError("the response is complete: no more parts follow")
        event = await self._receive("http.response.body", timeout)
        body: object = event.get("body", b"")
        if not isinstance(body, bytes):
            raise AssertionError(  # noqa: TRY004 # fails the test
                f"a body must be bytes, not {body!r}"
            )
        self._parts.append(body)
        self._complete = not event.get("more_body", False)
        return body

    async def disconnect(self, timeout: float = 1) -> None:
        """Disconnect the client, and wait for the application to end.

        Args:
            timeout: Seconds to wait before the application is cancelled.

        Raises:
            Exception: The exception that has ended the application.
        """
        await self.send_input({"type": "http.disconnect"})
        await self.wait(timeout)

    async def _receive_start(self, timeout: float) -> None:
        await self.send_request()
        if self.status is None:
            event = await self._receive("http.response.start", timeout)
            self.status = event["status"]
            self.response_headers = [
                (name, value) for name, value in event.get("headers") or ()
            ]

    async def _receive(self, kind: str, timeout: float) -> dict[str, Any]:
        event = await self.receive_output(timeout)
        if event["type"] != kind:
            raise AssertionError(
                f"expected the application to send {kind}, but it sent {event!r}"
            )
        return event
