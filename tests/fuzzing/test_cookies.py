"""Cookies are read as other servers read them."""

from http.cookies import SimpleCookie

from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import cookie_parser

from fast_channels.middleware import CookieMiddleware
from tests.unit.middleware.application import Application, call

ALPHABET = st.sampled_from('ab=;"\\ 017,\t') | st.characters(max_codepoint=255)
HEADERS = st.text(ALPHABET, max_size=40)


async def read(*headers: str) -> dict[str, str]:
    """Return the cookies that an application finds."""
    inner = Application()
    await call(
        CookieMiddleware(inner),
        headers=[(b"cookie", header.encode("latin-1")) for header in headers],
    )
    cookies: dict[str, str] = inner.scopes[0]["cookies"]
    return cookies


@given(HEADERS)
async def test_starlette_reads_the_same(header: str) -> None:
    """Except for cookies without a name, a header is parsed as by Starlette."""
    expected = cookie_parser(header)
    expected.pop("", None)
    named = {
        part.partition("=")[0].strip() for part in header.split(";") if "=" in part
    }
    assert await read(header) == {
        name: value for name, value in expected.items() if name in named
    }


@given(st.lists(HEADERS, max_size=3))
async def test_several_headers_are_one(headers: list[str]) -> None:
    """Several headers are the same as one; HTTP/2 can split it."""
    assert await read(*headers) == await read(";".join(headers))


@given(
    st.dictionaries(
        st.text(st.sampled_from("abcXYZ09_-"), min_size=1, max_size=5),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
        max_size=4,
    )
)
async def test_cookies_of_the_standard_library_are_read(
    cookies: dict[str, str],
) -> None:
    """Values written by http.cookies are read back unchanged."""
    written: SimpleCookie = SimpleCookie()
    for name, value in cookies.items():
        written[name] = value
    assert await read(written.output([], header="", sep=";").strip()) == cookies
