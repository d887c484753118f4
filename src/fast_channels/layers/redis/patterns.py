"""Patterns of names, as Redis' ``SCAN`` and ``PSUBSCRIBE`` take them."""

import re

__all__ = ["starting_with"]

# What has a meaning of its own in a pattern.
_WILD = re.compile(r"([*?\[\]\\^-])")


def starting_with(prefix: str) -> str:
    """Return the pattern of all names that start with exactly this."""
    return _WILD.sub(r"\\\1", prefix) + "*"
