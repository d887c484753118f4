"""Patterns of names for Redis' ``SCAN`` and ``PSUBSCRIBE``."""

import re

__all__ = ["starting_with"]

# Characters with a special meaning in a pattern.
_WILD = re.compile(r"([*?\[\]\\^-])")


def starting_with(prefix: str) -> str:
    """Return the pattern that matches names starting with exactly this prefix."""
    return _WILD.sub(r"\\\1", prefix) + "*"
