"""The layer of the examples passes the part of the contract that its flags promise."""

import pytest

from examples.own_layer import QueueLayer
from fast_channels.testing.contract import LayerContract, LayerOptions


class TestQueueLayer(LayerContract):
    carries_bytes = False
    drops_expired_messages = False
    serves_several_event_loops = False
    can_be_flushed = False
    keeps_statistics = False

    @pytest.fixture
    def layers(self, options: LayerOptions) -> tuple[QueueLayer, QueueLayer]:
        layer = QueueLayer(
            options.get("capacity", 100), options.get("channel_capacity")
        )
        return layer, layer
