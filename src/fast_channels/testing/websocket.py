"""Run a WebSocket application in a test."""

import asyncio
import json
from collections.abc import Iterable
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from fast_channels.consumer.base import AsyncConsumer
from fast_channels.denial import DENIAL_RESPONSE
from fast_channels.type_defs import ASGIApplication, ChannelHeaders

from .application import ApplicationCommunicator

__all__ = ["WebsocketCommunicator"]

# https://www.rfc-editor.org/rfc/rfc6455.html#section-7.4.1
_INTERNAL_ERROR = 1011


class WebsocketCommunicator(ApplicationCommunicator):
    """Runs an application for one WebSocket, in the role of its client.

    At the end of an ``async with`` block the client disconnects, with code 1000.

    Args:
        application: An ASGI application, or a consumer class.
        path: The path to connect to, with a query string if there is one.
        headers: The headers of the client's request.
        subprotocols: The subprotocols that the client offers.
        spec_version: The version of the ASGI specification, for the scope.

    Raises:
        TypeError: The path is not a str.
    """

    def __init__(
        self,
        application: ASGIApplication | type[AsyncConsumer],
        path: str,
        headers: ChannelHeaders | None = None,
        subprotocols: Iterable[str] | None = None,
        spec_version: str | None = None,
    ) -> None:
        if not isinstance(path, str):
            raise TypeError(f"path must be a str, not {path!r}")
        raw_path, _, query_string = path.partition("?")
        asgi = {"version": "3.0"}
        if spec_version is not None:
            asgi["spec_version"] = spec_version
        super().__init__(
            application,
            {
                "type": "websocket",
                "asgi": asgi,
                "http_version": "1.1",
                "scheme": "ws",
                "path": unquote(raw_path),
                "raw_path": raw_path.encode(),
                "query_string": query_string.encode(),
                "root_path": "",
                "headers": list(headers or ()),
                "subprotocols": list(subprotocols or ()),
                "extensions": {DENIAL_RESPONSE: {}},
            },
        )
        self.response_headers: list[tuple[bytes, bytes]] = []
        """The headers of the response that accepted or denied the connection."""
        self.response_body: bytes = b""
        """The body of the response that denied the connection."""
        # Whether the client has connected and has not disconnected yet.
        self._connected = False

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc is None and self._connected and not self.future.done():
                await self.disconnect()
        finally:
            await super().__aexit__(exc_type, exc, traceback)

    async def connect(self, timeout: float = 1) -> tuple[bool, str | int | None]:
        """Open the connection.

        Args:
            timeout: Seconds to wait for the application's answer.

        Returns:
            True and the subprotocol, or None without one, if the application accepted
            the connection. Otherwise False and the close code, or the HTTP status of
            the response that denied the connection, see ``response_body``.

        Raises:
            TimeoutError: No answer came; the application has been cancelled.
        """
        await self.send_input({"type": "websocket.connect"})
        self._connected = True
        event = await self.receive_output(timeout)
        if event["type"] == "websocket.accept":
            self.response_headers = list(event.get("headers") or ())
            return True, event.get("subprotocol")
        if event["type"] == f"{DENIAL_RESPONSE}.start":
            self.response_headers = list(event.get("headers") or ())
            status: int = event["status"]
            more_body = True
            while more_body:
                event = await self.receive_output(timeout)
                _expect(event, f"{DENIAL_RESPONSE}.body")
                self.response_body += event.get("body", b"")
                more_body = event.get("more_body", False)
            return False, status
        _expect(event, "websocket.close")
        return False, event.get("code", 1000)

    async def send_to(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Send a text frame or a binary frame to the application.

        Raises:
            TypeError: ``text_data`` is not a str, or ``bytes_data`` is not bytes.
            ValueError: Not exactly one of them is given.
        """
        if (text_data is None) is (bytes_data is None):
            raise ValueError("send_to() needs either text_data or bytes_data")
        if text_data is not None:
            if not isinstance(text_data, str):
                raise TypeError(f"text_data must be a str, not {text_data!r}")
            await self.send_input({"type": "websocket.receive", "text": text_data})
        else:
            if not isinstance(bytes_data, bytes):
                raise TypeError(f"bytes_data must be bytes, not {bytes_data!r}")
            await self.send_input({"type": "websocket.receive", "bytes": bytes_data})

    async def send_json_to(self, data: Any) -> None:
        """Send content as JSON, in a text frame, to the application."""
        await self.send_to(text_data=json.dumps(data))

    async def receive_from(self, timeout: float = 1) -> str | bytes:
        """Wait for the next frame from the application, and return its content.

        Args:
            timeout: Seconds to wait for the frame.

        Raises:
            AssertionError: The application sent another event, such as a close.
            TimeoutError: No frame came; the application has been cancelled.
            Exception: The exception that has ended the application.
        """
        event = await self.receive_output(timeout)
        if event.get("code") == _INTERNAL_ERROR:
            # A consumer closes the connection before its exception reaches the server.
            await asyncio.wait([self.future], timeout=timeout)
            if self.future.done():
                await self.wait(timeout)
        _expect(event, "websocket.send")
        text, data = event.get("text"), event.get("bytes")
        if (text is None) is (data is None):
            raise AssertionError(
                f"a websocket.send event has either text or bytes, but got {event!r}"
            )
        content = data if text is None else text
        kind = bytes if text is None else str
        if not isinstance(content, kind):
            raise AssertionError(  # noqa: TRY004 # fails the test
                f"the content of a frame must be of type {kind.__name__}, "
                f"not {content!r}"
            )
        return content

    async def receive_json_from(self, timeout: float = 1) -> Any:
        """Wait for the next text frame, and return its content, decoded from JSON.

        Args:
            timeout: Seconds to wait for the frame.

        Raises:
            AssertionError: The application sent another event or a binary frame.
            TimeoutError: No frame came; the application has been cancelled.
        """
        content = await self.receive_from(timeout)
        if not isinstance(content, str):
            raise AssertionError(  # noqa: TRY004 # fails the test
                f"JSON comes in text frames, not {content!r}"
            )
        return json.loads(content)

    async def disconnect(self, code: int = 1000, timeout: float = 1) -> None:
        """Close the connection as a client does, and wait for the application to end.

        Args:
            code: The close code that the application gets.
            timeout: Seconds to wait before the application is cancelled.
        """
        self._connected = False
        await self.send_input({"type": "websocket.disconnect", "code": code})
        await self.wait(timeout)


def _expect(event: dict[str, Any], event_type: str) -> None:
    if event["type"] != event_type:
        raise AssertionError(
            f"expected the application to send {event_type}, but it sent {event!r}"
        )
