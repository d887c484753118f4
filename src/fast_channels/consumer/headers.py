"""The headers of a response, as consumers spell them."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias, cast

__all__ = ["Headers", "encode_headers"]

Headers: TypeAlias = (
    Iterable[tuple[bytes | str, bytes | str]]
    | Mapping[bytes, bytes | str]
    | Mapping[str, bytes | str]
)
"""A dict, or pairs of a name and a value."""


def encode_headers(headers: Headers | None) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI spells them.

    Raises:
        TypeError: A name or a value is neither bytes nor a str.
    """
    pairs = cast(
        "Iterable[tuple[bytes | str, bytes | str]]",
        headers.items() if isinstance(headers, Mapping) else headers or (),
    )
    return [(_encode(name), _encode(value)) for name, value in pairs]


def _encode(part: object) -> bytes:
    if isinstance(part, str):
        return part.encode("latin-1")
    if not isinstance(part, bytes):
        raise TypeError(
            f"names and values of headers must be bytes or str, not {part!r}"
        )
    return part
