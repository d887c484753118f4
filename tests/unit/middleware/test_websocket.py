"""Middleware that allows or denies WebSockets."""

import logging
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import ParseResult, urlparse

import pytest

from fast_channels.middleware import (
    AllowedHostsOriginValidator,
    OriginValidator,
    WebsocketDenier,
)

from .application import Application, call

EXTENSIONS: dict[str, Any] = {"websocket.http.response": {}}

PREVIEW = re.compile(r"https://pr-\d+\.example\.com")


async def allows(validator: OriginValidator, *origins: bytes) -> bool:
    """Return whether a WebSocket with these Origin headers reaches the application."""
    headers = [(b"host", b"api.example.com"), *((b"origin", item) for item in origins)]
    (event,) = await call(validator, headers=headers)
    assert event["type"] in {"reached", "websocket.close"}
    return bool(event["type"] == "reached")


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        # An origin with everything.
        ("https://example.com", b"https://example.com", True),
        ("HTTPS://Example.COM", b"https://EXAMPLE.com", True),
        ("https://example.com", b"http://example.com", False),
        ("https://example.com", b"https://example.org", False),
        ("https://example.com", b"https://www.example.com", False),
        ("https://example.com", b"https://example.com.evil.org", False),
        ("https://example.com", b"https://evil-example.com", False),
        ("https://my_host-1", b"https://my_host-1", True),
        # Ports.
        ("https://example.com:8443", b"https://example.com:8443", True),
        ("https://example.com:8443", b"https://example.com", False),
        ("https://example.com", b"https://example.com:8443", False),
        ("https://example.com:443", b"https://example.com", True),
        ("https://example.com", b"https://example.com:443", True),
        ("http://example.com", b"http://example.com:80", True),
        ("http://example.com:443", b"http://example.com", False),
        ("https://example.com:80", b"https://example.com", False),
        # Only a host, with any scheme and port; or with one port.
        ("example.com", b"https://example.com", True),
        ("example.com", b"http://example.com:8080", True),
        ("Example.com", b"capacitor://example.com", True),
        ("example.com", b"https://www.example.com", False),
        ("example.com:443", b"https://example.com", True),
        ("example.com:443", b"http://example.com", False),
        ("localhost:3000", b"http://localhost:3000", True),
        ("localhost:3000", b"http://localhost:8000", False),
        ("localhost:3000", b"capacitor://localhost", False),
        # A host and all below it.
        (".example.com", b"https://example.com", True),
        (".example.com", b"http://a.b.example.com:8080", True),
        (".example.com", b"https://badexample.com", False),
        (".example.com", b"https://example.com.evil.org", False),
        ("https://.example.com", b"https://www.example.com", True),
        ("https://.example.com", b"http://www.example.com", False),
        ("https://.example.com:8443", b"https://www.example.com:8443", True),
        ("https://.example.com:8443", b"https://www.example.com", False),
        # All below a host, and not the host itself.
        ("*.example.com", b"http://a.b.example.com:8080", True),
        ("*.example.com", b"https://example.com", False),
        ("*.example.com", b"https://badexample.com", False),
        ("*.example.com:8443", b"https://www.example.com:8443", True),
        ("*.example.com:8443", b"https://www.example.com", False),
        ("https://*.example.com", b"https://www.example.com", True),
        ("https://*.example.com", b"http://www.example.com", False),
        # Addresses.
        ("127.0.0.1", b"http://127.0.0.1:8000", True),
        ("[::1]", b"http://[::1]:8000", True),
        ("http://[0:0:0:0:0:0:0:1]:8000", b"http://[::1]:8000", True),
        ("http://[::1]", b"http://[::2]", False),
        # Pages that have no scheme of the web.
        ("chrome-extension://abcdef", b"chrome-extension://abcdef", True),
        ("capacitor://localhost", b"capacitor://localhost:81", False),
        # A regular expression, which has to match the whole origin.
        (PREVIEW, b"https://pr-7.example.com", True),
        (PREVIEW, b"https://pr-7.example.com:1", False),
        (re.compile(r"null|.*"), b"null", False),
        # Everything.
        ("*", b"https://example.com", True),
        ("*", b"null", True),
        ("*", b"\xff", True),
    ],
)
async def test_origin_is_compared_with_the_allowed_one(
    allowed: str | re.Pattern[str], origin: bytes, expected: bool
) -> None:
    """Scheme, host and port have to match an allowed origin."""
    assert await allows(OriginValidator(Application(), [allowed]), origin) is expected


