"""Allowed and refused origins."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from fast_channels.middleware import OriginValidator
from tests.unit.middleware.application import Application, call

LABELS = st.lists(st.sampled_from(["a", "b", "www", "x-1", "a_b"]), max_size=3)
SCHEMES = st.sampled_from(["http", "https", "capacitor"])
PORTS = st.none() | st.sampled_from([80, 443, 8443])
DEFAULTS = {"http": 80, "https": 443}


@dataclass
class Page:
    """The origin of a page, in parts."""

    scheme: str
    labels: list[str]
    port: int | None

    @property
    def host(self) -> str:
        return ".".join([*self.labels, "a", "com"])

    @property
    def effective_port(self) -> int | None:
        return self.port or DEFAULTS.get(self.scheme)

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


@dataclass
class Allowed:
    """An allowed origin, in parts."""

    scheme: str | None
    star: str
    labels: list[str]
    port: int | None

    @property
    def host(self) -> str:
        return ".".join([*self.labels, "a", "com"])

    def __str__(self) -> str:
        scheme = "" if self.scheme is None else f"{self.scheme}://"
        port = "" if self.port is None else f":{self.port}"
        return f"{scheme}{self.star}{self.host}{port}"

    def includes(self, page: Page) -> bool:
        below = len(page.labels) > len(self.labels) and (
            page.labels[len(page.labels) - len(self.labels) :] == self.labels
        )
        same = page.labels == self.labels
        if not {"": same, ".": same or below, "*.": below}[self.star]:
            return False
        if self.scheme is None:
            return self.port is None or self.port == page.effective_port
        port = self.port or DEFAULTS.get(self.scheme)
        return (self.scheme, port) == (page.scheme, page.effective_port)


PAGES = st.builds(Page, SCHEMES, LABELS, PORTS)
ALLOWED = st.builds(
    Allowed, st.none() | SCHEMES, st.sampled_from(["", ".", "*."]), LABELS, PORTS
)


async def allows(allowed: list[str], *origins: bytes) -> bool:
    """Return whether a WebSocket reaches the application."""
    headers = [(b"origin", origin) for origin in origins]
    events = await call(OriginValidator(Application(), allowed), headers=headers)
    return bool(events[0]["type"] == "reached")


@given(PAGES, st.lists(ALLOWED, max_size=3), st.booleans())
async def test_origins(page: Page, allowed: list[Allowed], upper: bool) -> None:
    """A page can connect if all of its parts match one of the allowed origins."""
    origin = str(page).upper() if upper else str(page)
    expected = any(each.includes(page) for each in allowed)
    assert await allows([*map(str, allowed)], origin.encode()) is expected


@given(PAGES, st.binary(min_size=1, max_size=3), st.integers(0, 40))
async def test_changed_origins(page: Page, extra: bytes, place: int) -> None:
    """Bytes inserted into an allowed origin make it another one, which is refused."""
    origin = str(page).encode()
    changed = origin[:place] + extra + origin[place:]
    if changed.lower() != origin:
        # Exceptions: leading zeros of a port, and an explicit default port.
        port = changed.rpartition(b":")[2]
        if port.isdigit() and int(port) == page.effective_port:
            return
        assert not await allows([str(page)], changed)


@given(st.lists(st.binary(max_size=40), max_size=3))
async def test_arbitrary_headers(origins: list[bytes]) -> None:
    """Headers of any bytes are handled, and refused if nothing is allowed."""
    assert not await allows([".a.com", "[::1]"], *origins)
    assert await allows(["*"], *origins)


@given(
    st.text(max_size=20)
    | ALLOWED.map(str).flatmap(
        lambda text: st.text(max_size=2).map(lambda extra: text + extra)
    )
)
def test_allowed_origins_are_checked(allowed: str) -> None:
    """Any str is accepted, or raises a ValueError that names it."""
    reason = ""
    try:
        OriginValidator(Application(), [allowed])
    except ValueError as exc:
        reason = str(exc)
    assert not reason or repr(allowed) in reason
