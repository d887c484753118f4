import pytest


@pytest.fixture(autouse=True)
def layers(in_memory_channel_layers):
    return in_memory_channel_layers
