"""Commands as bytes, by hiredis and without it."""

import importlib
import sys

import hiredis
import pytest

from fast_channels.layers.redis import packing
from fast_channels.layers.redis.packing import Pack, pack


def bytes_or_text(value: str | bytes | float) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture
def fallback(monkeypatch: pytest.MonkeyPatch) -> Pack:
    """What packs commands where hiredis is not installed."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "hiredis", None)
        importlib.reload(packing)
        fallback = packing.pack
    importlib.reload(packing)
    assert fallback is not packing.pack
    return fallback


@pytest.mark.parametrize(
    "command",
    [
        ("PING",),
        ("SET", "key", "größe €"),
        ("SET", b"\x00\xff\r\n", "", b""),
        ("EVAL", "x" * 10_000, b"y" * 10_000, 0),
        ("PEXPIRE", "key", -1, 60, 2**53),
        ("BZPOPMIN", "key", 0.1, 1.0, 1e-7, 1e300, 1_700_000_000.123456, -0.5),
    ],
    ids=["word", "text", "bytes", "long", "int", "float"],
)
def test_same_bytes(command: tuple[str | bytes | float, ...], fallback: Pack) -> None:
    """A command has the same bytes with hiredis and without it."""
    words = [bytes_or_text(word) for word in command]
    expected = b"*%d\r\n" % len(words)
    expected += b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    assert pack(command) == expected
    assert fallback(command) == expected


def test_hiredis_is_used() -> None:
    """Where hiredis is installed it packs commands."""
    assert packing.pack is vars(hiredis)["pack_command"]
