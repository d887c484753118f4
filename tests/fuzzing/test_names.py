"""Valid and invalid names."""

import string
from collections.abc import Callable
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from fast_channels.layers import BaseChannelLayer

LAYER = BaseChannelLayer()
PLAIN = frozenset(string.ascii_letters + string.digits + "._-")
ALPHABET = st.sampled_from("azAZ09._-!!! \n\t\x00é٣ßK") | st.characters()
NAMES = st.one_of(
    st.text(ALPHABET, max_size=8),
    st.text(ALPHABET, max_size=3).map(lambda text: "a" * 97 + text),
    st.text(st.sampled_from("ab.!"), min_size=96, max_size=102),
    st.sampled_from([None, 5, b"name", ["name"], ("a", "b")]),
)


def is_plain(text: str) -> bool:
    return all(character in PLAIN for character in text)


def is_group(name: Any) -> bool:
    """Implement the rule without a regular expression."""
    return isinstance(name, str) and 0 < len(name) < 100 and is_plain(name)


def is_channel(name: Any) -> bool:
    if not isinstance(name, str) or len(name) >= 100 or name.count("!") > 1:
        return False
    head, _, tail = name.partition("!")
    return head != "" and is_plain(head) and is_plain(tail)


def passes(check: Callable[..., bool], *arguments: Any) -> bool:
    try:
        assert check(*arguments) is True
    except TypeError:
        return False
    return True


@given(NAMES)
@example("a" * 99)
@example("a" * 100)
@example("a!")
@example("!a")
@example("a\n")
def test_names(name: Any) -> None:
    """Each name is accepted or refused by the documented rule."""
    assert passes(LAYER.require_valid_group_name, name) is is_group(name)
    assert passes(LAYER.require_valid_channel_name, name) is is_channel(name)
    receives = is_channel(name) and ("!" not in name or name.endswith("!"))
    assert passes(LAYER.require_valid_channel_name, name, True) is receives
