"""Middleware that reads the cookies."""

import re
from collections.abc import Iterator

from fast_channels.type_defs import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelScope,
)

from .base import BaseMiddleware

__all__ = ["CookieMiddleware"]


class CookieMiddleware(BaseMiddleware):
    """Puts the cookies of a WebSocket or of an HTTP request into ``scope["cookies"]``.

    The value is a dict of str, empty without cookies. All ``cookie`` headers are read,
    as HTTP/2 can split them: https://www.rfc-editor.org/rfc/rfc9113.html#section-8.2.3.
    If a name repeats, the last cookie wins, as in Starlette and Django; cookies without
    a name are left out. As in Starlette, values are decoded as Latin-1, without the
    double quotes around them.

    Other scopes pass through untouched.
    """

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Call the inner application with the cookies in its scope."""
        if scope["type"] not in {"websocket", "http"}:
            await self.inner(scope, receive, send)
            return
        cookies = dict(_cookies(scope))
        await super().__call__({**scope, "cookies": cookies}, receive, send)


# An escaped character in a quoted value: a backslash, then its octal code or itself.
_ESCAPED = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")


def _cookies(scope: ChannelScope) -> Iterator[tuple[str, str]]:
    for header, content in scope.get("headers") or ():
        if header.lower() == b"cookie":
            for cookie in content.decode("latin-1").split(";"):
                name, equals, value = cookie.partition("=")
                if equals and name.strip():
                    yield name.strip(), _unquote(value.strip())


def _unquote(value: str) -> str:
    if len(value) < 2 or not value.startswith('"') or not value.endswith('"'):  # noqa: PLR2004 # both quotes
        return value
    return _ESCAPED.sub(_unescape, value[1:-1])


def _unescape(match: re.Match[str]) -> str:
    number, character = match.groups()
    return chr(int(number, 8)) if number else character
