"""Middleware that refuses WebSockets by origin, and an application that refuses all."""

import ipaddress
import logging
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Self
from urllib.parse import ParseResult, urlparse

from fast_channels.denial import denial_events
from fast_channels.type_defs import (
    ASGIApplication,
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelHeaders,
    ChannelScope,
)
from fast_channels.utils import is_same_domain

from .base import BaseMiddleware

__all__ = ["AllowedHostsOriginValidator", "OriginValidator", "WebsocketDenier"]

_logger = logging.getLogger(__name__)


class WebsocketDenier:
    """An ASGI application that refuses every WebSocket.

    Call it in middleware to refuse a connection, or give it a route. One instance
    serves any number of connections. The client gets the HTTP response, or an empty 403
    from a server that cannot send it
    (https://asgi.readthedocs.io/en/latest/extensions.html#websocket-denial-response).

    Args:
        status: The HTTP status of the response.
        headers: The headers; those that describe the body are added if missing.
        body: The body of the response.
    """

    def __init__(
        self,
        status: int = 403,
        headers: ChannelHeaders | None = None,
        body: bytes = b"",
    ) -> None:
        self._status = status
        self._headers = list(headers or ())
        self._body = body
        denial_events({}, status, self._headers, body)  # raises if it cannot be sent

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> Self:
        """Return an instance, to be used like the ``as_asgi()`` of a consumer."""
        return cls(**initkwargs)

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Refuse one WebSocket.

        Raises:
            ValueError: The scope is not of a WebSocket.
        """
        if scope["type"] != "websocket":
            raise ValueError(
                f"{type(self).__qualname__} refuses WebSockets, but was called for a "
                f"scope of type {scope['type']!r}; give it a WebSocket route"
            )
        for event in denial_events(scope, self._status, self._headers, self._body):
            await send(event)


class OriginValidator(BaseMiddleware):
    """Refuses WebSockets that pages of other sites open.

    Browsers send the origin of the page that opens a WebSocket in the ``Origin`` header
    (https://www.rfc-editor.org/rfc/rfc6455.html#section-10.2). If the origin is not
    allowed, or the header is absent, repeated or malformed, the connection is refused
    with status 403. Protocols other than WebSocket pass through.

    An allowed origin is one of these:

    * ``"https://example.com"``, ``"https://example.com:8443"``: exactly this origin,
      with the default port of the scheme if it has no port.
    * ``"example.com"``, ``"example.com:8443"``: this host with any scheme, and with any
      port if it has no port. Write IPv6 addresses in brackets.
    * ``".example.com"``, ``"https://.example.com"``: this host and all its subdomains.
    * ``"*.example.com"``, ``"https://*.example.com"``: all subdomains of this host.
    * a compiled regular expression: every origin, in lower case, that it matches as a
      whole.
    * ``"*"``: every connection, with any ``Origin`` header or none.

    Args:
        app: The inner application.
        allowed_origins: The allowed origins; if empty, every WebSocket is refused.

    Raises:
        TypeError: The origins are a str instead of a list, or one has another type.
        ValueError: An allowed origin is one that no page can have, or ``"null"``, which
            the pages of any site can have.
    """

    def __init__(
        self,
        app: ASGIApplication,
        allowed_origins: Iterable[str | re.Pattern[str]],
    ) -> None:
        super().__init__(app)
        if isinstance(allowed_origins, str):
            raise TypeError(
                "the allowed origins or hosts must be a list, not a single str: "
                f"write [{allowed_origins!r}]"
            )
        self.allowed_origins: list[str | re.Pattern[str]] = list(allowed_origins)
        """The allowed origins."""
        self._parsed = {
            item: _check(item) for item in self.allowed_origins if item != "*"
        }

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Call the inner application, or refuse the connection."""
        if scope["type"] != "websocket" or self._allows(scope):
            await self.inner(scope, receive, send)
        else:
            await _DENIER(scope, receive, send)

    # The steps of the decision, for subclasses; named as in Django Channels.

    def valid_origin(self, parsed_origin: ParseResult | None) -> bool:
        """Return whether a WebSocket from an origin is allowed.

        Args:
            parsed_origin: The origin of the page, in lower case; None if the header is
                absent, repeated or malformed.
        """
        if parsed_origin is None:
            return "*" in self.allowed_origins
        return self.validate_origin(parsed_origin)

    def validate_origin(self, parsed_origin: ParseResult) -> bool:
        """Return whether an origin matches one of the allowed origins."""
        return any(
            pattern == "*" or self.match_allowed_origin(parsed_origin, pattern)
            for pattern in self.allowed_origins
        )

    def match_allowed_origin(
        self, parsed_origin: ParseResult, pattern: str | re.Pattern[str]
    ) -> bool:
        """Return whether an origin matches an allowed origin.

        Args:
            parsed_origin: The origin of the page.
            pattern: An allowed origin.
        """
        text = parsed_origin.geturl()
        allowed = self._parsed.get(pattern) or _check(pattern)
        if isinstance(allowed, re.Pattern):
            return allowed.fullmatch(text) is not None
        origin = _Origin.parse(text)
        port = self.get_origin_port(parsed_origin)
        return origin is not None and allowed.includes(origin._replace(port=port))

    def get_origin_port(self, origin: ParseResult) -> int | None:
        """Return the port of an origin, or the default of its scheme, or None."""
        return _PORTS.get(origin.scheme) if origin.port is None else origin.port

    def _allows(self, scope: ChannelScope) -> bool:
        values: list[bytes] = [
            value
            for name, value in scope.get("headers") or ()
            if name.lower() == b"origin"
        ]
        if self.valid_origin(_parse_header(values)):
            return True
        _logger.info(
            "refused a WebSocket to %r: its origin is not allowed: %r",
            scope.get("path"),
            values,
        )
        return False


class AllowedHostsOriginValidator(OriginValidator):
    """Refuses WebSockets that pages on other hosts open.

    It is an :class:`OriginValidator` for an application that has a list of its hosts in
    the form of Django's ``ALLOWED_HOSTS``. It checks the ``Origin`` header, not the
    ``Host`` header.

    Args:
        app: The inner application.
        allowed_hosts: Hosts such as ``"example.com"``, ``".example.com"`` to include
            its subdomains, or ``"*"``.
        debug: Whether to allow ``localhost``, ``127.0.0.1`` and ``[::1]`` if there are
            no hosts.

    Raises:
        TypeError: The hosts are a str instead of a list.
        ValueError: A host is malformed.
    """

    def __init__(
        self,
        app: ASGIApplication,
        allowed_hosts: Iterable[str],
        debug: bool = False,
    ) -> None:
        if debug and not isinstance(allowed_hosts, str):
            allowed_hosts = list(allowed_hosts) or _LOCAL
        super().__init__(app, allowed_hosts)


_DENIER = WebsocketDenier(body=b"Origin not allowed")

# The hosts of an application in development.
_LOCAL = ("localhost", "127.0.0.1", "[::1]")

# The default ports of the schemes.
_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65535
# The maximum length of an origin: the name of a host has at most 253 characters.
_LONGEST = 300

# https://www.rfc-editor.org/rfc/rfc6454.html#section-6.2, extended for allowed origins,
# which may lack the scheme, and have a dot, or a star and a dot, before the host.
_SYNTAX = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?"
    r"(?P<host>(?:\*?\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


class _Origin(NamedTuple):
    """An origin of a page, or an allowed origin, which can match several of them."""

    scheme: str | None
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse a text in lower case; return None if it is not an origin."""
        match = _SYNTAX.fullmatch(text)
        if match is None:
            return None
        scheme, host, port = match.groups()
        if host.startswith("["):
            try:
                host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
            except ValueError:
                return None
        if port is None:
            return cls(scheme, host, _PORTS.get(scheme))
        return cls(scheme, host, int(port)) if int(port) <= _LAST_PORT else None

    def is_complete(self) -> bool:
        """Return whether this is the full origin of a page."""
        return self.scheme is not None and self.host[0] not in "*."

    def includes(self, origin: "_Origin") -> bool:
        """Return whether this allowed origin matches the origin of a page."""
        if self.scheme is None:
            same = self.port in {None, origin.port}
        else:
            same = (self.scheme, self.port) == (origin.scheme, origin.port)
        if self.host[0] == "*":
            return same and origin.host.endswith(self.host[1:])
        return same and is_same_domain(origin.host, self.host)


def _parse_header(values: list[bytes]) -> ParseResult | None:
    """Return the origin in the ``Origin`` headers of a connection, or None."""
    if len(values) != 1 or len(values[0]) > _LONGEST:
        return None
    text = values[0].decode("latin-1").lower()
    origin = _Origin.parse(text)
    return urlparse(text) if origin is not None and origin.is_complete() else None


def _check(item: str | re.Pattern[str]) -> _Origin | re.Pattern[str]:
    """Parse an allowed origin; raise if it is not a valid one."""
    if isinstance(item, re.Pattern) and isinstance(
        item.pattern, str
    ):  # one of bytes fails later
        return item
    if not isinstance(item, str):
        raise TypeError(
            "an allowed origin or host must be a str or a compiled pattern of str, "
            f"not {item!r}"
        )
    origin = _Origin.parse(item.lower())
    if origin is None or origin.scheme in {"ws", "wss"} or item.lower() == "null":
        raise ValueError(
            f"cannot allow the origin {item!r}: write the scheme, host and port of a "
            "page, such as 'https://example.com:8443', or a host such as "
            "'example.com', '.example.com' for every host below it too, or "
            "'*.example.com' for those alone; without a "
            "path, in ASCII, and IPv6 addresses in brackets"
        )
    return origin
