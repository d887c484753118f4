"""A pytest plugin for layers in memory and for consumers that are left running.

pytest loads it wherever fast_channels is installed. Until a test requests its fixture,
it imports nothing from fast_channels.
"""

import functools
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from typing import Any, Protocol, TypeAlias

    from fast_channels.consumer.connection import Connection
    from fast_channels.layers import BaseChannelLayer, InMemoryChannelLayer
    from fast_channels.type_defs import ChannelMessage, CompiledChannelCapacities

    _Copies: TypeAlias = Callable[[], dict[str, Any]]

    class _LayerWithFormat(Protocol):
        def require_valid_message(self, message: object) -> None: ...
        def serialize(self, message: ChannelMessage) -> bytes: ...
        def deserialize(self, data: bytes) -> dict[str, Any]: ...


__all__ = ["in_memory_channel_layers"]

# Makes pytest show the values in their failed assertions, as in those of a test file.
pytest.register_assert_rewrite("fast_channels.testing.contract")

# The options that an in-memory layer takes from the layer that it replaces.
_OPTIONS = ("expiry", "group_expiry", "capacity")


@pytest.fixture
def in_memory_channel_layers(
    request: pytest.FixtureRequest,
) -> "Iterator[dict[str, InMemoryChannelLayer]]":
    """Replace every registered layer with a new layer in memory, for one test.

    Each has the expiry and the capacities of the layer that it replaces, and accepts
    the same messages: it refuses a message that the serializer of that layer refuses,
    and any other arrives as the serializer decodes it. After the test, the registry is
    restored, whatever the test has registered or unregistered. A layer that the test
    registers itself is used as it is.

    The test fails if a consumer that it started still runs when the test and its
    fixtures have ended.

    Returns:
        The layers, by alias.
    """
    from fast_channels.layers import channel_layers  # noqa: PLC0415

    request.config.pluginmanager.register(_ConsumerWatch())
    before = {
        alias: layer
        for alias in channel_layers
        if (layer := channel_layers.get(alias)) is not None
    }
    layers = {alias: _in_memory(layer) for alias, layer in before.items()}
    _register(layers)
    yield layers
    channel_layers.clear()
    _register(before)


def _register(layers: "Mapping[str, BaseChannelLayer]") -> None:
    from fast_channels.layers import register_channel_layer  # noqa: PLC0415

    for alias, layer in layers.items():
        register_channel_layer(alias, layer)


def _in_memory(layer: "BaseChannelLayer") -> "InMemoryChannelLayer":
    from fast_channels.layers import InMemoryChannelLayer  # noqa: PLC0415

    # A third-party layer may have none of them.
    own: dict[str, Any] = getattr(layer, "__dict__", {})
    options = {name: own[name] for name in _OPTIONS if name in own}
    capacities: CompiledChannelCapacities = own.get("channel_capacity", [])
    if not (hasattr(layer, "serialize") and hasattr(layer, "deserialize")):
        return InMemoryChannelLayer(**options, channel_capacity=dict(capacities))

    replaced = cast("_LayerWithFormat", layer)

    class InMemoryStandIn(InMemoryChannelLayer):
        """A layer in memory that accepts the messages of the layer it replaces."""

        def _copies_of(self, message: "ChannelMessage") -> "_Copies":
            replaced.require_valid_message(message)
            return functools.partial(replaced.deserialize, replaced.serialize(message))

    return InMemoryStandIn(**options, channel_capacity=dict(capacities))


class _ConsumerWatch:
    """Fails a test that leaves consumers running.

    A consumer can belong to a fixture, whose teardown ends it. The event loop of the
    test is closed by a fixture too, which cancels all tasks. So, after the teardown of
    every fixture, the watch looks for consumers that were cancelled with their loop.
    """

    def __init__(self) -> None:
        self._before = _find_running()
        self._running: dict[int, Connection[Any]] = {}
        # The classes of consumers that ran until their loop was closed.
        self._left: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None]:
        self._look()
        try:
            yield
        finally:
            item.config.pluginmanager.unregister(self)
            self._look()
        left = Counter([*self._left, *(each.name for each in self._running.values())])
        if left:
            names = ", ".join(f"{count} {name}" for name, count in sorted(left.items()))
            pytest.fail(
                f"the test left consumers running: {names}. Run each in 'async with' "
                "of its communicator, or call disconnect()",
                pytrace=False,
            )

    def pytest_fixture_post_finalizer(self) -> None:
        self._look()

    def _look(self) -> None:
        running = {
            key: connection
            for key, connection in _find_running().items()
            if key not in self._before
        }
        self._left += [
            connection.name
            for key, connection in self._running.items()
            if key not in running
            and connection.task.cancelled()
            and connection.task.get_loop().is_closed()
        ]
        self._running = running


def _find_running() -> "dict[int, Connection[Any]]":
    from fast_channels.consumer.connection import live_connections  # noqa: PLC0415

    found = (reference() for reference in live_connections.valuerefs())
    return {id(each): each for each in found if each is not None}
