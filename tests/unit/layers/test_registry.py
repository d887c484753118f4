"""The registry of layers by alias."""

from typing import Any

import pytest

from fast_channels.exceptions import InvalidChannelLayerError
from fast_channels.layers import (
    BaseChannelLayer,
    ChannelLayerRegistry,
    InMemoryChannelLayer,
    channel_layers,
    get_channel_layer,
    has_layers,
    register_channel_layer,
    unregister_channel_layer,
)


@pytest.fixture
def registry() -> ChannelLayerRegistry:
    """Give a test an empty registry."""
    return ChannelLayerRegistry()


@pytest.fixture
def layer() -> BaseChannelLayer:
    """Give a test a layer."""
    return BaseChannelLayer()


def test_alias_stands_for_the_layer_it_was_registered_with(
    registry: ChannelLayerRegistry, layer: BaseChannelLayer
) -> None:
    """get() returns the layer object that was registered."""
    registry.register("chat", layer)
    registry.register("other", BaseChannelLayer())
    assert registry.get("chat") is layer


def test_registering_again_replaces(
    registry: ChannelLayerRegistry, layer: BaseChannelLayer
) -> None:
    """An alias stands for the layer last registered with it."""
    registry.register("chat", BaseChannelLayer())
    registry.register("chat", layer)
    assert registry.get("chat") is layer
    assert len(registry) == 1


@pytest.mark.parametrize("alias", ["unknown", "", None])
def test_unknown_alias_stands_for_nothing(
    registry: ChannelLayerRegistry, layer: BaseChannelLayer, alias: str | None
) -> None:
    """get() returns None for an alias that is not registered, and for None."""
    registry.register("chat", layer)
    assert registry.get(alias) is None


def test_unregistering_removes_an_alias(
    registry: ChannelLayerRegistry, layer: BaseChannelLayer
) -> None:
    """An unregistered alias is unknown; unregistering it again does nothing."""
    registry.register("chat", layer)
    registry.unregister("chat")
    registry.unregister("chat")
    assert registry.get("chat") is None


def test_registry_is_a_collection_of_its_aliases(
    registry: ChannelLayerRegistry, layer: BaseChannelLayer
) -> None:
    """A registry can be counted, searched, iterated and cleared."""
    registry.register("chat", layer)
    registry.register("jobs", layer)
    assert list(registry) == ["chat", "jobs"]
    assert "chat" in registry
    assert "unknown" not in registry
    assert len(registry) == 2
    registry.clear()
    assert list(registry) == []
    assert len(registry) == 0


def test_repr_names_aliases_and_classes(registry: ChannelLayerRegistry) -> None:
    """The repr shows the class of each alias's layer."""
    assert repr(registry) == "<ChannelLayerRegistry []>"
    registry.register("chat", InMemoryChannelLayer())
    registry.register("jobs", BaseChannelLayer())
    assert repr(registry) == (
        "<ChannelLayerRegistry [chat=InMemoryChannelLayer, jobs=BaseChannelLayer]>"
    )


@pytest.mark.parametrize(
    ("alias", "value", "error", "message"),
    [
        (None, BaseChannelLayer(), TypeError, "must be a str, not None"),
        (5, BaseChannelLayer(), TypeError, "must be a str, not 5"),
        ("", BaseChannelLayer(), ValueError, "must not be empty"),
        (
            "chat",
            InMemoryChannelLayer,
            TypeError,
            r"'chat' must be .* is a class: write InMemoryChannelLayer\(\.\.\.\)",
        ),
        (
            "chat",
            {"BACKEND": "redis"},
            TypeError,
            "'chat' must be .* subclass of BaseChannelLayer, not {'BACKEND': 'redis'}",
        ),
        ("chat", None, TypeError, "'chat' must be an instance of .*, not None"),
    ],
)
def test_what_is_not_an_alias_or_not_a_layer_is_refused(
    registry: ChannelLayerRegistry,
    alias: Any,
    value: Any,
    error: type[Exception],
    message: str,
) -> None:
    """register() raises an error that says what is wrong, and registers nothing."""
    with pytest.raises(error, match=message):
        registry.register(alias, value)
    assert len(registry) == 0


def test_functions_use_the_registry_of_the_module(layer: BaseChannelLayer) -> None:
    """The functions register, find and unregister layers in ``channel_layers``."""
    assert not has_layers()
    register_channel_layer("chat", layer)
    assert has_layers()
    assert channel_layers.get("chat") is layer
    assert get_channel_layer("chat") is layer
    assert get_channel_layer("unknown") is None
    assert get_channel_layer(None) is None
    unregister_channel_layer("chat")
    unregister_channel_layer("chat")
    assert not has_layers()


def test_default_alias_is_default(layer: BaseChannelLayer) -> None:
    """get_channel_layer() without an alias returns the layer named ``default``."""
    assert get_channel_layer() is None
    register_channel_layer("default", layer)
    assert get_channel_layer() is layer


def test_item_is_the_layer_of_an_alias(
    registry: ChannelLayerRegistry, layer: BaseChannelLayer
) -> None:
    """registry[alias] returns the layer, or raises an error that lists the aliases."""
    with pytest.raises(InvalidChannelLayerError, match=r"'chat' \(registered: none\)"):
        registry["chat"]
    registry.register("chat", layer)
    registry.register("jobs", layer)
    assert registry["chat"] is layer
    with pytest.raises(
        InvalidChannelLayerError,
        match=r"^no layer is registered for the alias 'news' \(registered: 'chat', 'jo",
    ):
        registry["news"]
    assert registry.list_aliases() == ["chat", "jobs"]
