"""The layers that consumers are tested with."""

import pytest

from fast_channels.layers import InMemoryChannelLayer, register_channel_layer

from .fakes import Layer, QueueLayer


@pytest.fixture(params=[InMemoryChannelLayer, QueueLayer])
def layer(request: pytest.FixtureRequest) -> Layer:
    """Return the default layer: one of the library, or a third-party one."""
    layer: Layer = request.param()
    register_channel_layer("default", layer)
    return layer


@pytest.fixture(params=[InMemoryChannelLayer, QueueLayer, None])
def any_layer(request: pytest.FixtureRequest) -> Layer | None:
    """Return the default layer: of the library, third-party, or None."""
    layer: Layer | None = request.param and request.param()
    if layer is not None:
        register_channel_layer("default", layer)
    return layer
