"""Patterns of names."""

import pytest

from fast_channels.layers.redis.patterns import starting_with


@pytest.mark.parametrize(
    ("prefix", "pattern"),
    [("asgi", "asgi*"), ("a*b?[c]", r"a\*b\?\[c\]*"), ("a-b\\^", r"a\-b\\\^*")],
)
def test_prefix_is_taken_literally(prefix: str, pattern: str) -> None:
    """What has a meaning in a pattern stands for itself."""
    assert starting_with(prefix) == pattern
