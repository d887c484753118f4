"""Cookies, as a dict in the scope."""

from http.cookies import SimpleCookie

import pytest

from fast_channels.middleware import CookieMiddleware

from .application import Application, call


@pytest.mark.parametrize("scope_type", ["websocket", "http"])
@pytest.mark.parametrize(
    ("headers", "cookies"),
    [
        ([], {}),
        ([b""], {}),
        ([b"session=abc"], {"session": "abc"}),
        ([b"session=abc; theme=dark"], {"session": "abc", "theme": "dark"}),
        ([b" session = abc;theme=dark ;"], {"session": "abc", "theme": "dark"}),
        # HTTP/2 can split the header.
        ([b"session=abc", b"theme=dark"], {"session": "abc", "theme": "dark"}),
        # If a name occurs more than once, the last one counts.
        ([b"a=1; a=2", b"a=3; b=4"], {"a": "3", "b": "4"}),
        ([b"token=a=b==; empty="], {"token": "a=b==", "empty": ""}),
        # Quotes around a value are not part of it.
        ([b'a="b c"; b="; c="'], {"a": "b c", "b": '"', "c": '"'}),
        ([rb'a="say \"hi\"\054 \\o/ \477"'], {"a": r'say "hi", \o/ 477'}),
        # Only cookies without a name are omitted.
        ([b"abc; =def; ;; a=1; \xff"], {"a": "1"}),
        ([b"\x00\xff=\xfc\xe9; a=\x7f"], {"\x00\xff": "\xfc\xe9", "a": "\x7f"}),
    ],
)
async def test_cookies_of_a_request(
    scope_type: str, headers: list[bytes], cookies: dict[str, str]
) -> None:
    """Cookies of all headers are found; malformed ones are omitted."""
    inner = Application()
    pairs = [(b"host", b"localhost"), *((b"cookie", value) for value in headers)]
    assert await call(CookieMiddleware(inner), scope_type, pairs) == [
        {"type": "reached"}
    ]
    (scope,) = inner.scopes
    assert scope["cookies"] == cookies


@pytest.mark.parametrize("value", ["abc", 'say "hi"', "a; b, c\\d", "ü\n\x7f", ""])
async def test_values_that_python_quotes(value: str) -> None:
    """A value quoted by http.cookies is read back unchanged."""
    cookie = SimpleCookie({"name": value}).output(header="", sep="").strip()
    inner = Application()
    await call(CookieMiddleware(inner), headers=[(b"Cookie", cookie.encode("latin-1"))])
    (scope,) = inner.scopes
    assert scope["cookies"] == {"name": value}


@pytest.mark.parametrize("scope_type", ["lifespan", "channel"])
async def test_other_scopes_pass_untouched(scope_type: str) -> None:
    """A scope of a protocol without headers is passed on unchanged."""
    inner = Application()
    await call(CookieMiddleware(inner), scope_type)
    (scope,) = inner.scopes
    assert "cookies" not in scope


async def test_request_without_headers() -> None:
    """A scope without headers has no cookies."""
    inner = Application()
    await call(CookieMiddleware(inner), headers=None)
    (scope,) = inner.scopes
    assert scope["cookies"] == {}