@pytest.mark.parametrize(
    "origins",
    [
        [],
        [b""],
        [b"null"],
        [b"example.com"],
        [b"//example.com"],
        [b"https:"],
        [b"https://"],
        [b"https://example.com/"],
        [b"https://example.com/path"],
        [b"https://example.com?query"],
        [b"https://user@example.com"],
        [b"https://.example.com"],
        [b"https://a..example.com"],
        [b"https://example.com:"],
        [b"https://example.com:port"],
        [b"https://example.com:65536"],
        [b"https://example.com:-1"],
        [b"https://[::1"],
        [b"https://::1]"],
        [b"https://[:::1]"],
        [b"https://[example.com]"],
        [b" https://example.com"],
        [b"https://example.com\n"],
        [b"https://ex\xe4mple.com"],
        [b"\xff\xfe\x00"],
        [b"https://example.com https://example.com"],
        [b"https://example.com, https://example.com"],
        [b"https://example.com", b"https://example.com"],
    ],
)
async def test_absent_repeated_or_malformed_origin(origins: list[bytes]) -> None:
    """Such an origin is refused, unless everything is allowed."""
    allowed: list[str | re.Pattern[str]] = [".example.com", "[::1]", re.compile(".*")]
    assert not await allows(OriginValidator(Application(), allowed), *origins)
    assert await allows(OriginValidator(Application(), [*allowed, "*"]), *origins)


async def test_any_of_several_allowed_origins() -> None:
    """One matching origin is enough; an empty list refuses every client."""
    allowed: list[str | re.Pattern[str]] = ["https://a.com", PREVIEW, "c.com"]
    validator = OriginValidator(Application(), iter(allowed))
    for origin in (b"https://a.com", b"https://pr-1.example.com", b"https://c.com"):
        assert await allows(validator, origin)
        assert not await allows(OriginValidator(Application(), []), origin)
    assert not await allows(validator, b"https://d.com")


async def test_refused_client_sees_why(caplog: pytest.LogCaptureFixture) -> None:
    """A refused client gets a 403 with a body, and the log has the origin."""
    caplog.set_level(logging.INFO, "fast_channels")
    inner = Application()
    validator = OriginValidator(inner, ["https://example.com"])
    headers = [(b"Origin", b"https://evil.org")]
    start, body = await call(validator, headers=headers, extensions=EXTENSIONS)
    assert start["type"] == "websocket.http.response.start"
    assert start["status"] == 403
    assert body["type"] == "websocket.http.response.body"
    assert body["body"] == b"Origin not allowed"
    assert inner.scopes == []
    assert "not allowed: [b'https://evil.org']" in caplog.text


@pytest.mark.parametrize("scope_type", ["http", "lifespan", "channel"])
async def test_only_websockets_are_refused(scope_type: str) -> None:
    """A validator can wrap a whole application."""
    validator = OriginValidator(Application(), ["https://example.com"])
    headers = [(b"origin", b"https://evil.org")]
    assert await call(validator, scope_type, headers) == [{"type": "reached"}]


@pytest.mark.parametrize(
    "allowed",
    [
        "",
        "null",
        "*example.com",
        "a.*.com",
        "*.",
        "https://*",
        "https://example.com/",
        "https://example.com/path",
        "https://user@example.com",
        "https://",
        "//example.com",
        "ws://example.com",
        "WSS://example.com",
        "example.com:port",
        "example.com:99999",
        "::1",
        "[::g]",
        "exämple.com",
        "example.com ",
        ".",
    ],
)
def test_impossible_origin(allowed: str) -> None:
    """An impossible origin is refused on start; the error says what to write."""
    message = rf"cannot allow the origin {re.escape(repr(allowed))}: write the scheme"
    with pytest.raises(ValueError, match=message):
        OriginValidator(Application(), ["https://example.com", allowed])
    with pytest.raises(ValueError, match=message):
        AllowedHostsOriginValidator(Application(), [allowed])


@pytest.mark.parametrize("debug", [False, True])
def test_str_instead_of_a_list(debug: bool) -> None:
    """A str is refused, not treated as a list of letters."""
    message = r"must be a list, not a single str: write \['example.com'\]"
    with pytest.raises(TypeError, match=message):
        OriginValidator(Application(), "example.com")
    with pytest.raises(TypeError, match=message):
        AllowedHostsOriginValidator(Application(), "example.com", debug)


@pytest.mark.parametrize("allowed", [b"example.com", None, re.compile(rb"example")])
def test_origin_of_another_type(allowed: Any) -> None:
    """An origin of another type is refused on start."""
    with pytest.raises(TypeError, match=r"must be a str or a compiled pattern of str"):
        OriginValidator(Application(), [allowed])


