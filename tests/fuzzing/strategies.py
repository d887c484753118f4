"""Strategies for messages."""

from typing import Any

from hypothesis import strategies as st

__all__ = [
    "TEXTS",
    "deep",
    "messages",
    "odd_messages",
    "odd_values",
    "wide_texts",
]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
"""Texts that UTF-8 can encode."""

_INTS = st.integers(-(2**63), 2**63 - 1)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_PLAIN = st.none() | st.booleans() | _INTS | _FLOATS | TEXTS


def wide_texts() -> st.SearchStrategy[str]:
    """Return texts that can contain lone surrogates."""
    return st.text(st.characters(), max_size=20)


def messages(binary: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    """Return messages that every layer can carry, without the type.

    Args:
        binary: Whether they contain bytes, which JSON doesn't have.
    """
    leaves = _PLAIN | st.binary(max_size=20) if binary else _PLAIN
    values = st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)
        ),
        max_leaves=12,
    )
    return st.dictionaries(TEXTS, values, max_size=5)


def deep(low: int, high: int) -> st.SearchStrategy[Any]:
    """Return lists and dicts that are nested this many levels deep."""

    def nest(levels: int, in_dict: bool) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = {"a": value} if in_dict else [value]
        return value

    return st.builds(nest, st.integers(low, high), st.booleans())


class Opaque:
    """An object that no layer can carry."""


def odd_values() -> st.SearchStrategy[Any]:
    """Return values that a layer carries, converts or refuses."""
    leaves = (
        _PLAIN
        | st.binary(max_size=20)
        | wide_texts()
        | st.integers()
        | st.floats()
        | st.complex_numbers()
        | st.decimals()
        | st.datetimes()
        | st.uuids()
        | st.just(Opaque())
        | st.builds(bytearray, st.binary(max_size=5))
        | st.frozensets(st.integers(), max_size=3)
    )
    keys = st.none() | st.integers() | st.binary(max_size=5) | wide_texts()
    values = st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(keys, inner, max_size=4)
        ),
        max_leaves=12,
    )
    return values | deep(1, 2000)


def odd_messages() -> st.SearchStrategy[Any]:
    """Return values that an application could send by mistake."""
    keys = wide_texts() | st.integers() | st.none()
    return st.dictionaries(keys, odd_values(), max_size=4) | odd_values()
