"""Refuse a WebSocket before it is accepted.

A server with the extension ``websocket.http.response`` answers the client's handshake
with the response that the application sends:
https://asgi.readthedocs.io/en/latest/extensions.html#websocket-denial-response.
Any other server gets only a close event, and answers with an empty 403.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from .type_defs import ChannelHeaders, ChannelScope

__all__ = ["DENIAL_RESPONSE", "denial_events"]

DENIAL_RESPONSE = "websocket.http.response"
"""The name of the extension, and the prefix of the types of its events."""

# Servers look up the phrase of the status, and fail if there is none.
_STATUSES = frozenset(status for status in HTTPStatus if status >= HTTPStatus.OK)


def denial_events(
    scope: ChannelScope,
    status: int = 403,
    headers: ChannelHeaders | None = None,
    body: bytes = b"",
) -> list[dict[str, Any]]:
    """Return the events that refuse a WebSocket.

    ``content-length`` and, for a body, the ``content-type`` of plain text are added to
    the headers if they are missing.

    Args:
        scope: The scope of the connection, which lists the server's extensions.
        status: The HTTP status of the response.
        headers: The headers of the response.
        body: The body of the response.

    Raises:
        TypeError: The body or a part of a header is not bytes.
        ValueError: The status is unknown in HTTP, or lower than 200.
    """
    if status not in _STATUSES:
        raise ValueError(
            f"status must be a known HTTP status of 200 or higher, such as 401 or 403, "
            f"not {status!r}"
        )
    if not isinstance(body, bytes):  # the server would fail on it
        raise TypeError(f"body must be bytes, not {body!r}; encode a str")
    pairs = list(_complete(headers or (), body))
    if DENIAL_RESPONSE not in (scope.get("extensions") or ()):
        return [{"type": "websocket.close"}]
    return [
        {"type": f"{DENIAL_RESPONSE}.start", "status": int(status), "headers": pairs},
        {"type": f"{DENIAL_RESPONSE}.body", "body": body},
    ]


def _complete(headers: ChannelHeaders, body: bytes) -> Iterator[tuple[bytes, bytes]]:
    names: set[bytes] = set()
    for name, value in headers:
        if not all(isinstance(part, bytes) for part in (name, value)):
            raise TypeError(
                f"a header must be a pair of bytes, not {(name, value)!r}; encode it"
            )
        names.add(name.lower())
        yield name.lower(), value
    if b"content-length" not in names:
        yield b"content-length", str(len(body)).encode()
    if body and b"content-type" not in names:
        yield b"content-type", b"text/plain; charset=utf-8"
