"""Who may open a WebSocket: the origins that are allowed, and nobody at all."""

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

    Middleware calls it to refuse a connection, a route may lead to it, and one
    instance serves any number of connections. The client sees the HTTP response;
    from a server that cannot send one, an empty 403
    (https://asgi.readthedocs.io/en/latest/extensions.html#websocket-denial-response).

    Args:
        status: The HTTP status of the response.
        headers: Its headers; those about the body's length and type are added.
        body: Its body.
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
        """Return an instance: it goes wherever a consumer's ``as_asgi()`` goes."""
        return cls(**initkwargs)

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Refuse one WebSocket.

        Raises:
            ValueError: The scope is not that of a WebSocket.
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

    A browser says in the header ``Origin`` from which site the page comes that opens a
    WebSocket (https://www.rfc-editor.org/rfc/rfc6455.html#section-10.2). Unless it is
    an allowed one, the connection gets a 403; so it does if the header is absent,
    repeated or malformed. Everything else than WebSockets passes.

    An allowed origin is one of these:

    * ``"https://example.com"``, ``"https://example.com:8443"``: this very origin; if no
      port is named, it is that of the scheme.
    * ``"example.com"``, ``"example.com:8443"``: this host with any scheme, and with any
      port if none is named. IPv6 addresses are in brackets.
    * ``".example.com"``, ``"https://.example.com"``: this host and every one below it.
    * ``"*.example.com"``, ``"https://*.example.com"``: every host below this one.
    * a compiled regular expression: the origins, in lower case, that it matches as a
      whole.
    * ``"*"``: every connection, whatever its header is, or if it has none.

    Args:
        app: The inner application.
        allowed_origins: The allowed origins; if there are none, nobody connects.

    Raises:
        TypeError: It is a str instead of a list of them, or holds something else.
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

    # The steps of the decision, by their names in Django Channels, for subclasses.

    def valid_origin(self, parsed_origin: ParseResult | None) -> bool:
        """Return whether a WebSocket may be opened.

        Args:
            parsed_origin: The origin of the page, in lower case; None if the header is
                absent, repeated or malformed.
        """
        if parsed_origin is None:
            return "*" in self.allowed_origins
        return self.validate_origin(parsed_origin)

    def validate_origin(self, parsed_origin: ParseResult) -> bool:
        """Return whether an origin is one of those that are allowed."""
        return any(
            pattern == "*" or self.match_allowed_origin(parsed_origin, pattern)
            for pattern in self.allowed_origins
        )

    def match_allowed_origin(
        self, parsed_origin: ParseResult, pattern: str | re.Pattern[str]
    ) -> bool:
        """Return whether an origin is the allowed one, or one of them.

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
        """Return the port of an origin, or that of its scheme; None if it has none."""
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
    """Refuses WebSockets that pages on other hosts than one's own open.

    It is an :class:`OriginValidator` for an application that knows its hosts already,
    and takes them as Django's ``ALLOWED_HOSTS`` does. The header that it looks at is
    ``Origin``, not ``Host``.

    Args:
        app: The inner application.
        allowed_hosts: Hosts such as ``"example.com"``, ``".example.com"`` for every
            one below it too, or ``"*"``.
        debug: Whether ``localhost``, ``127.0.0.1`` and ``[::1]`` are allowed when there
            are no hosts.

    Raises:
        TypeError: The hosts are a str instead of a list of them.
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

# The hosts under which a developer sees the application.
_LOCAL = ("localhost", "127.0.0.1", "[::1]")

# The ports that an origin does not name.
_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65535
# No origin is longer: the name of a host has at most 253 characters.
_LONGEST = 300

# https://www.rfc-editor.org/rfc/rfc6454.html#section-6.2, and what is allowed: that may
# lack the scheme, and have a dot, or a star and a dot, before the host.
_SYNTAX = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?"
    r"(?P<host>(?:\*?\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


class _Origin(NamedTuple):
    """An origin, or several of them that are allowed."""

    scheme: str | None
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the origin that a text in lower case names; None if it names none."""
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
        """Return whether it is the origin of a page."""
        return self.scheme is not None and self.host[0] not in "*."

    def includes(self, origin: "_Origin") -> bool:
        """Return whether the origin of a page is among those that are allowed."""
        if self.scheme is None:
            same = self.port in {None, origin.port}
        else:
            same = (self.scheme, self.port) == (origin.scheme, origin.port)
        if self.host[0] == "*":
            return same and origin.host.endswith(self.host[1:])
        return same and is_same_domain(origin.host, self.host)


def _parse_header(values: list[bytes]) -> ParseResult | None:
    """Return the origin that the headers of a connection name, if it is one."""
    if len(values) != 1 or len(values[0]) > _LONGEST:
        return None
    text = values[0].decode("latin-1").lower()
    origin = _Origin.parse(text)
    return urlparse(text) if origin is not None and origin.is_complete() else None


def _check(item: str | re.Pattern[str]) -> _Origin | re.Pattern[str]:
    """Return what is allowed, ready to compare; raise if it can never be an origin."""
    if isinstance(item, re.Pattern) and isinstance(item.pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance] # one of bytes fails later
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
