"""Functions that are also useful outside the library."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fast_channels.exceptions import StopConsumer
from fast_channels.type_defs import ChannelMessage
from fast_channels.utils import await_many_dispatch, is_same_domain


@pytest.mark.parametrize(
    ("host", "pattern", "same"),
    [
        # Exactly one host.
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com", True),
        ("example.com", "example.org", False),
        ("www.example.com", "example.com", False),
        ("example.com", "www.example.com", False),
        ("badexample.com", "example.com", False),
        # A domain and all below it.
        ("example.com", ".example.com", True),
        ("www.example.com", ".example.com", True),
        ("a.b.example.com", ".Example.Com", True),
        ("badexample.com", ".example.com", False),
        ("example.com.bad.org", ".example.com", False),
        ("com", ".example.com", False),
        # Other kinds of hosts.
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", ".0.0.1", True),
        ("[::1]", "[::1]", True),
        # A pattern has no wildcards, and an empty one matches nothing.
        ("www.example.com", "*.example.com", False),
        ("example.com", "*", False),
        ("example.com", "", False),
        ("", "", False),
        ("", "example.com", False),
    ],
)
def test_pattern_names_a_domain(host: str, pattern: str, same: bool) -> None:
    """A leading dot matches all subdomains; the case of the pattern is ignored."""
    assert is_same_domain(host, pattern) is same


def source_of(*names: str) -> Callable[[], Awaitable[ChannelMessage]]:
    """Return a callable that returns messages of these types and then waits."""
    left = list(names)

    async def source() -> ChannelMessage:
        if not left:
            await asyncio.get_running_loop().create_future()
        return {"type": left.pop(0)}

    return source


async def test_messages_of_all_callables_are_dispatched() -> None:
    """Each message is dispatched once, until a handler raises an exception."""
    dispatched: list[str] = []

    async def dispatch(message: ChannelMessage) -> None:
        dispatched.append(message["type"])
        if len(dispatched) == 4:
            raise StopConsumer

    tasks = asyncio.all_tasks()
    with pytest.raises(StopConsumer):
        await await_many_dispatch(
            [source_of("a1", "a2"), source_of("b1", "b2")], dispatch
        )
    assert sorted(dispatched) == ["a1", "a2", "b1", "b2"]
    assert dispatched.index("a1") < dispatched.index("a2")
    assert dispatched.index("b1") < dispatched.index("b2")
    assert asyncio.all_tasks() == tasks