@pytest.mark.parametrize(
    ("hosts", "debug", "expected"),
    [
        ([".example.com"], False, {b"https://www.example.com"}),
        ([".example.com"], True, {b"https://www.example.com"}),
        (["*"], False, None),
        ([], False, set[bytes]()),
        (
            [],
            True,
            {b"http://localhost:3000", b"http://127.0.0.1:8000", b"https://[::1]:1"},
        ),
    ],
)
async def test_hosts(
    hosts: Iterable[str], debug: bool, expected: set[bytes] | None
) -> None:
    """Pages on the hosts are allowed; without hosts, local pages when debugging."""
    origins = {
        b"https://www.example.com",
        b"http://localhost:3000",
        b"http://127.0.0.1:8000",
        b"https://[::1]:1",
        b"https://evil.org",
    }
    validator = AllowedHostsOriginValidator(Application(), iter(hosts), debug)
    allowed = {origin for origin in origins if await allows(validator, origin)}
    assert allowed == (origins if expected is None else expected)


@pytest.mark.parametrize(
    "denier",
    [
        WebsocketDenier(401, iter([(b"x-a", b"b")]), b"who?"),
        WebsocketDenier.as_asgi(status=401, headers=[(b"x-a", b"b")], body=b"who?"),
    ],
)
async def test_denier_refuses_with_a_response(denier: WebsocketDenier) -> None:
    """One instance refuses any number of WebSockets, each as its server supports."""
    for _ in range(2):
        assert await call(denier, extensions=EXTENSIONS) == [
            {
                "type": "websocket.http.response.start",
                "status": 401,
                "headers": [
                    (b"x-a", b"b"),
                    (b"content-length", b"4"),
                    (b"content-type", b"text/plain; charset=utf-8"),
                ],
            },
            {"type": "websocket.http.response.body", "body": b"who?"},
        ]
    assert await call(denier) == [{"type": "websocket.close"}]


async def test_denier_is_for_websockets() -> None:
    """An HTTP request or an invalid response raises an error."""
    with pytest.raises(ValueError, match=r"WebsocketDenier refuses .* type 'http'"):
        await call(WebsocketDenier(), "http")
    with pytest.raises(ValueError, match=r"not 1008"):
        WebsocketDenier(1008)


class Steps(OriginValidator):
    """Overrides each step of the decision that Django Channels also has."""

    steps: list[str]

    def valid_origin(self, parsed_origin: ParseResult | None) -> bool:
        self.steps = ["valid" if parsed_origin is None else parsed_origin.geturl()]
        return super().valid_origin(parsed_origin)

    def validate_origin(self, parsed_origin: ParseResult) -> bool:
        self.steps.append("validate")
        return super().validate_origin(parsed_origin)

    def match_allowed_origin(
        self, parsed_origin: ParseResult, pattern: str | re.Pattern[str]
    ) -> bool:
        self.steps.append(f"match {pattern!s}")
        return super().match_allowed_origin(parsed_origin, pattern)

    def get_origin_port(self, origin: ParseResult) -> int | None:
        self.steps.append("port")
        return 81 if origin.scheme == "http" else super().get_origin_port(origin)


async def test_subclasses_override_the_steps() -> None:
    """Each step is called on self, and its result is used."""
    validator = Steps(Application(), ["https://a.com", "http://b.com:81"])
    assert await allows(validator, b"http://B.com")
    assert validator.steps == [
        "http://b.com",
        "validate",
        "match https://a.com",
        "port",
        "match http://b.com:81",
        "port",
    ]
    assert not await allows(validator, b"http://b.com/path")
    assert validator.steps == ["valid"]


def test_steps_by_hand() -> None:
    """The steps accept the result of urlparse()."""
    validator = OriginValidator(Application(), ["https://a.com", PREVIEW])
    assert validator.allowed_origins == ["https://a.com", PREVIEW]
    assert validator.valid_origin(urlparse("https://a.com"))
    assert validator.validate_origin(urlparse("https://pr-1.example.com"))
    assert not validator.valid_origin(urlparse("https://b.com"))
    assert not validator.valid_origin(urlparse("null"))
    assert not validator.valid_origin(None)
    assert OriginValidator(Application(), ["*"]).valid_origin(None)
    # A pattern that is not in the validator's list.
    assert validator.match_allowed_origin(urlparse("http://c.com"), "c.com")
    ports = ["https://a.com", "http://a.com", "https://a.com:81", "capacitor://a"]
    assert [validator.get_origin_port(urlparse(each)) for each in ports] == [
        443,
        80,
        81,
        None,
    ]
