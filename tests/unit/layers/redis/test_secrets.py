"""No spelling of a host, right or wrong, lets its password reach an error or a repr."""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fast_channels.layers import RedisChannelLayer
from fast_channels.layers.redis import RedisPubSubChannelLayer
from fast_channels.layers.redis.sentinel import Master, make_connection
from fast_channels.layers.redis.wire import plain_connection

if TYPE_CHECKING:
    from fast_channels.layers.redis.hosts import Host

# The parts of a secret; each is looked for separately.
PARTS = ("hunter", "sesame", "qwerty")
# Separators between the parts, which can have a meaning where the secret is written.
BETWEEN = st.text("@:/?#%[]=,;'\"\\ \n\t+é\ud800", max_size=3)

SENTINEL = {"sentinels": [("h", 1)], "master_name": "m"}

# Where a user can write a secret, raw or encoded in a URL, and what is parsed from it.
URLS: list[Callable[[str], Any]] = [
    lambda s: f"redis://me:{s}@h",
    lambda s: f"redis://:{s}@h:1/2",
    lambda s: f"REDISS://me:{s}@[::1]:1?db=1",
    lambda s: f"unix://me:{s}@/run/a",
    lambda s: f"redis://h?password={s}",
    lambda s: f"redis://h:1/0?password={s}",
    lambda s: f"redis://me:other@h?db=1&password={s}",
    lambda s: f"unix:///run/a?password={s}",
    lambda s: f"redis://h?socket_timeout=1?password={s}",
    lambda s: f"redis://h:x?password={s}",
    lambda s: f"redis://me:{s}@h:x",
    lambda s: f"redis://me:{s}@h/x",
    lambda s: f"me:{s}@h",
    lambda s: f"http://me:{s}@h",
    lambda s: f"h,password={s}",
    lambda s: f"h:6380,password={s},ssl=True",
]
OTHERS: list[Callable[[str], Any]] = [
    lambda s: ("h", 1, s),
    lambda s: ["redis://h", s],
    lambda s: ("h", s),
    lambda s: ("redis://h", 6379, s),
    lambda s: (f"me:{s}@h", 6379),
    lambda s: [f"redis://:{s}@h", 6379],
    lambda s: {"host": "h", "port": s},
    lambda s: {"host": "h", "db": s},
    lambda s: {"host": "h", "socket_timeout": s},
    lambda s: {"host": "h", "socket_connect_timeout": s, "port": "x"},
    lambda s: {"host": "h", "password": s},
    lambda s: {"host": "h", "password": s, "db": -1},
    lambda s: {"host": "h", "username": "me", "password": s, "port": 0},
    lambda s: {"path": "/run/a", "password": s},
    lambda s: {"path": "/run/a", "password": s, "host": "h"},
    lambda s: {"host": f"me:{s}@h"},
    lambda s: {"address": f"redis://me:{s}@h"},
    lambda s: {"address": f"redis://me:{s}@h", "port": "x"},
    lambda s: {"address": "redis://h", "password": s},
    lambda s: {"address": ["redis://h", s]},
    lambda s: {"host": "h", "pass": s, "db": "x"},
    lambda s: {"host": "h", "ssl_password": s},
    lambda s: {"host": "h", "ssl": True, "ssl_password": s, "socket_timeout": 0},
    lambda s: {f"redis://me:{s}@h": 6379, "db": "x"},
    lambda s: {**SENTINEL, "password": s},
    lambda s: {**SENTINEL, "password": s, "host": "h"},
    lambda s: {**SENTINEL, "sentinel_kwargs": {"password": s}},
    lambda s: {**SENTINEL, "sentinel_kwargs": ["password", s]},
    lambda s: {**SENTINEL, "sentinels": [(f"me:{s}@h", 1)]},
    lambda s: {**SENTINEL, "sentinels": [f"redis://me:{s}@h"]},
    lambda s: {**SENTINEL, "sentinels": [f"unix://me:{s}@/a"]},
    lambda s: {**SENTINEL, "sentinels": f"redis://me:{s}@h"},
    lambda s: {**SENTINEL, "sentinels": [["h", 1, s]]},
]


def secrets() -> st.SearchStrategy[str]:
    return st.tuples(BETWEEN, BETWEEN).map(
        lambda between: f"{PARTS[0]}{between[0]}{PARTS[1]}{between[1]}{PARTS[2]}"
    )


def spellings() -> st.SearchStrategy[Any]:
    """Return hosts in every spelling, with a secret in them."""

    def spell(each: tuple[Callable[[str], Any], str, bool]) -> Any:
        write, secret, encoded = each
        if encoded and write in URLS:
            secret = quote(secret, safe="", errors="replace")
        return write(secret)

    return st.tuples(st.sampled_from(URLS + OTHERS), secrets(), st.booleans()).map(
        spell
    )


def shown_by_errors(error: BaseException | None) -> Iterator[str]:
    """Yield the text of an error and of its causes."""
    while error is not None:
        yield from (str(error), repr(error))
        yield from shown_by_errors(error.__cause__)
        error = error.__context__


def shown(spelling: Any, *, bare: bool) -> Iterator[str]:
    """Yield all text about a host: of an error, or of the result."""
    hosts: Any = spelling if bare else [spelling]
    found: list[Host] = []
    for name in ("hosts", "cluster"):
        for make in (RedisChannelLayer, RedisPubSubChannelLayer):
            try:
                layer = make(**{name: hosts})
            except (TypeError, ValueError) as exc:
                yield from shown_by_errors(exc)
            else:
                yield repr(layer)
                found += layer.hosts
    for host in found:
        yield from (str(host), repr(host))
        place = Master(host) if host.kind == "sentinel" else host
        others = (*host.sentinels, *host.nodes)
        yield from map(repr, others)
        try:
            if host.kind != "cluster":
                yield repr(make_connection(place))
            yield from (repr(plain_connection(each)) for each in others)
        except (TypeError, ValueError) as exc:
            # redis-py doesn't know this argument.
            yield from shown_by_errors(exc)


@settings(
    deadline=None,
    database=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(spelling=spellings(), bare=st.booleans())
def test_no_password_is_shown(spelling: Any, bare: bool) -> None:
    """Wherever a user writes a secret and however it is parsed, no part is shown."""
    for text in shown(spelling, bare=bare):
        assert not re.search("|".join(PARTS), text), f"{spelling!r}: {text}"


@pytest.mark.parametrize("write", URLS + OTHERS)
def test_plain_password(write: Callable[[str], Any]) -> None:
    """The same holds for a password of letters only, in each spelling."""
    for bare in (False, True):
        for text in shown(write(PARTS[0]), bare=bare):
            assert PARTS[0] not in text
